"""The data file against the registry; its page; the formulas of other libraries, written out, against what it says."""

import inspect
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from dpo_numpy import conformance
from dpo_numpy.conformance.conventions import INPUTS, facts_of, load, loss_of, markdown, value
from dpo_numpy.losses import LOSSES

ROOT = Path(__file__).parents[1]
EPS = np.finfo(float).eps
ENTRIES = load()


def only(library, option, versions=None):
    found = [c for c in ENTRIES if c.library == library and c.option == option and versions in (None, c.versions)]
    assert len(found) == 1
    return found[0]


# ---- the file

@pytest.mark.parametrize("c", ENTRIES, ids=lambda c: f"{c.library} {c.option} {c.versions}")
def test_an_entry(c):
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", c.source["repository"])
    assert re.fullmatch(r"[0-9a-f]{7,9}|v\d+\.\d+\.\d+", c.source["at"])
    assert c.note.endswith(".") or not c.note
    if c.ours is None:
        assert c.note
        with pytest.raises(ValueError, match="is no sum of losses here"):
            loss_of(c)
        return
    for term in c.ours:
        assert set(term.hyper) <= set(inspect.signature(LOSSES[term.loss]).parameters)
        assert set(term.facts) <= set(LOSSES[term.loss]().needs)
        # a word is an option of the library or a choice of ours, and not both
        words = [x for x in term.hyper.values() if isinstance(x, str)]
        assert all((x in c.options) != (x in WORDS) for x in words)
    unused = set(c.options) - {x for term in c.ours for x in term.hyper.values()}
    assert not unused or "gnored" in c.note
    assert np.isfinite(value(c))


WORDS = {p.default for factory in LOSSES.values() for p in inspect.signature(factory).parameters.values()} | {
    "mean", "tokens", "ratio", "full", "outside", "order", "prompt_and_completion", "reverse_kl", "squared"}


def test_no_entry_stands_there_twice():
    keys = [(c.topic, c.library, c.versions, c.option) for c in ENTRIES]
    assert len(set(keys)) == len(keys)


def test_the_page_is_made_of_the_file():
    assert (ROOT / "CONVENTIONS.md").read_text(encoding="utf-8") == markdown()


def broken(**changes):
    first = json.loads(files(conformance).joinpath("conventions.json").read_text(encoding="utf-8"))[0]
    return json.dumps([{**first, **changes}])


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"ours": [{"loss": "dpo2"}]}, "names the loss 'dpo2'; expected one of dpo, cdpo"),
    ({"ours": [{"loss": "dpo", "hyper": {"eps": 0.1}}]}, "sets 'eps' of dpo; expected one of beta"),
    ({"extra": 1}, "has the fields .*, extra; expected topic"),
])
def test_a_wrong_entry_is_named(changes, sentence):
    with pytest.raises(ValueError, match=rf"^entry 1, original DPO code 'sigmoid / dpo', {sentence}"):
        load(broken(**changes))


def test_options_are_those_of_the_library():
    simpo = only("SimPO code", "gamma_beta_ratio")
    assert repr(loss_of(simpo, beta=3.0)) == "simpo(beta=3, gamma=0.5, scale=ratio, eps=0)"
    with pytest.raises(ValueError, match="gamma_beta_ratio has no option 'gamma'; expected one of beta, gamma"):
        loss_of(simpo, gamma=1.0)


# ---- what other libraries compute, written out from their source, at other settings than the page's

def ls(x):
    return -np.logaddexp(0, -x)


def sg(x):
    return 1 / (1 + np.exp(-x))


RNG = np.random.default_rng(0)
LP, RLP, LEN = -RNG.uniform(5, 40, (6, 2)), -RNG.uniform(5, 40, (6, 2)), RNG.integers(3, 30, (6, 2))
A, B_ = (LP - RLP).T
H = A - B_
MEAN = LP / LEN

THEIRS = [
    ("original DPO code", "label_smoothing", None, {"beta": 0.3, "label_smoothing": 0.2},
     lambda: -ls(0.3 * H) * 0.8 - ls(-0.3 * H) * 0.2),
    ("TRL", "loss_type=sigmoid label_smoothing", ">= 0.29", {"beta": 0.3, "label_smoothing": 0.2},
     lambda: -ls(0.3 * H)),
    ("TRL", "loss_type=robust", None, {"beta": 0.3, "label_smoothing": 0.2},
     lambda: (-ls(0.3 * H) * 0.8 + ls(-0.3 * H) * 0.2) / 0.6),
    ("original DPO code", "ipo", None, {"loss.beta": 0.3}, lambda: (H - 1 / 0.6) ** 2),
    ("TRL", "loss_type=ipo", None, {"beta": 0.3}, lambda: (A / LEN[:, 0] - B_ / LEN[:, 1] - 1 / 0.6) ** 2),
    ("TRL", "sppo_hard", None, {"beta": 0.3}, lambda: (A - 0.5 / 0.3) ** 2 + (B_ + 0.5 / 0.3) ** 2),
    ("SPPO code", "sppo", None, {"beta": 0.3}, lambda: ((A - 0.5 / 0.3) ** 2 + (B_ + 0.5 / 0.3) ** 2) / 2),
    ("TRL", "nca_pair", None, {"beta": 0.3}, lambda: -ls(0.3 * A) - 0.5 * ls(-0.3 * A) - 0.5 * ls(-0.3 * B_)),
    ("TRL", "apo_zero", None, {"beta": 0.3}, lambda: 1 - sg(0.3 * A) + sg(0.3 * B_)),
    ("TRL", "apo_down", None, {"beta": 0.3}, lambda: sg(0.3 * A) + 1 - sg(0.3 * H)),
    ("rlhf-book", "apo_zero", None, {"beta": 0.3}, lambda: -sg(0.3 * A) + sg(0.3 * B_)),
    ("TRL", "discopop", None, {"beta": 0.05, "discopop_tau": 0.5},
     lambda: -ls(0.05 * H) * (1 - sg(0.1 * H)) + np.exp(-0.05 * H) * sg(0.1 * H)),
    ("DiscoPOP code", "lrml, older version", None, {"beta": 0.05},
     lambda: -ls(0.05 * H) * (1 - sg(H)) + np.exp(-0.05 * H) * sg(H)),
    ("f-DPO code", "alpha", None, {"beta": 0.02, "alpha": 0.05},
     lambda: -ls(0.02 * (-np.exp(A) ** -0.05 / 0.05 + np.exp(B_) ** -0.05 / 0.05))),
    ("TRL", "alpha_divergence", ">= 0.29", {"beta": 0.02, "f_alpha_divergence_coef": 0.95},
     lambda: -ls(0.02 * ((np.exp(A) ** -0.05 - 1) / -0.05 - (np.exp(B_) ** -0.05 - 1) / -0.05))),
    ("mlx-lm-lora", "dpop delta", None, {"beta": 0.3, "delta": 4.0}, lambda: -ls(0.3 * H) + 4 * np.maximum(0, -A)),
    ("oat", "dpop", None, {"beta": 0.3, "lam": 4.0}, lambda: -ls(0.3 * (H - 4 * np.maximum(0, -A)))),
    ("oat", "r_dpo / len_reg_alpha", None, {"beta": 0.3, "len_reg_alpha": 0.2},
     lambda: -ls(0.3 * H + 0.2 * (LEN[:, 0] - LEN[:, 1]))),
    ("LLMs-from-scratch", "compute_dpo_loss", None, {"beta": 0.3}, lambda: -ls(0.3 * (MEAN - RLP / LEN) @ [1, -1])),
    ("LLaMA-Factory", "pref_ftx", None, {"pref_beta": 0.3, "pref_ftx": 0.7}, lambda: -ls(0.3 * H) - 0.7 * MEAN[:, 0]),
    ("NeMo-RL", "sft_loss_weight", None, {"beta": 0.3, "sft_loss_weight": 0.7}, lambda: -ls(0.3 * H) - 0.7 * LP[:, 0]),
    ("TRL", "CPOTrainer loss_type=simpo", None, {"beta": 3.0, "simpo_gamma": 0.9},
     lambda: -ls(3 * (MEAN @ [1, -1] - 0.9 / 3))),
    ("rlhf-book", "gamma", None, {"beta": 3.0, "gamma": 0.9}, lambda: -ls(3 * (MEAN @ [1, -1] - 0.9))),
    ("SimPO code", "gamma_beta_ratio", None, {"beta": 3.0, "gamma_beta_ratio": 0.9},
     lambda: -ls(3 * (MEAN @ [1, -1] - 0.9))),
    ("TRL", "CPOTrainer alpha", None, {"beta": 3.0, "simpo_gamma": 0.9, "alpha": 0.4},
     lambda: -ls(3 * ((1 - np.exp(MEAN) ** -0.4) / 0.4) @ [1, -1] - 0.9)),
    ("LLaMA-Factory", "pref_loss=orpo", None, {"pref_beta": 0.3}, lambda: -MEAN[:, 0] - 0.3 * ls(
        (MEAN - np.log1p(-np.exp(MEAN))) @ [1, -1])),
    ("HALOs", "SLiCTrainer", None, {"beta": 2.0, "lambda_coef": 0.3},
     lambda: np.maximum(0, 2 - LP @ [1, -1]) - 0.3 * LP[:, 0]),
    ("torchtune", "RSOLoss gamma", None, {"gamma": 0.3}, lambda: np.maximum(0, 1 - 0.3 * H)),
    ("Cal-DPO", "cal_dpo", None, {"beta": 0.3},
     lambda: -ls(H) + 0.5 * ((A - 0.5 / 0.3) ** 2 + (B_ + 0.5 / 0.3) ** 2)),
]


@pytest.mark.parametrize(("library", "option", "versions", "options", "formula"), THEIRS,
                         ids=[f"{library} {option}" for library, option, *_ in THEIRS])
def test_their_formula_is_what_the_entry_says(library, option, versions, options, formula):
    c = only(library, option, versions)
    loss = loss_of(c, **options)
    ours, _ = loss(LP, **{name: {"ref_logp": RLP, "length": LEN, **facts_of(c)}[name] for name in loss.needs})
    # z of up to 40, rounded a few times before it is exponentiated, and 1 - exp in its naive form
    np.testing.assert_allclose(ours, formula(), rtol=400 * EPS, atol=400 * EPS)


def test_the_targets_of_exo_give_the_gradient_of_another_epsilon():
    """softmax of (0, -10) without its normalizer: p (log p - 0) + (1-p) (log (1-p) + 10)"""
    c = only("EXO code", "targets (0, -10)")
    eps = c.ours[0].hyper["eps"]
    assert eps == pytest.approx(1 / (1 + np.exp(10)), rel=4 * EPS)
    value, _ = loss_of(c, beta=0.3)(LP, RLP)
    p = sg(0.3 * H)
    naive = p * ls(0.3 * H) + (1 - p) * (ls(-0.3 * H) + 10)
    np.testing.assert_allclose(value - naive, -np.log1p(-eps), rtol=1e-9)
    assert -np.log1p(-eps) == pytest.approx(4.54e-5, abs=5e-8)


def test_inputs_can_tell_conventions_apart():
    """values that are equal on the page come from equal expressions"""
    seen = {}
    for c in ENTRIES:
        if c.ours is not None:
            seen.setdefault(round(value(c), 9), set()).add(re.sub(r"\w+\(", "(", repr(loss_of(c))))
    assert max(map(len, seen.values())) <= 3  # dpo and cpo's kin on a few; never a crowd
    assert len(seen) > 40
    assert (np.diff(INPUTS["length"]) != 0).all()
