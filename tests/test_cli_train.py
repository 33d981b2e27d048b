"""`dpo-numpy train` on small files: every loss and model, what is written, what is refused, and nothing left behind."""

import csv
import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dpo_numpy import cli, data, load
from dpo_numpy.cli import loop, models
from dpo_numpy.cli.options import Options
from dpo_numpy.cli.train import prepare, split
from dpo_numpy.gradient import read
from dpo_numpy.losses import LOSSES

pytestmark = pytest.mark.usefixtures("sketched")

PROMPTS = (
    "my order is late",
    "the parcel is broken",
    "i want my money back",
    "where is my bill",
    "close my account",
    "the app crashes",
)
CHOSEN = (
    "Sorry about that. I will look into it now.",
    "Thank you for telling us, a new one is on its way.",
    "Done: you will have it tomorrow.",
)
REJECTED = ("That is not our problem.", "no", "Read the terms!!", "Please wait")
WRITTEN = {
    "config.json",
    "env.json",
    "log.jsonl",
    "metrics.csv",
    "params.npz",
    "curves.png",
    "report.txt",
    "checkpoint.npz",
}


#: what a file and a policy cannot tell a loss, and how `train` says so
UNTOLD = {
    "beta_dpo": "needs m0, which neither the file nor the policy tells",
    "odpo": "needs score, which neither",
    "reward_rpo": "needs reward, which neither",
    "infonca": "needs score, which neither",
    "nca_listwise": "needs score, which neither",
    "bt_rm": "trains a reward model, and the model here is a policy",
    "pl_rm": "trains a reward model, and the model here is a policy",
}


def pairs(folder, name="pairs.jsonl"):
    rows = [{"prompt": prompt, "chosen": f"{CHOSEN[(i + k) % 3]} ({prompt})", "rejected": REJECTED[(2 * i + k) % 4]}
            for i, prompt in enumerate(PROMPTS) for k in range(2)]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(folder):
    rows = [{"prompt": prompt, "completion": text[i % len(text)] + f" {i}", "label": label}
            for i, prompt in enumerate(PROMPTS) for text, label in ((CHOSEN, True), (REJECTED, False))]
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(path, out, *words):
    return cli.main(["train", str(path), "--output_dir", str(out), "--max_steps", "4", *map(str, words)])


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


# ---- it trains

def test_one_command_trains_and_writes_everything(tmp_path, out, capsys, rendered):
    assert train(pairs(tmp_path), out, "--max_steps", 60) == 0
    said, lines = capsys.readouterr().out, log(out)
    assert {path.name for path in out.iterdir()} == WRITTEN
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[0]["loss"] == pytest.approx(np.log(2))
    assert lines[-1]["loss"] < 0.6
    assert lines[-1]["rewards/accuracies"] == pytest.approx(1)
    assert lines[-1]["rewards/margins"] == pytest.approx(lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"])
    assert lines[-1]["kl/reference"] > lines[2]["kl/reference"] > 0
    assert sum("eval_loss" in line for line in lines) == 20
    assert "eval_rewards/accuracies" in lines[-1]
    for expected in (
        "prompt, chosen, rejected",
        "kept     12 pairs",
        "held-out accuracy",
        "the longer one wins",
        "held-out margin",
        "mean length",
        "KL from the reference",
        "samples before training",
        "samples after training",
        "Expect little",
    ):
        assert expected in said
    assert "log-probs, training    chosen " in said
    assert said.rstrip() == (out / "report.txt").read_text().rstrip()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def trainings():
    """One loss of each kind, by what it reads and needs, in three ways; the others in one, where slow tests run"""
    kinds = set()
    for loss in (name for name in LOSSES if name not in UNTOLD):
        kind = LOSSES[loss]().reads, LOSSES[loss]().needs
        if kind in kinds:
            yield pytest.param(loss, (), marks=pytest.mark.slow)
        else:
            for options in ((), ("--batch_size", 4, "--dtype", "float32"), ("--model", "tabular")):
                yield pytest.param(loss, options)
        kinds.add(kind)


@pytest.mark.parametrize(("loss", "options"), list(trainings()))
def test_every_loss_trains(loss, options, tmp_path, out, capsys):
    if "label" in LOSSES[loss]().needs and "tabular" in options:
        assert train(pairs(tmp_path), out, "--loss", loss, *options) == 2
        assert "--model ngram" in capsys.readouterr().err
        return
    assert train(pairs(tmp_path), out, "--loss", loss, *options, "--max_steps", 8, "--learning_rate", 0.01) == 0
    lines = log(out)
    # sums of tokens and sums from counts may differ in the last bits
    room = 64 * float(np.finfo("float32" if "float32" in options else float).eps) * (loss == "ld_dpo")
    assert abs(lines[0]["rewards/chosen"]) <= room
    assert abs(lines[-1]["rewards/chosen"]) > room
    if not options:  # a whole batch each step and a small step: descent
        assert lines[-1]["loss"] < lines[0]["loss"]
    trained = models.load_trained(out / "params.npz")
    assert all(p.dtype == ("float32" if "float32" in options else "float64") for p in trained.params.values())


@pytest.mark.parametrize(("loss", "why"), UNTOLD.items())
def test_a_loss_that_must_be_told_more_says_so(loss, why, tmp_path, out, capsys):
    assert train(pairs(tmp_path), out, "--loss", loss) == 2
    assert why in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("loss", ["bco", "bco_unpaired", "mpo"])
def test_the_shift_of_bco_is_half_the_sum_of_the_mean_rewards(loss, tmp_path):
    options = Options(loss=loss, hyperparameters={"beta": 0.2}, eval_fraction=0.0)
    problem, *_ = prepare(load(pairs(tmp_path)), options)
    run = loop.Run(problem, options)
    params = {name: p + np.random.default_rng(0).normal(size=p.shape) for name, p in problem.reference.items()}
    batch = run._batch(problem.train)(params)
    logp = read(problem.policy, params, batch.responses, np.arange(len(batch.responses)), ["logp"])[0]["logp"]
    reward = 0.2 * (logp - batch.responses.facts["ref_logp"])[batch.index]
    if loss == "bco_unpaired":
        label = np.asarray(batch.facts["label"], bool)
        expected = (reward[label].mean() + reward[~label].mean()) / 2
    else:
        expected = reward.mean(axis=0).sum() / 2
    assert float(batch.fact("delta")) == pytest.approx(expected, rel=1e-12)


def test_the_weights_of_wpo_are_those_of_the_current_policy(tmp_path):
    options = Options(loss="wpo", hyperparameters={"beta": 0.2}, eval_fraction=0.0)
    problem, *_ = prepare(load(pairs(tmp_path)), options)
    params = {name: p + np.random.default_rng(0).normal(size=p.shape) for name, p in problem.reference.items()}
    batch = loop.Run(problem, options)._batch(problem.train)(params)
    part = batch.responses
    logits, _ = problem.policy.logits(params, part.tokens)
    for (b, k), row in np.ndenumerate(batch.index):
        terms = []
        for t in np.flatnonzero(part.mask[row]):
            p = np.exp(logits[row, t - 1]) / np.exp(logits[row, t - 1]).sum()
            terms.append(np.log(p[part.tokens[row, t]]) - np.log((p**2).sum()))
        assert batch.fact("w")[b, k] == pytest.approx(np.exp(np.mean(terms)), rel=1e-12)


@pytest.mark.parametrize("loss", ["kto", "sft", "sft_mean"])
def test_labelled_completions_train(loss, tmp_path, out, capsys, rendered):
    assert train(labelled(tmp_path), out, "--loss", loss, "--eval_fraction", 0.4, "--max_steps", 40) == 0
    lines, said = log(out), capsys.readouterr().out
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "held-out ranking" in said
    assert ("desired ones" in said) == (loss != "kto")
    if loss == "kto":
        assert lines[0]["loss"] == pytest.approx(0.5)
        assert lines[-1]["rewards/chosen"] > lines[-1]["rewards/rejected"]


def test_the_reference_point_of_kto_is_that_of_the_current_policy(tmp_path):
    """By its definition: each completion after the prompt of another, none below 0."""
    path = labelled(tmp_path)
    kto = Options(loss="kto", hyperparameters={"beta": 0.1}, eval_fraction=0.0)
    problem, _, options, _ = prepare(data.load(path), replace(kto, reference_data="chosen"))
    likelier = prepare(data.load(path), kto)[0].reference  # fitted to what was left out
    batch, rows = loop.Run(problem, options)._batch(problem.train), data.load(path).rows
    moved = data.to_preferences(
        [row._replace(prompt=far.prompt) for row, far in zip(rows, (*rows[5:], *rows[:5]), strict=True)], data.Bytes()
    )
    every, found = np.arange(len(moved.responses)), []
    for params in (problem.reference, likelier, {"W": 2 * problem.reference["W"] - likelier["W"]}):
        logp, ref_logp = (
            read(problem.policy, given, moved.responses, every, ["logp"])[0]["logp"]
            for given in (params, problem.reference)
        )
        found.append((float(batch(params).facts["z0"]), (logp - ref_logp)[moved.index[:, 0]].mean()))
    assert found[0][0] == 0
    assert min(mean for _, mean in found) < -0.1 < 0.1 < max(mean for _, mean in found)
    assert all(z0 == pytest.approx(max(0.0, mean)) for z0, mean in found)


def test_a_table_says_what_it_cannot_say(tmp_path, out, capsys, rendered):
    assert train(pairs(tmp_path), out, "--model", "tabular", "--learning_rate", 0.1, "--max_steps", 50) == 0
    said = capsys.readouterr().out
    assert "a table can say nothing about held-out prompts" in said
    assert "accuracy on its pairs  1.000" in said
    assert not any(name.startswith("eval_") for name in log(out)[-1])
    trained = models.load_trained(out / "params.npz")
    assert len(trained.meta["prompts"]) == len(PROMPTS)
    texts = trained.meta["responses"][0]
    row = trained.params["W"][0][:len(texts)]
    assert {texts[i] for i in np.argsort(row)[-2:]} == {f"{CHOSEN[k]} ({PROMPTS[0]})" for k in (0, 1)}


# ---- what is written can be used

@pytest.mark.parametrize("words", [(), ("--order", 3), ("--tokenizer", "words", "--vocab_limit", 20), ("--order", 1)])
def test_the_policy_comes_back_from_disk(words, tmp_path, out):
    path = pairs(tmp_path)
    assert train(path, out, *words, "--eval_fraction", 0, "--eval_steps", 4) == 0
    trained = models.load_trained(out / "params.npz")
    assert trained.tokenizer is not None
    rows = [row._replace(prompt="") for row in data.load(path).rows]
    held = data.to_preferences(rows, trained.tokenizer).with_reference(trained.policy, trained.reference)
    before = held.fact("ref_logp")[:, 0].mean()
    assert before == pytest.approx(log(out)[0]["logps/chosen"], rel=1e-12)
    p = np.exp(trained.params["W"] - np.logaddexp.reduce(trained.params["W"], axis=1, keepdims=True))
    assert p.shape == (trained.policy.rows, trained.policy.vocab)


def test_the_table_of_metrics_is_the_log(tmp_path, out):
    assert train(pairs(tmp_path), out) == 0
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(x) for name, x in row.items() if x} for row in rows] == [
        {name: float(x) for name, x in line.items()} for line in log(out)
    ]


def test_every_option_and_the_input_are_on_record(tmp_path, out):
    path = pairs(tmp_path)
    assert (
        train(
            path, out, "--loss", "simpo", "--gamma", 0.3, "--num-train-epochs", 2, "--batch_size", 4, "--max_steps", 1
        )
        == 2
    )  # both
    assert (
        cli.main(
            [
                "train",
                str(path),
                "--output_dir",
                str(out),
                "--loss",
                "simpo",
                "--gamma",
                "0.3",
                "--num-train-epochs",
                "2",
                "--batch-size",
                "4",
            ]
        )
        == 0
    )
    config = json.loads((out / "config.json").read_text())
    assert {
        name: config[name]
        for name in ("loss", "beta", "gamma", "batch_size", "num_train_epochs", "max_steps", "eval_fraction")
    } == {
        "loss": "simpo",
        "beta": 2.0,
        "gamma": 0.3,
        "batch_size": 4,
        "num_train_epochs": 2.0,
        "max_steps": 6,
        "eval_fraction": 0.2,
    }
    assert len(config["sha256"]) == 64
    assert [line["epoch"] for line in log(out)] == pytest.approx([0.4, 0.8, 1.0, 1.4, 1.8, 2.0])
    assert json.loads((out / "env.json").read_text())["numpy"] == np.__version__


def test_the_seed_decides_and_nothing_else(tmp_path, out):
    path = pairs(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(path, tmp_path / name, "--seed", seed, "--batch_size", 3) == 0
    read = {
        name: (tmp_path / name / "log.jsonl").read_bytes() + (tmp_path / name / "params.npz").read_bytes()
        for name in "abc"
    }
    assert read["a"] == read["b"] != read["c"]


def test_groups_are_held_out_whole(tmp_path):
    rows = data.load(pairs(tmp_path)).rows
    seen = set()
    for seed in range(8):
        kept, held, _ = split(rows, Options(seed=seed, eval_fraction=0.3))
        assert {row.group for row in kept}.isdisjoint(row.group for row in held)
        assert len(kept) + len(held) == len(rows)
        assert len({row.group for row in held}) == 2
        seen |= {row.group for row in held}
    assert len(seen) > 2


def test_reference_data_decides_what_the_reference_has_seen(tmp_path, out):
    path = pairs(tmp_path)
    for name in ("all", "chosen"):
        assert train(path, tmp_path / name, "--reference_data", name) == 0
    every, chosen = (log(tmp_path / name)[0] for name in ("all", "chosen"))
    assert chosen["logps/chosen"] > every["logps/chosen"]
    assert chosen["logps/rejected"] < every["logps/rejected"]


# ---- what is refused, and leaves nothing

@pytest.mark.parametrize(("words", "sentence"), [
    (["--beta", "0"], "beta is 0.0; expected a finite number above 0"),
    (["--beta", "nan"], "beta is nan"),
    (["--beta", "a"], "beta is 'a'; expected a number"),
    (["--loss", "doo"], "no loss is called 'doo'; did you mean dpo?"),
    (["--gamma", "1"], "dpo takes no --gamma; it takes --beta"),
    (["--loss", "sft_mean", "--beta", "1"], "sft_mean takes no --beta; it takes no hyper-parameters"),
    (["--loss", "ipo", "--reduction", "most"], "reduction is 'most'"),
    (["--order", "9"], "order is 9"),
    (["--order", "0"], "order is 0"),
    (["--learning_rate", "-1"], "learning_rate is -1.0"),
    (["--smoothing", "0"], "smoothing is 0"),
    (["--eval_fraction", "0.99"], "no pair is left to train on"),
    (["--eval_fraction", "1"], "eval_fraction is 1.0"),
    (["--batch_size", "0"], "batch_size is 0; expected at least 1"),
    (["--seed", "-1"], "seed is -1"),
    (["--model", "tabular", "--eval_fraction", "0.1"], "a table knows only its training prompts"),
    (["--votes", "nowhere.csv"], "nowhere.csv does not exist"),
    (["--resume", "--overwrite_output_dir"], "give one of them"),
])
def test_a_bad_option_is_one_sentence_and_leaves_nothing(words, sentence, tmp_path, out, capsys):
    assert train(pairs(tmp_path), out, *words) == 2
    said, err = capsys.readouterr()
    assert (said, err.count("\n")) == ("", 1)
    assert sentence in err
    assert not out.exists()


def scored(folder):
    path = folder / "scored.jsonl"
    path.write_text(
        json.dumps({f"{who}_{what}_logps": -1.0 for who in ("policy", "reference") for what in ("chosen", "rejected")})
    )
    return path


def truncated(folder):
    path = folder / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(pairs(folder).read_bytes())[:-20])
    return path


@pytest.mark.parametrize(("make", "words", "sentence"), [
    (lambda folder: folder / "nowhere.jsonl", [], "does not exist"),
    (lambda folder: folder, [], "is a folder"),
    (truncated, [], "truncated"),
    (scored, [], "no text"),
    (labelled, [], "use --loss kto"),
    (labelled, ["--model", "tabular", "--loss", "sft"], "--model ngram"),
])
def test_a_bad_file_is_one_sentence_and_leaves_nothing(make, words, sentence, tmp_path, out, capsys):
    assert train(make(tmp_path), out, *words) == 2
    said, err = capsys.readouterr()
    assert (said, err.count("\n")) == ("", 1)
    assert sentence in err
    assert not out.exists()


def test_a_step_too_long_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(tmp_path, out, capsys):
    assert train(pairs(tmp_path), out, "--learning_rate", 1e308) == 2
    assert "learning_rate 1e+308 is too large" in capsys.readouterr().err
    assert (out / "config.json").exists()
    assert not (out / "report.txt").exists()
    assert all(np.isfinite(line["loss"]) for line in log(out))


def test_one_group_is_trained_on_and_nothing_held_out(tmp_path, out, capsys, rendered):
    path = tmp_path / "one.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "p", "chosen": a, "rejected": b}) + "\n" for a in CHOSEN for b in REJECTED)
    )
    assert train(path, out) == 0
    assert json.loads((out / "config.json").read_text())["eval_fraction"] == 0
    assert "none held out" in capsys.readouterr().out


# ---- sums over all strings

@pytest.mark.parametrize("order", [1, 2, 3])
def test_kl_and_length_over_all_strings_are_exact(order, tmp_path, rng):
    path = tmp_path / "letters.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"p{i}", "chosen": "".join(rng.choice(list("ab"), 3)), "rejected": "c" * (i % 2 + 1)})
            + "\n"
            for i in range(8)
        )
    )
    problem, _, _, _ = prepare(
        data.load(path),
        Options(order=order, tokenizer="words", vocab_limit=9, eval_fraction=0.0, hyperparameters={"beta": 0.1}),
    )
    params = {"W": problem.reference["W"] + rng.normal(size=problem.reference["W"].shape)}
    params["W"][:, 0] += 2
    found = problem.whole(params)
    drawn = models._sampled(problem.policy, params, problem.reference, rng, 4000, 500)
    assert found.samples is None
    assert found.length == pytest.approx(drawn.length, abs=4 * drawn.length_error)
    assert found.kl == pytest.approx(drawn.kl, abs=4 * drawn.kl_error)


def test_a_bigram_agrees_with_the_closed_form(tmp_path, rng):
    from analytic import ngram as exact

    problem, _, _, _ = prepare(data.load(pairs(tmp_path)), Options(hyperparameters={"beta": 0.1}))
    params = {"W": problem.reference["W"] + 0.5 * rng.normal(size=problem.reference["W"].shape)}
    rows = problem.policy.logits({"W": np.arange(problem.policy.rows)[:, None]}, np.arange(257)[:, None])[0][:, 0, 0]
    p, q = (
        np.exp(W - np.logaddexp.reduce(W, axis=1, keepdims=True))[rows] for W in (params["W"], problem.reference["W"])
    )
    found = problem.whole(params)
    assert found.kl == pytest.approx(exact.kl(p, q), rel=1e-9)
    assert found.length == pytest.approx(exact.expected_length(p) + 1, rel=1e-9)


def test_a_policy_that_hardly_ends_is_estimated_from_samples(tmp_path):
    problem, _, _, _ = prepare(data.load(pairs(tmp_path)), Options(hyperparameters={"beta": 0.1}, max_new_tokens=50))
    params = {"W": problem.reference["W"].copy()}
    params["W"][:, 0] = -1000
    found = problem.whole(params)
    assert found.samples
    assert (found.length, found.length_error) == (50, 0)
    assert found.kl > 0
    assert found.kl_error > 0


@pytest.mark.parametrize("name", ["oasst_en_100_tree.jsonl.gz", "hh_harmless_test.jsonl.gz"])
@pytest.mark.slow
def test_real_data_train_by_default(name, data_dir, out):
    assert cli.main(["train", str(data_dir / name), "--output_dir", str(out)]) == 0
    lines = log(out)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0.3 < lines[-1]["eval_rewards/accuracies"] < 0.7
    shutil.rmtree(out)
