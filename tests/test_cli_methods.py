"""`dpo-numpy train --method`: what each method learns, what it logs, that it is the trainer, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from test_cli_resume import kill_at
from test_cli_train import WRITTEN, labelled, log, pairs

import dpo_numpy as dn
from dpo_numpy import cli, data
from dpo_numpy.cli import models, worlds
from dpo_numpy.cli.options import Options
from dpo_numpy.cli.train import prepare
from dpo_numpy.numerics import log_softmax
from dpo_numpy.surrogates import SURROGATES
from dpo_numpy.trainers import (
    train_grpo,
    train_online_dpo,
    train_ppo,
    train_reward_model,
    train_rloo,
    train_sft,
)
from toy_models import NGram, Tabular, bandit

BETA = {"bandit": 0.5, "strings": 1.0}
REWARD = np.array(worlds.BANDIT)
SAMPLING = ("rloo", "grpo", "ppo", "online_dpo")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """Half of the time of a short run is its picture: only tests named for it draw."""
    if "draw" not in request.node.name:
        monkeypatch.setattr("dpo_numpy.cli.train.draw", lambda lines, run, file: file.write(b"not drawn"))


def train(out, *words):
    return cli.main(["train", "--output_dir", str(out), *map(str, words)])


def policy_of(out, name="policy/W"):
    return np.load(out / "params.npz")[name]


# ---- what each learns: exact, by the formulas and not by the code that reports it

def bandit_value(W, beta):
    """E r - β KL(π || uniform), and the largest there is: β log Σ e^(r/β)/5"""
    p = np.exp(log_softmax(W))
    value = (p * (REWARD - beta * (np.log(p) + np.log(5)))).sum(axis=1).mean()
    return value, (beta * np.log(np.exp(REWARD / beta).mean(axis=1))).mean()


def strings_value(W, beta, longest=200):
    """The same of the bigram, token by token: what is gained until the end, strings being cut where none are left"""
    p, ref, pay = np.exp(log_softmax(W)), np.array(worlds.SPEECH), np.array(worlds.PAY)
    here, value, Z = np.array([1.0, 0, 0]), 0.0, 0.0
    weight = here.copy()
    for _ in range(longest):
        value += here @ (p * (pay - beta * np.log(p / ref))).sum(axis=1)
        here, flow = here @ p, weight @ (ref * np.exp(pay / beta))
        Z += flow[0]
        here[0] = flow[0] = 0
        weight = flow
    return value, beta * np.log(Z)


@pytest.mark.parametrize(("world", "method"), [
    *((world, method) for world in BETA for method in ("dpo", "sft", "rm", *SAMPLING)),
    *((world, method) for world in ("brackets", "sums") for method in SAMPLING),
])
def test_every_method_learns_on_every_world_that_allows_it(world, method, out, capsys):
    steps = 60 if world == "sums" else 40
    assert train(out, "--world", world, "--method", method.replace("_", "-"), "--max_steps", steps) == 0
    lines, said = log(out), capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == WRITTEN
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert f"world    {world}: " in said
    if method == "rm":
        assert lines[-1]["reward/error"] < 0.3 * lines[1]["reward/error"]
        assert lines[-1]["accuracy"] > 0.6
        assert "held-out accuracy" in said
        assert not {"kl/reference", "J"} & {*lines[-1]}
        return
    first, last = lines[0], lines[-1]
    assert "samples before training" in said
    assert last["reward/expected"] > {"bandit": 0.3, "strings": 0.3, "brackets": 0.3, "sums": 0.2}[world]
    if method == "sft":
        assert last["loss"] < first["loss"]
        assert "J" not in last
        return
    assert last["J"] > first.get("J", {"bandit": 0.1333, "strings": 0.25}.get(world, 0)) + 0.1
    assert "the largest of any policy" in said
    if world in BETA:
        of = bandit_value if world == "bandit" else strings_value
        value, best = of(policy_of(out), BETA[world])
        assert last["J"] == pytest.approx(value, rel=1e-9)
        assert last["kl/optimum"] == pytest.approx((best - value) / BETA[world], rel=1e-7, abs=1e-12)
        assert f"J* = {best:.4f}" in said
        assert "reward                 0." in said
    else:
        assert "accuracy               0." in said
    if method in SAMPLING:
        names = {"reward", "reward_std", "frac_reward_zero_std", "kl", "completions/mean_length", "samples"}
        assert names <= {*first}
        assert (first["kl"], first["samples"]) == (0, last["samples"] // (steps // (4 if method == "ppo" else 1)))
        assert ("loss/value_avg" in last) == (method == "ppo")
        assert ("critic/W" in np.load(out / "params.npz").files) == (method == "ppo")


def test_accuracy_on_sums_is_that_of_the_policy(out, capsys):
    assert train(out, "--world", "sums", "--method", "grpo", "--group_size", 4, "--max_steps", 30) == 0
    p, right = np.exp(log_softmax(policy_of(out))), 0.0
    for a in range(1, 6):
        for b in range(1, 6):
            c = (a + b - 2) % 5 + 1
            right += p[6 + 7 * b + 49 * a, c] * p[c + 7 * 6 + 49 * b, 0] / 25  # 6 is =
    assert log(out)[-1]["reward/expected"] == pytest.approx(right, rel=1e-12)
    assert f"accuracy               {1 / 49:.4f} before, {right:.4f} after   exact" in capsys.readouterr().out


def test_dpo_and_the_reward_model_arrive_at_what_the_world_is(tmp_path):
    assert train(tmp_path / "dpo", "--world", "bandit", "--optimizer", "sgd", "--learning_rate", 12) == 0
    best = np.exp(REWARD / 0.5) / np.exp(REWARD / 0.5).sum(axis=1, keepdims=True)
    assert np.exp(log_softmax(policy_of(tmp_path / "dpo"))) == pytest.approx(best, abs=1e-4)
    assert train(tmp_path / "rm", "--world", "bandit", "--method", "rm") == 0
    W = policy_of(tmp_path / "rm")
    error = (W - W.mean(axis=1, keepdims=True)) - (REWARD - REWARD.mean(axis=1, keepdims=True))
    assert abs(error).max() < 1e-4
    assert log(tmp_path / "rm")[-1]["reward/error"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)


def test_where_no_optimum_exists_the_report_says_from_where_on(out, capsys):
    assert train(out, "--world", "strings", "--method", "rloo", "--beta", 0.3, "--max_steps", 2) == 0
    said, radius = capsys.readouterr().out, {}
    least = float(said.split("there is one for beta above ")[1].split()[0])
    for beta in (least * 0.999, least * 1.001):
        table = np.array(worlds.SPEECH) * np.exp(np.array(worlds.PAY) / beta)
        radius[beta > least] = abs(np.linalg.eigvals(table[1:, 1:])).max()
    assert radius[False] > 1 > radius[True]
    assert "kl/optimum" not in log(out)[-1]


# ---- it is the trainer, and every flag arrives

TABLE, FLAT, TASK = Tabular(vocab=5, prompts=3), {"W": np.zeros((3, 5))}, bandit(worlds.BANDIT).task()
BIGRAM, SPEECH = NGram(vocab=3), {"W": np.log(worlds.SPEECH)}
SPOKEN = dn.Task([[0]] * 4, lambda said: [sum(worlds.PAY[i] for i in row[1:]) for row in said.tokens.tolist()], 64)


def last_of(steps, n):
    return next(islice(steps, n - 1, n))


@pytest.mark.parametrize(("words", "steps"), [
    ("rloo --num_generations 3 --beta 0.2 --num_iterations 2",
     lambda rng: train_rloo(TABLE, FLAT, TASK, dn.adam(0.1), rng, group=3, beta=0.2, epochs=2)),
    ("grpo --num_generations 3 --beta 0.2 --num_iterations 2 --epsilon 0.05 --scale_rewards false",
     lambda rng: train_grpo(TABLE, FLAT, TASK, dn.adam(0.1), rng, group=3, scale="none", epochs=2,
                            loss=SURROGATES["grpo"](eps=0.05, beta=0.2))),
    ("grpo --optimizer sgd --learning_rate 0.3 --seed 4 --beta 0",
     lambda rng: train_grpo(TABLE, FLAT, TASK, dn.sgd(0.3), rng, loss=SURROGATES["grpo"](beta=0))),
    ("ppo --world strings --num_generations 2 --beta 0.2 --num_iterations 3 --epsilon 0.05 --gamma 0.9 --lam 0.5 "
     "--vf_learning_rate 0.2",
     lambda rng: train_ppo(BIGRAM, SPEECH, BIGRAM, {"W": np.zeros((3, 3))}, SPOKEN, dn.adam(0.1), dn.adam(0.2), rng,
                           group=2, beta=0.2, epochs=3, loss=SURROGATES["ppo_clip"](eps=0.05), gamma=0.9, lam=0.5)),
    ("online-dpo --num_generations 3 --beta 0.2 --num_iterations 2 --labels sampled",
     lambda rng: train_online_dpo(TABLE, FLAT, TASK, dn.adam(0.1), rng, group=3, epochs=2, labels="sampled",
                                  loss=dn.LOSSES["dpo"](beta=0.2))),
])
def test_a_run_is_the_trainer_with_what_the_flags_say(words, steps, out):
    world = () if "--world" in words else ("--world", "bandit")
    assert train(out, *world, "--max_steps", 7, "--method", *words.split()) == 0
    seed = 4 if "--seed" in words else 0
    step = last_of(steps(np.random.default_rng([seed, 1])), 7)
    assert np.array_equal(policy_of(out), step.params["W"])
    if "ppo" in words.split()[0]:
        assert np.array_equal(policy_of(out, "critic/W"), step.critic_params["W"])
    last, reward = log(out)[-1], np.asarray(step.rollout.facts["reward"])
    assert last["reward"] == pytest.approx(reward.mean(), rel=1e-12)
    assert last["reward_std"] == pytest.approx(np.mean([row.std(ddof=1) for row in reward]), rel=1e-12)
    assert last["frac_reward_zero_std"] == np.mean([len({*row}) == 1 for row in reward.tolist()])
    assert last["loss"] == step.value


def test_more_prompts_a_step_are_more_rollouts_of_the_same_prompts(out):
    assert train(out, "--world", "bandit", "--method", "rloo", "--batch_size", 6, "--max_steps", 2) == 0
    assert [line["samples"] for line in log(out)] == [24, 48]
    twice = TASK._replace(prompts=[prompt for prompt in TASK.prompts for _ in range(2)])
    step = last_of(train_rloo(TABLE, FLAT, twice, dn.adam(0.1), np.random.default_rng([0, 1]), beta=0.5), 2)
    assert np.array_equal(policy_of(out), step.params["W"])


@pytest.mark.parametrize("method", ["sft", "rm"])
def test_methods_of_given_data_are_their_trainers(method, out):
    assert train(out, "--world", "bandit", "--method", method, "--max_steps", 5) == 0
    trainer = {"sft": train_sft, "rm": train_reward_model}[method]
    step = last_of(trainer(TABLE, FLAT, [bandit(worlds.BANDIT).population()] * 5, dn.adam(0.1)), 5)
    assert policy_of(out) == pytest.approx(step.params["W"], rel=1e-12, abs=1e-15)


def test_dpo_is_the_default_and_sft_is_its_loss(tmp_path):
    path = pairs(tmp_path)
    for name, words in {"a": (), "b": ("--method", "dpo"), "c": ("--loss", "sft"), "d": ("--method", "sft")}.items():
        assert train(tmp_path / name, path, "--max_steps", 3, *words) == 0
    for one, other in ("ab", "cd"):
        assert (tmp_path / one / "log.jsonl").read_bytes() == (tmp_path / other / "log.jsonl").read_bytes()


# ---- a file, its reward model, and what is made of both

@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    path = pairs(folder)
    assert train(folder / "rm", path, "--method", "rm", "--max_steps", 30, "--learning_rate", 0.05) == 0
    return path, folder / "rm"


def test_the_reward_model_ranks_held_out_pairs_by_its_rewards(judged):
    path, rm = judged
    trained = models.load_trained(rm / "params.npz")
    _, held, _, _ = prepare(data.load(path), Options(method="rm", loss="bt_rm"))
    reward = dn.reward_model(trained.policy, trained.params)
    worth = np.array([reward(data.to_preferences([row._replace(prompt="")], data.Bytes()).responses) for row in held])
    right = (worth[:, 0] > worth[:, 1]).mean()
    report, first, last = (rm / "report.txt").read_text(), log(rm)[0], log(rm)[-1]
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-12)
    assert first["min_reward"] == first["max_reward"] == 0
    assert f"held-out accuracy      {right:.3f}" in report
    assert last["eval_accuracy"] == pytest.approx(right)
    assert last["eval_margin"] == pytest.approx((worth[:, 0] - worth[:, 1]).mean(), rel=1e-9)
    assert f"held-out margin        {last['eval_margin']:+.3f}" in report
    assert (last["eval_min_reward"], last["eval_max_reward"]) == pytest.approx((worth.min(), worth.max()), rel=1e-9)
    assert (trained.params["W"] != 0).any()


@pytest.mark.parametrize("method", SAMPLING)
def test_a_file_and_its_reward_model_train_a_policy(method, judged, out, capsys):
    path, rm = judged
    assert train(out, path, "--method", method, "--reward_model", rm, "--max_steps", 4, "--batch_size", 2,
                 "--num_iterations", 2, "--max_new_tokens", 40, "--learning_rate", 0.02) == 0
    said, last = capsys.readouterr().out, log(out)[-1]
    trained, judge = (models.load_trained(folder / "params.npz") for folder in (out, rm))
    rng = np.random.default_rng(5)
    drawn = dn.sample(trained.policy, trained.params, [[0]] * 2000, rng, 2000)
    reward = dn.reward_model(judge.policy, judge.params)(drawn)
    assert last["reward/expected"] == pytest.approx(reward.mean(), abs=5 * reward.std() / np.sqrt(2000))
    assert "after   exact" in said
    assert "samples after training" in said
    assert 0 <= last["completions/clipped_ratio"] <= 1
    assert json.loads((out / "config.json").read_text())["reward_model"] == str(rm)
    if method in ("rloo", "ppo"):  # those with the KL in the reward: the gradient of J, in expectation
        assert last["reward/expected"] > float(said.split("reward                 ")[1].split()[0])


@pytest.mark.parametrize("words", [
    "--world bandit", "--world strings --method sft", "--world bandit --method rm", "--world bandit --method ppo",
    "--world strings --method rloo --beta 0.3", "FILE --method rm", "FILE --method grpo --reward_model RM",
])
def test_every_kind_of_run_is_drawn(words, judged, out):
    places = {"FILE": judged[0], "RM": judged[1]}
    assert train(out, *(places.get(word, word) for word in words.split()), "--max_steps", 3, "--max_new_tokens", 9) == 0
    picture = (out / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


# ---- killed and resumed

def start(out, *words):
    return subprocess.Popen([sys.executable, "-m", "dpo_numpy", "train", "--output_dir", str(out), *map(str, words)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
@pytest.mark.parametrize(("words", "epochs"), [
    (("--world", "bandit", "--method", "grpo", "--max_grad_norm", 0.5), 1),
    (("--world", "strings", "--method", "ppo", "--num_iterations", 5), 5),
])
def test_killed_between_and_within_rollouts_it_ends_at_the_same_bits(words, epochs, tmp_path):
    words = (*words, "--max_steps", 108, "--eval_steps", 20)
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert train(whole, *words) == 0
    kill_at(start(out, *words, "--save_seconds", 0), out, 33)
    assert not (out / "report.txt").exists(), "it was too fast to be killed: take more steps"
    process = start(out, *words, "--resume")
    said, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    at = int(said.split("resumed at step ")[1].split()[0])
    assert at >= 30
    assert at % epochs == 0
    for name in ("log.jsonl", "metrics.csv", "params.npz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    with np.load(out / "checkpoint.npz") as held:
        assert any(name.startswith("critic_state/") for name in held.files) == (epochs == 5)
    os.remove(out / "report.txt")  # all steps are done, in the middle of a rollout
    assert train(out, *words, "--resume") == 0
    assert (out / "params.npz").read_bytes() == (whole / "params.npz").read_bytes()


def test_another_method_or_reward_model_is_not_resumed(judged, out, capsys):
    path, rm = judged
    words = (path, "--reward_model", rm, "--max_steps", 1, "--max_new_tokens", 5)
    assert train(out, *words, "--method", "rloo") == 0
    assert train(out, *words, "--method", "grpo", "--resume") == 2
    assert "method is grpo, but the run to resume was started with rloo" in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({name: told for name, told in config.items() if name != "method"}))
    assert train(out, *words, "--method", "rloo", "--resume") == 0
    other = out.parent / "other"
    assert train(other, path, "--method", "rm", "--max_steps", 2) == 0
    assert train(out, path, "--reward_model", other, "--method", "rloo", "--resume") == 2
    assert "reward_model has changed since the run began" in capsys.readouterr().err


# ---- what is refused, and leaves nothing

@pytest.mark.parametrize(("words", "sentence"), [
    ("--world bandit --method grop", "no method is called 'grop'; did you mean grpo?"),
    ("--world bandits", "no world is called 'bandits'; did you mean bandit?"),
    ("--world bandit FILE", "either FILE or --world NAME, and got both"),
    ("--world sums", "dpo learns from pairs, and sums has a rule and nobody who compares"),
    ("--world brackets --method rm", "rm learns from pairs, and brackets has a rule"),
    ("--world bandit --loss kto", "kto learns from single completions with labels, and bandit has pairs"),
    ("--world bandit --method sft --loss dpo", "sft takes no --loss"),
    ("--world bandit --method rloo --epsilon 0.1",
     "rloo takes no --epsilon; it takes --num_generations, --beta, --num_iterations"),
    ("--world bandit --group_size 4", "dpo takes no --num_generations; it takes --beta"),
    ("--world bandit --method grpo --epsilon 1", "epsilon is 1.0; expected above 0 and below 1"),
    ("--world bandit --method ppo --gamma 2", "gamma is 2.0; expected a number from 0 to 1"),
    ("--world bandit --method rloo --beta -1", "beta is -1.0; expected at least 0"),
    ("--world bandit --method grpo --scale_rewards maybe", "scale_rewards is 'maybe'; expected true or false"),
    ("--world bandit --method rloo --group_size 1", "num_generations is 1; expected at least 2: rloo compares"),
    ("--world bandit --method grpo --group_size 1", "num_generations is 1; expected at least 2: grpo compares"),
    ("--world bandit --method online-dpo --group_size 1", "num_generations is 1; expected at least 2: online_dpo"),
    ("--world bandit --method ppo --num_ppo_epochs 0", "num_iterations is 0; expected at least 1"),
    ("--world bandit --method ppo --vf_learning_rate 0", "vf_learning_rate is 0.0"),
    ("--world bandit --method grpo --batch_size 4", "batch_size is 4; expected a multiple of 3"),
    ("--world bandit --method grpo --num_train_epochs 2", "grpo makes its own data and knows no epochs"),
    ("--world bandit --order 3", "--world bandit takes no --order"),
    ("--world bandit --strict", "--world bandit takes no --strict"),
    ("--world bandit --method ppo --reward_model RM", "--world bandit takes no --reward_model"),
    ("FILE --method ppo", "ppo on a FILE needs --reward_model"),
    ("FILE --method sft --reward_model RM", "sft takes no --reward_model"),
    ("FILE --method ppo --reward_model nowhere", "reward_model is nowhere, which holds no finished run"),
    ("FILE --method ppo --reward_model RM --order 3", "a 2-gram of bytes, and the policy would be a 3-gram of bytes"),
    ("FILE --method ppo --reward_model RM --tokenizer words", "the policy would be a 2-gram of words"),
    ("FILE --method ppo --reward_model RM --model tabular", "ppo on a FILE samples from an n-gram"),
    ("LABELLED --method rm", "bt_rm compares pairs, and the file holds single completions"),
])
def test_what_makes_no_sense_is_one_sentence_and_leaves_nothing(words, sentence, judged, tmp_path, out, capsys):
    places = {"FILE": judged[0], "RM": judged[1], "LABELLED": labelled(tmp_path)}
    capsys.readouterr()
    assert train(out, *(places.get(word, word) for word in words.split())) == 2
    said, err = capsys.readouterr()
    assert (said, err.count("\n")) == ("", 1)
    assert sentence in err
    assert not out.exists()


def test_a_reward_model_of_another_kind_is_refused(judged, tmp_path, out, capsys):
    path, rm = judged
    for name, words, sentence in (
        ("dpo", (path,), "a run of --method dpo; expected one of --method rm on a FILE"),
        ("world", ("--world", "bandit", "--method", "rm"), "a run of --world bandit; expected one"),
        ("table", (path, "--method", "rm", "--model", "tabular"), "a table of the responses it was shown"),
        ("words", (path, "--method", "rm", "--tokenizer", "words", "--vocab_limit", 9), "knows other words than"),
    ):
        assert train(tmp_path / name, *words, "--max_steps", 1) == 0
        more = ("--tokenizer", "words") if name == "words" else ()
        assert train(out, path, "--method", "ppo", "--reward_model", tmp_path / name, *more) == 2
        assert sentence in capsys.readouterr().err
    assert train(rm, path, "--method", "ppo", "--reward_model", rm, "--overwrite_output_dir") == 2
    assert "where the reward model is" in capsys.readouterr().err
    (tmp_path / "dpo" / "config.json").write_text((rm / "config.json").read_text())
    (tmp_path / "dpo" / "params.npz").write_bytes(b"PK\x03\x04 torn")
    assert train(out, path, "--method", "ppo", "--reward_model", tmp_path / "dpo") == 2
    assert "params.npz cannot be read" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("words", "sentence"), [
    ("rloo --learning_rate 1e308", "learning_rate 1e+308 is too large"),
    ("ppo --vf_learning_rate 1e308", "vf_learning_rate 1e+308 is too large"),
])
def test_a_step_too_long_stops_with_a_sentence(words, sentence, out, capsys):
    assert train(out, "--world", "bandit", "--method", *words.split()) == 2
    assert sentence in capsys.readouterr().err
    assert not (out / "report.txt").exists()


def test_worlds_come_back_from_disk(tmp_path):
    for world, kind in (("bandit", Tabular), ("sums", NGram)):
        words = ("--world", world, "--method", "rloo", "--max_steps", 1, "--dtype", "float32")
        assert train(tmp_path / world, *words) == 0
        trained = models.load_trained(tmp_path / world / "params.npz")
        assert isinstance(trained.policy, kind)
        assert trained.params["W"].dtype == "float32"
        assert trained.policy.logits(trained.params, np.array([[0, 1]]))[0].shape == (1, 2, trained.policy.vocab)
