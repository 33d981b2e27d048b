"""The kit itself: how functions are met, what units are, what reports say, bad input. What it finds: `test_zoo.py`."""

import ast
import doctest
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import mpmath
import numpy as np
import oracle
import pytest

import dpo_numpy as dn
from dpo_numpy.cli import main
from dpo_numpy.conformance import (
    batches,
    exact,
    foreign,
    frameworks,
    functions,
    identification,
    judging,
    mistakes,
    numbers,
    probing,
    profiles,
    report,
    rows,
    seams,
    sequence_mistakes,
    sequences,
    settings,
    symptoms,
    token_mistakes,
    tokens,
    verification,
)
from dpo_numpy.conformance.examples import batch, pair, sequence, token, unpaired
from dpo_numpy.conformance.frameworks import DTYPES

EXAMPLES = [("pair", "dpo", pair.dpo), ("sequence", "logp", sequence.logp), ("batch", "dpo", batch.dpo),
            ("unpaired", "kto", unpaired.kto), ("token", "grpo", token.grpo), ("token", "k3", token.k3),
            ("token", "group_advantage", token.group_advantage)]


def dpo_of(pc, pr, rc, rr):
    return np.logaddexp(0, -0.1 * ((pc - pr) - (rc - rr)))


def test_every_module_is_here():
    folder = Path(seams.__file__).parent
    tested = {batches, exact, foreign, frameworks, functions, identification, judging, mistakes, numbers, probing,
              profiles, report, rows, seams, sequence_mistakes, sequences, settings, symptoms, token_mistakes, tokens,
              verification}
    elsewhere = {"__init__", "conventions", "golden", "pytest_plugin"}
    found = {path.stem for path in folder.glob("*.py")}
    assert found - elsewhere == {module.__name__.rpartition(".")[2] for module in tested}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("seam", "loss", "function"), EXAMPLES)
def test_examples_agree(seam, loss, function, dtype):
    found = dn.verify(function, loss, seam=seam, dtype=dtype)
    assert found.agrees, str(found)
    assert found.code == 0 and not found.mistakes


# ---- dtypes and units

@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_dtypes_are_numpys(name, rng):
    numpy = np.dtype(name)
    kind, limits = DTYPES[name], np.finfo(numpy)
    assert (kind.eps, kind.tiny, kind.most) == (limits.eps, limits.smallest_normal, limits.max)
    x = (rng.normal(size=200) * 10 ** rng.uniform(-6, 4, 200)).astype(numpy)
    np.testing.assert_array_equal(kind.ulp(x), np.spacing(abs(x)))
    y = x.astype(np.longdouble) * (1 + np.longdouble(limits.eps) * rng.uniform(-3, 3, 200))
    np.testing.assert_array_equal(kind.round(y), y.astype(numpy))
    assert kind.ulp(0.0) == limits.smallest_subnormal


def test_bfloat16_is_the_upper_half_of_float32(rng):
    x = rng.normal(size=500).astype(np.float32)
    bits = x.view(np.uint32).astype(np.int64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(DTYPES["bfloat16"].round(x), nearest)
    assert DTYPES["bfloat16"].round(1e39) == DTYPES["bfloat16"].most == np.uint32(0x7F7F0000).view(np.float32)


@pytest.mark.parametrize("name", ["dpo", "orpo", "exo", "kto", "aot"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_answers_and_units_are_the_oracles(name, dtype):
    """A unit is what the oracle finds by moving each input by an ulp, and an ulp of the answer."""
    seam = rows.UNPAIRED if name == "kto" else rows.PAIR
    question = verification.ask(_taking(seam, name), name, seam.name, "numpy", dtype, "cpu", "auto", "halves", {})
    case = next(iter(seam.cases(question)))
    loss = dn.LOSSES[name](**question.hyper)
    told = {key: x[:3] if x.ndim else x for key, x in case.told.items() if key in (*loss.reads, *loss.needs)}
    found = exact.of_rows(loss, told, DTYPES[dtype])
    def row(x, b):
        x = np.asarray(x)
        x = (x[b] if x.ndim else x).astype(dtype if x.dtype.kind == "f" else x.dtype)
        return list(x) if x.ndim else x[()]

    batch_ = [{key: row(x, b) for key, x in told.items()} for b in range(3)]
    value, grad = oracle.exact(name, question.hyper, batch_)
    moved, dmoved = oracle.moves(name, question.hyper, batch_)
    for b in range(3):
        assert abs(float(value[b]) - found.value[b]) <= 1e-15 * abs(found.value[b]) + 1e-17
        expected = float(moved[b]) + float(DTYPES[dtype].ulp(found.value[b]))
        assert found.unit[b] == pytest.approx(expected, rel=0.02)
    for (b, reading, k), x in grad.items():
        assert abs(float(x) - found.grads[reading][b, k]) <= 1e-15 * abs(float(x)) + 1e-17
        expected = float(dmoved[b, reading, k]) + float(DTYPES[dtype].ulp(found.grads[reading][b, k]))
        assert found.units[reading][b, k] == pytest.approx(expected, rel=0.02)


def _taking(seam, name):
    import inspect

    def f(**told):
        raise AssertionError("only its signature is wanted")

    f.__signature__ = inspect.Signature([inspect.Parameter(x, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                                         for x in seam.arrays(dn.LOSSES[name]())])
    return f


def test_units_of_log_probs_of_tokens(rng):
    """Against mpmath, logit by logit."""
    logits = DTYPES["float32"].round(rng.normal(size=(1, 2, 4)) * 3)
    found = exact.of_tokens(logits, np.array([[1, 3]]), np.array([[1.0, 0.5]], np.longdouble), DTYPES["float32"])

    def at(x):
        with mpmath.workdps(40):
            total = mpmath.mpf(0)
            for t, (token_, weight) in enumerate(((1, 1), (3, 0.5))):
                e = [mpmath.exp(oracle.number(v)) for v in x[0, t]]
                total += weight * mpmath.log(e[token_] / sum(e))
            return total

    moved = mpmath.mpf(0)
    for k in np.ndindex(logits.shape):
        up = logits.copy()
        up[k] += DTYPES["float32"].ulp(logits)[k]
        moved += abs(at(up) - at(logits))
    assert float(found.value[0]) == pytest.approx(float(at(logits)), rel=1e-15)
    least, most = float(moved), float(moved + 3 * DTYPES["float32"].ulp(4.0))
    assert least <= found.unit[0] <= 1.01 * most


# ---- every loss of ours is held right

@pytest.mark.slow
@pytest.mark.parametrize("seam", [rows.PAIR, rows.UNPAIRED], ids=repr)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_our_own_losses_raise_no_alarm(seam, dtype):
    for name in seam.losses():
        found = dn.verify(_ours(seam, name), name, seam=seam.name, dtype=dtype)
        assert found.agrees, str(found)


def _ours(seam, name):
    loss = dn.LOSSES[name]()
    f = _taking(seam, name)

    def called(**told):
        def both(fact):
            return np.stack([told[f"{side}_{fact}"] for side in rows.SIDES], axis=-1)

        if seam.K == 1:
            facts = {fact: told[fact] for fact in loss.needs if fact in told}
            value, grad = loss(told["policy_logps"][:, None], ref_logp=told["reference_logps"][:, None],
                               label=told["labels"], **facts)
            return value, grad[:, 0]
        names = {"logp": "policy_{}_logps", "ref_logp": "reference_{}_logps"}
        given = {fact: np.stack([told[names[fact].format(side)] for side in rows.SIDES], axis=-1) if fact in names
                 else both(fact) if f"chosen_{fact}" in told else told[fact] for fact in (*loss.reads, *loss.needs)}
        value, grads = loss({key: given[key] for key in loss.reads}, **{key: given[key] for key in loss.needs})
        return value, *(grads[key][:, k] for key in loss.reads for k in (0, 1))

    called.__signature__ = f.__signature__
    return called


# ---- how functions are met

def test_a_function_is_called_by_the_names_of_its_parameters():
    names = ("pi_logps_w", "ref_rejected_logprobs", "policyChosenLogps", "chosen_len", "beta")
    assert [rows.PAIR.role(name, "dpo", {}) for name in names] == [
        "policy_chosen_logps", "reference_rejected_logps", "policy_chosen_logps", "chosen_length", None]


def trl(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1,
        label_smoothing=0.0, loss_type="sigmoid"):
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    z = beta * h
    return (1 - label_smoothing) * np.logaddexp(0, -z) + label_smoothing * np.logaddexp(0, z)


def test_hyper_parameters_are_passed_by_the_names_that_others_have():
    found = dn.verify(trl, "cdpo", beta=0.3, eps=0.2)
    assert found.agrees, str(found)
    assert found.question.call.hyper == {"beta": "beta", "label_smoothing": "eps"}
    assert found.question.call.left == ("loss_type",)


@pytest.mark.parametrize(("function", "says"), [
    (lambda pc, pr, rc: pc, "takes pc, pr, rc, and it is not known what that is"),
    (lambda policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, temper: 0,
     "takes temper, and it is not known"),
    (lambda *x: 0, "takes nothing"),
    ("my_losses.py:dpo", "function is 'my_losses.py:dpo'; expected something that can be called"),
])
def test_a_parameter_that_means_nothing_is_named(function, says):
    with pytest.raises(ValueError, match=says):
        dn.verify(function, "dpo")


def test_one_by_position_only():
    def f(a, b, c, d, /):
        return dpo_of(a, b, c, d)

    assert dn.verify(f, "dpo", beta=0.1).agrees


# ---- what is no answer

def raises(pc, pr, rc, rr):
    raise RuntimeError("no kernel for this device\nand more")


def test_a_function_that_raises_is_not_judged():
    found = dn.verify(raises, "dpo")
    assert found.code == 2 and "raises RuntimeError: no kernel for this device" in str(found)


@pytest.mark.parametrize(("function", "says"), [
    (lambda pc, pr, rc, rr: None, "it returns a NoneType"),
    (lambda pc, pr, rc, rr: (), "it returns nothing"),
    (lambda pc, pr, rc, rr: np.zeros((len(pc), 3)), "returns shape"),
    (lambda pc, pr, rc, rr: dpo_of(pc, pr, rc, rr)[:, None], r"returns shape \(8, 1\)"),
    (lambda pc, pr, rc, rr: (dpo_of(pc, pr, rc, rr), 1.0), "beside losses it returns"),
    (lambda pc, pr, rc, rr: "0.69", "it returns a str"),
])
def test_what_is_no_array_of_losses(function, says):
    found = dn.verify(function, "dpo", beta=0.1)
    assert found.code == 2
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(str(found))


def test_a_list_of_numbers_is_no_array():
    found = dn.verify(lambda pc, pr, rc, rr: list(dpo_of(pc, pr, rc, rr)), "dpo", beta=0.1)
    assert found.code and "it returns a list of 8 numbers; expected an array (8,)" in str(found)


@pytest.mark.parametrize("together", [
    lambda *grads: grads,
    lambda *grads: (grads,),
    lambda *grads: (list(grads),),
    lambda *grads: (np.stack(grads, axis=1),),
])
@pytest.mark.parametrize(("factor", "code"), [(1, 0), (2, 1)])
def test_gradients_may_come_one_by_one_in_a_tuple_or_in_columns(together, factor, code):
    def f(pc, pr, rc, rr):
        h = 0.1 * ((pc - pr) - (rc - rr))
        slope = 0.1 * np.exp(-np.logaddexp(0, h))
        return np.logaddexp(0, -h), *together(-slope, factor * slope)

    found = dn.verify(f, "dpo", beta=0.1)
    assert found.code == code, str(found)
    assert "gradient                           not seen" not in str(found)
    assert ("gradient in the rejected's logp" in str(found)) == bool(code)


def test_values_alone_are_judged_and_the_report_says_so():
    found = dn.verify(dpo_of, "dpo", beta=0.1)
    assert found.code == 0
    assert "gradient                           not seen: it returns values only" in str(found)


def test_a_python_number_is_judged_by_its_value():
    found = dn.verify(lambda pc, pr, rc, rr: float(dpo_of(pc, pr, rc, rr).mean()), "dpo", beta=0.1)
    assert found.code == 0, str(found)


def test_not_the_same_twice():
    rng = np.random.default_rng(0)
    found = dn.verify(lambda pc, pr, rc, rr: dpo_of(pc, pr, rc, rr) * (1 + 1e-3 * rng.random()), "dpo", beta=0.1)
    assert found.code == 1 and found.mistakes[0] == "not-deterministic"


def test_inputs_written_into():
    def f(pc, pr, rc, rr):
        value = dpo_of(pc, pr, rc, rr)
        rc -= 1
        return value

    found = dn.verify(f, "dpo", beta=0.1)
    assert found.mistakes == ("mutates-inputs",)
    assert "it writes into rc" in str(found)


@pytest.mark.parametrize(("options", "says"), [
    ({"loss": "dpoo"}, "loss is 'dpoo'; of the seam 'pair' there are dpo"),
    ({"seam": "pairs"}, "seam is 'pairs'; expected pair, sequence, batch, unpaired, token"),
    ({"framework": "tensorflow"}, "framework is 'tensorflow'; expected numpy, torch, jax"),
    ({"framework": "dlpack:json"}, "expected a module with from_dlpack, which json has not"),
    ({"framework": "dlpack:nowhere"}, "cannot be imported"),
    ({"framework": 3}, "framework is 3; expected a name or a pair of functions"),
    ({"dtype": "bfloat16"}, "dtype is 'bfloat16'; expected float64, float32, float16"),
    ({"gradient": "yes"}, "gradient is 'yes'; expected auto, returned, none"),
    ({"layout": "rows"}, "layout is 'rows'; expected halves, interleaved"),
    ({"gamma": 1.0}, "dpo has no hyper-parameter 'gamma'; it has beta"),
    ({"beta": -1.0}, "beta is -1.0; expected a finite number above 0"),
    ({"profile": "trl"}, "no profile is called 'trl'; there are trl-0.28"),
])
def test_bad_input_is_one_sentence(options, says):
    with pytest.raises(ValueError, match=says) as error:
        dn.verify(dpo_of, **options)
    assert "\n" not in str(error.value)


# ---- frameworks

def test_converters_and_dlpack():
    class Mine:
        def __init__(self, x):
            self.x = x

    def f(pc, pr, rc, rr):
        return Mine(dpo_of(pc.x, pr.x, rc.x, rr.x))

    assert dn.verify(f, "dpo", beta=0.1, framework=(Mine, lambda x: x.x)).agrees
    assert dn.verify(dpo_of, "dpo", beta=0.1, framework="dlpack:numpy").agrees


# ---- verdicts

def test_sixteen_units_and_four_eps():
    kind, exact_ = DTYPES["float64"], np.array([1.0, 1.0, 1.0, 1.0])
    unit, size = np.array([1e-3, 1e-3, 1e-20, 1e-20]), np.array([0.0, 0.0, 1.0, 1.0])
    got = exact_ + np.array([0.015, 0.017, 3.9 * kind.eps, 4.1 * kind.eps], np.longdouble)
    found = seams.compare(got, exact_, unit, size, kind)
    assert found.fails.tolist() == [False, True, False, True]
    assert found.notes.tolist() == [False, False, True, False]


def test_infinities_that_are_right():
    kind = DTYPES["float16"]
    got, exact_ = np.array([np.inf, np.inf, -np.inf, np.nan]), np.array([7e4, 5e4, 7e4, 1.0])
    found = seams.compare(got, exact_, np.ones(4), 0.0, kind)
    assert found.fails.tolist() == [False, True, True, True]


def test_strict_fails_on_notes():
    def f(pc, pr, rc, rr):  # no digits of e^-z from z = 37 on
        z = 0.1 * ((pc - pr) - (rc - rr))
        return np.maximum(-z, 0) + np.log(1 + np.exp(-abs(z)))

    loose, strict = (dn.verify(f, "dpo", beta=0.1, strict=x) for x in (False, True))
    assert (loose.code, strict.code) == (0, 1)
    assert [line.test for line in loose.lines if line.verdict == "note"] == ["right, and sure of it"]


def test_the_smallest_failing_input_is_simple():
    found = dn.verify(lambda pc, pr, rc, rr: np.log(1 + np.exp(-0.1 * ((pc - pr) - (rc - rr)))), "dpo", beta=0.1)
    line = next(line for line in found.lines if line.verdict == "FAIL")
    assert line.test == "wrong, and sure of it"
    numbers = [float(part.split()[-1]) for part in line.example.split(", ")]
    assert numbers[1:] == [-1, -1, -1] and numbers[0] % 100 == 0
    assert 0.1 * (-numbers[0] - 1) > np.log(np.finfo(float).max)


# ---- what the list of known mistakes does not hold

def said(report):
    return next(line.says for line in report.lines if line.verdict == "FAIL")


def simpo_of(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    c, r = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    return np.logaddexp(0, gamma - beta * (c - r)), c


def test_a_likelihood_that_is_added_or_missing():
    def added(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
        loss, c = simpo_of(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta, gamma)
        return loss - 0.25 * c

    report = dn.verify(added, "simpo", beta=2.0, gamma=0.5)
    likelihood = "the chosen response's negative log-likelihood"
    assert said(report).startswith(f"{likelihood}, a mean over its tokens, is added, times 0.25")
    found = dn.identify(added, "simpo", beta=2.0, gamma=0.5)
    assert found.loss == "simpo" and not found.exact
    assert f"but {likelihood}, a mean over its tokens, is added, times 0.25" in str(found)

    def missing(policy_chosen_logps, policy_rejected_logps, beta=0.1, alpha=1.0):
        return np.logaddexp(0, -beta * (policy_chosen_logps - policy_rejected_logps))

    report = dn.verify(missing, "cpo", beta=0.1, alpha=0.5)
    assert said(report).startswith("alpha is ignored: 0 in its place: value ")


def test_a_term_that_counts_otherwise():
    cal = dn.LOSSES["cal_dpo"](beta=0.1)

    def counting(first, second):
        def theirs(pc, pr, rc, rr):
            pairs = np.stack([pc, pr], -1), np.stack([rc, rr], -1)
            return sum(c * dn.losses.Loss("part", (one,))(*pairs)[0]
                       for c, one in zip((first, second), cal.terms, strict=True))
        return theirs

    for (first, second), mistake, says in (((1, 3), "factor", "term 2 of 2 counts 3 times, should 1"),
                                           ((0, 3), "another-loss", "term 1 of 2 is missing"),
                                           ((-1, 1), "sign-flipped", "term 1 of 2 has the wrong sign")):
        report = dn.verify(counting(first, second), "cal_dpo", beta=0.1)
        assert report.mistakes == (mistake,) and said(report).startswith(says)


def test_two_mistakes_at_once():
    def theirs(pc, pr, rc, rr, beta=0.1):  # beta is lost, and the digits of float64
        h = ((pc - pr) - (rc - rr)).astype(np.float32)
        return np.logaddexp(np.float32(0), -h).astype(pc.dtype)

    report = dn.verify(theirs, "dpo", beta=0.1)
    assert report.mistakes[0] == "hyper-ignored"
    assert said(report).startswith("beta is missing: 1 in its place; and it is computed in float32")


def test_what_changes_nothing_is_ignored():
    def squared(pc, pr, rc, rr, beta=0.1):  # of no loss of ours, and without beta
        return np.logaddexp(0, -0.3 * ((pc - pr) - (rc - rr))) ** 2

    assert said(dn.verify(squared, "dpo", beta=0.1)).startswith("beta is ignored: another changes nothing")

    def alone(pc, pr, rc, rr, beta=0.1):
        return np.logaddexp(0, -beta * (pc - pr)) ** 2

    report = dn.verify(alone, "dpo", beta=0.1)
    assert report.mistakes == ("reference-ignored",)
    assert said(report).startswith("the reference is ignored: another changes nothing")


def test_what_changes_nothing_is_ignored_at_other_seams():
    def of_tokens(logps, advantages, mask):
        return (np.where(mask, logps, 0).sum(1) ** 2).mean()

    assert said(dn.verify(of_tokens, "reinforce", seam="token")).startswith("the advantage is ignored")
    k1 = dn.verify(lambda logps, ref_logps: logps**2, "k1", seam="token")
    assert said(k1).startswith("the reference is ignored")

    def of_batch(logits, reference_logits, labels):
        z = np.subtract(*np.split(0.1 * sequence.logp(logits, labels)[0], 2))
        return (np.logaddexp(0, -z) ** 2).mean()

    assert said(dn.verify(of_batch, "dpo", seam="batch", beta=0.1)).startswith("the reference is ignored")


def test_which_tokens_count_is_seen_in_the_gradient():
    def weighed(weights):
        def theirs(logits, tokens, mask, attention_mask):
            share = weights(mask.astype(float), attention_mask.astype(float))[:, 1:]
            log_p = logits[:, :-1] - np.logaddexp.reduce(logits[:, :-1], axis=-1)[..., None]
            hit = np.eye(logits.shape[-1])[tokens[:, 1:]]
            grad = np.zeros_like(logits)
            grad[:, :-1] = share[..., None] * (hit - np.exp(log_p))
            return (share * (hit * log_p).sum(-1)).sum(1), grad
        return theirs

    for weights, mistake in ((lambda mask, real: 0.5 * mask + 0.5 * real, "prompt-included"),
                             (lambda mask, real: 0.7 * mask + 0.3, "padding-counted"),
                             (lambda mask, real: mask * (1 + np.arange(len(mask)))[:, None], "reduction")):
        assert dn.verify(weighed(weights), "logp", seam="sequence").mistakes[0] == mistake
    assert dn.verify(weighed(lambda mask, real: mask), "logp", seam="sequence").agrees


def test_the_examples_number_is_right():
    """What a report says it should be, is what the loss is at the example beside it"""
    def naive(policy_chosen_logps, policy_rejected_logps, lam=0.1):
        c, r = policy_chosen_logps, policy_rejected_logps
        with np.errstate(all="ignore"):
            return -c + lam * np.logaddexp(0, r - np.log1p(-np.exp(r)) - c + np.log1p(-np.exp(c)))

    line = next(line for line in dn.verify(naive, "orpo", lam=0.1).lines if line.test == "log-probs near 0")
    c, r = (mpmath.mpf(part.split()[-1]) for part in line.example.split(", "))
    right = -c + mpmath.mpf("0.1") * mpmath.log1p(mpmath.exp(r - c) * mpmath.expm1(c) / mpmath.expm1(r))
    assert float(line.says.split("should be ")[1]) == pytest.approx(float(right), rel=1e-7)
    assert "inf, should" in line.says


# ---- tokens: what surrogates, estimators and advantages do elsewhere

def grpo_of(term):
    def theirs(logps, old_logps, advantages, mask, ref_logps, eps=0.2, beta=0.04):
        ratio, count = np.exp(logps - old_logps), np.maximum(mask.sum(1), 1)
        A = advantages[:, None]
        gain = np.minimum(ratio * A, np.clip(ratio, 1 - eps, 1 + eps) * A)
        d = ref_logps - logps
        with np.errstate(all="ignore"):
            return -(np.where(mask, gain - beta * term(np.expm1(d) - d, ratio), 0).sum(1) / count).mean()
    return theirs


def cispo_of(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=2.0):
    weight = np.minimum(np.exp(np.minimum(logps - old_logps, 50)), eps_high)
    return -(np.where(mask, weight * advantages[:, None] * logps, 0)).sum() / mask.sum()


def dapo_of(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    ratio, A = np.exp(np.minimum(logps - old_logps, 50)), advantages[:, None]
    gain = np.minimum(ratio * A, np.clip(ratio, 1 - eps_low, 1 + eps_high) * A)
    return -np.where(mask, gain, 0).sum() / (mask.sum() + 1e-8)


def whitened(rewards, values, gamma=0.9, lam=0.95):
    x = dn.gae(rewards, values, np.ones(rewards.shape, bool), gamma, lam)[0]
    return (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8)


@pytest.mark.parametrize(("theirs", "loss", "hyper", "mistake", "says"), [
    (grpo_of(lambda kl, ratio: ratio * kl), "grpo", {"eps": 0.2, "beta": 0.04}, "another-loss",
     "the KL term is multiplied by the ratio"),
    (cispo_of, "cispo", {"eps_high": 2.0}, "hyper-misread", "eps_high is the ratio's ceiling itself"),
    (dapo_of, "dapo", {}, "reduction", "1e-8 is added to the number of tokens"),
    (whitened, "gae", {"gamma": 0.9, "lam": 0.95}, "another-loss", "they are whitened afterwards"),
    (lambda logps, ref_logps: np.clip(logps - ref_logps, -10, 10), "k1", {}, "epsilon-in-log", "values stop at 10"),
])
def test_what_libraries_do_per_token(theirs, loss, hyper, mistake, says):
    report = dn.verify(theirs, loss, seam="token", **hyper)
    assert report.mistakes[0] == mistake
    assert says in said(report)


def test_log_probs_of_tokens():
    def theirs(logits, index):
        log_p = logits - np.logaddexp.reduce(logits, axis=-1)[..., None]
        return np.take_along_axis(log_p, index[..., None], axis=-1)[..., 0]

    assert dn.verify(theirs, "token_logp", seam="sequence").agrees
    report = dn.verify(lambda logits, index: theirs(logits, np.roll(index, -1, axis=1)), "token_logp", seam="sequence")
    assert report.mistakes == ("shift-off-by-one",)


def test_masks_of_floats_and_advantages_of_tokens():
    def of_floats(logps, advantages, mask):
        if mask.dtype == bool:
            raise TypeError("a mask of booleans")
        return -(mask * advantages[:, None] * logps).sum(1).mean()

    report = dn.verify(of_floats, "reinforce", seam="token")
    assert report.agrees and report.lines[0].says == "with booleans, it raises TypeError: a mask of booleans"

    def of_tokens(logps, advantages, mask):
        return -np.where(mask, advantages * logps, 0).sum(1).mean()

    report = dn.verify(of_tokens, "reinforce", seam="token")
    assert report.code == 1 and report.mistakes[0] == "broadcast"
    assert "given advantages (B, T), one a token, it runs" in report.lines[0].says


def test_of_sorted_rows_the_mean_is_judged():
    loss = dn.LOSSES["aot"](beta=0.1)

    def sorted_rows(times):
        def theirs(pc, pr, rc, rr):
            value, grad = loss(np.stack([pc, pr], -1), np.stack([rc, rr], -1))
            return np.sort(value), *times(grad).T
        return theirs

    assert dn.verify(sorted_rows(lambda grad: grad), "aot", beta=0.1).agrees  # the gradient of the sum of the rows
    of_mean = dn.verify(sorted_rows(lambda grad: grad / len(grad)), "aot", beta=0.1)
    assert of_mean.mistakes[0] == "wrong-gradient"


def test_what_is_set_stays():
    def theirs(pc, pr, rc, rr, beta=0.5, kind=None):
        assert kind == "plain"
        return np.logaddexp(0, -beta * ((pc - pr) - (rc - rr)))

    assert dn.verify(partial(theirs, kind="plain"), "dpo", beta=0.1).agrees
    report = dn.verify(partial(theirs, kind="plain", beta=0.2), "dpo", beta=0.1)
    assert said(report).startswith("twice beta")


# ---- identify

def sigmoid_loss(z):
    return np.logaddexp(0, -z)


IDENTIFIED = [
    ("dpo(beta=0.1)", {"beta": 0.1}, dpo_of),
    ("ipo(tau=0.1, reduction=mean)", {"beta": 0.1}, lambda pi_w, pi_l, ref_w, ref_l, len_w, len_l: (
        (pi_w - ref_w) / len_w - (pi_l - ref_l) / len_l - 5) ** 2),
    ("simpo(beta=2, gamma=1, scale=ratio, eps=0)", {"beta": 2.0, "gamma": 1.0},
     lambda pi_w, pi_l, len_w, len_l, beta=2.0, gamma=1.0: sigmoid_loss(beta * (pi_w / len_w - pi_l / len_l - gamma))),
    ("dpo(beta=0.1), but beta is missing: 1 in its place", {"beta": 0.1}, lambda pc, pr, rc, rr: sigmoid_loss(
        (pc - pr) - (rc - rr))),
    ("dpo(beta=0.1), but the reference is ignored", {"beta": 0.1},
     lambda pc, pr, rc, rr: sigmoid_loss(0.1 * (pc - pr))),
    ("dpo(beta=0.1), but the sign is flipped", {"beta": 0.1}, lambda pc, pr, rc, rr: dpo_of(pr, pc, rr, rc)),
]


@pytest.mark.parametrize(("name", "hyper", "function"), IDENTIFIED, ids=[name for name, *_ in IDENTIFIED])
def test_identify(name, hyper, function):
    found = dn.identify(function, **hyper)
    assert str(found).startswith(name)
    assert found.exact == ("but" not in name)


def test_identify_at_the_other_seams():
    assert str(dn.identify(sequence.logp, seam="sequence")) == "logp()"
    assert str(dn.identify(unpaired.kto, seam="unpaired", beta=0.1)).startswith("kto(beta=0.1, lam_d=1, lam_u=1)")
    assert str(dn.identify(token.k3, seam="token")) == "k3()"

    def averaged(logits, labels):
        return sequence.logp(logits, labels)[0] / np.maximum((labels[:, 1:] != -100).sum(1), 1)

    assert str(dn.identify(averaged, "logp", seam="sequence")) == "mean_logp()"


def test_identify_where_masks_are_floats():
    def of_floats(logits, tokens, mask):
        log_p = logits[:, :-1] - np.logaddexp.reduce(logits[:, :-1], axis=-1)[..., None]
        kept = -np.negative(mask[:, 1:])  # NumPy has no negative of booleans
        return (kept * np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]).sum(1)

    assert str(dn.identify(of_floats, seam="sequence")) == "logp()"
    with pytest.raises(ValueError, match="nothing to go by: it raises TypeError"):
        dn.identify(lambda logits, tokens, mask: -mask.astype(bool), seam="sequence")


@pytest.mark.slow
def test_identify_a_factor():
    found = dn.identify(lambda pc, pr, rc, rr: ((pc - rc - 5) ** 2 + (pr - rr + 5) ** 2) / 2, beta=0.1)
    assert str(found) == "sppo(beta=0.1, labels=hard), but the loss is 0.5 times what it should be"


@pytest.mark.slow
def test_what_is_none_of_ours_has_a_nearest():
    found = dn.identify(lambda pc, pr, rc, rr: np.sqrt(dpo_of(pc, pr, rc, rr)), beta=0.1)
    assert not found.exact and not found.mistake
    assert str(found).startswith("none of ours; nearest: ")


# ---- profiles

def test_profiles_are_of_known_libraries():
    for one in profiles.listed():
        assert profiles.options(one.name), one.name
    assert {"trl-0.28", "trl-1.16", "mitchell", "halos", "openrlhf", "llama-factory", "torchtune", "liger", "simpo",
            "mlx-lm-lora"} == set(profiles.names())


@pytest.mark.parametrize(("versions", "version", "holds"), [
    ("", "", True), ("", "1.2", True), (">= 0.29", "1.16", True), (">= 0.29", "0.28", False), ("<= 0.28", "0.28", True),
    ("<= 0.28", "0.29", False), ("0.12 to 0.28", "0.9", False), ("0.12 to 0.28", "0.20", True), (">= 0.29", "", False),
])
def test_versions(versions, version, holds):
    assert profiles._holds(versions, version) is holds


def test_profiles_say_how_a_batch_becomes_a_number():
    by = {(one.profile, one.aspect): one.value for name in profiles.names() for one in profiles.batches(name)}
    assert {name for name, _ in by} == set(profiles.names())
    assert [by[name, "log-probs of ipo"] for name in ("mitchell", "trl-1.16", "openrlhf")] == ["sum", "mean", "sum"]
    assert all(by[name, "reduction"] == "mean over pairs" for name in profiles.names())
    found = profiles.disagreements("trl-1.16", "llama-factory")
    assert any(one.asked == "batch: NLL" and one.one.endswith("tokens") for one in found)


def test_a_profile_says_what_a_library_means():
    def per_token(pi_w, pi_l, ref_w, ref_l, len_w, len_l):
        return ((pi_w - ref_w) / len_w - (pi_l - ref_l) / len_l - 5) ** 2

    assert dn.verify(per_token, "ipo", tau=0.1, profile="trl-1.16").agrees
    assert not dn.verify(per_token, "ipo", tau=0.1, profile="mitchell").agrees
    with pytest.raises(ValueError, match="loss is 'kto'; the profile simpo has simpo"):
        profiles.translate("simpo", "kto", {})


# ---- the page, the command, and pytest

def test_the_page_is_executed():
    page = Path(__file__).parents[1] / "docs" / "verify.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (failed, tried > 3) == (0, True)


def test_the_page_counts_the_zoo():
    """What it says of how many there are is read off the sources, as the frameworks may not be here."""
    page = (Path(__file__).parents[1] / "docs" / "verify.md").read_text("utf-8")
    found = {"broken": set(), "correct": set()}
    for path in (Path(__file__).parent / "zoo").glob("*_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                match decorator:
                    case ast.Call(func=ast.Name("broken" | "correct" as kind)):
                        found[kind].add((path.stem, node.name))
            match node:  # broken(...)(a function that a closure makes)
                case ast.Call(func=ast.Call(func=ast.Name("broken" | "correct" as kind)), args=[made]):
                    found[kind].add((path.stem, ast.unparse(made)))
    counts = len(found["broken"]), len(found["correct"])
    says = "holds {} short losses with one realistic bug each and {} correct ones".format(*counts)
    assert says in " ".join(page.split())

EXAMPLE = "dpo_numpy.conformance.examples.pair:dpo"


def test_the_command_exits_0_1_2(capsys, tmp_path):
    assert main(["verify", EXAMPLE, "--loss", "dpo", "--beta", "0.1"]) == 0
    assert "agrees: 0 of " in capsys.readouterr().out
    assert main(["verify", EXAMPLE, "--loss", "hinge", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "differs" and told["mistakes"] == ["another-loss"]
    path = tmp_path / "mine.py"
    path.write_text("import neighbor\ndef f(pc, pr, rc, rr):\n    raise ValueError('never')\n")
    (tmp_path / "neighbor.py").write_text("")
    assert main(["verify", f"{path}:f"]) == 2
    assert "could not be judged: it raises ValueError: never" in capsys.readouterr().out


def test_the_command_sets_arguments(capsys, tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text("import numpy as np\ndef f(pc, pr, rc, rr, kind, scale):\n    assert kind == 'sigmoid'\n"
                    "    return np.logaddexp(0, -scale * ((pc - pr) - (rc - rr)))\n")
    told = [f"{path}:f", "--beta", "0.1", "--set", "kind=sigmoid", "--set"]
    assert main(["verify", *told, "scale=0.1"]) == 0
    assert main(["verify", *told, "scale=0.2"]) == 1
    assert "twice beta" in capsys.readouterr().out
    assert main(["identify", *told, "scale=0.1"]) == 0


@pytest.mark.parametrize(("argv", "says"), [
    (["verify", EXAMPLE, "--set", "beta"], "set is 'beta'; expected NAME=VALUE"),
    (["verify", "nowhere:f"], "nowhere cannot be imported: ModuleNotFoundError"),
    (["verify", "nowhere.py:f"], "there is no file 'nowhere.py'"),
    (["verify", "json"], "function is 'json'; expected module:function or path/to/file.py:function"),
    (["verify", "json:nothing"], "json has no nothing; it has"),
    (["verify", "json:__doc__"], "json:__doc__ is a str; expected a function"),
    (["verify", EXAMPLE, "--loss", "kto"], "seam is 'pair'; expected 'unpaired', where kto is"),
    (["verify", EXAMPLE, "--loss", "dop"], "no loss is called 'dop'; did you mean dpop?"),
    (["verify", EXAMPLE, "--gamma", "1"], "dpo takes no --gamma; it takes --beta"),
    (["profiles", "a"], "no profile is called 'a'"),
    (["profiles", "halos", "simpo", "liger"], "3 profiles were given; expected at most two"),
    (["identify", EXAMPLE, "--zeta", "1"], "unrecognized arguments"),
    (["identify", EXAMPLE, "--lam_d", "1", "--loss", "nothing"], "loss is 'nothing'; expected dpo"),
])
def test_the_commands_bad_input(argv, says, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_commands_identify_and_profiles(capsys):
    assert main(["identify", EXAMPLE, "--beta", "0.1"]) == 0
    assert capsys.readouterr().out.startswith("dpo(beta=0.1)\n")
    assert main(["profiles"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(profiles.names())
    assert main(["profiles", "trl-0.28", "trl-1.16"]) == 0
    assert "0.718448  trl-0.28: cdpo(beta=0.1, eps=0.1)" in capsys.readouterr().out
    assert main(["profiles", "torchtune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["option"]
    assert main(["profiles", "mitchell", "trl-1.16"]) == 0
    assert "batch: log-probs of ipo\n" + " " * 16 + "mitchell: sum\n" in capsys.readouterr().out
    assert main(["profiles", "simpo", "simpo"]) == 0
    assert capsys.readouterr().out == "no disagreement between simpo and simpo is known\n"


def test_the_help_has_every_seams_signature(capsys):
    assert main(["verify", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for seam in verification.SEAMS.values():
        assert all(part.strip() in out for part in seam.signature.split(";"))


def test_the_fixture(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # an installed package brings the plugin a second time
    path = tmp_path / "test_mine.py"
    path.write_text("from dpo_numpy.conformance.examples.pair import dpo\n"
                    "def test_right(conforms):\n    conforms(dpo, 'dpo', beta=0.1)\n"
                    "def test_wrong(conforms):\n    conforms(dpo, 'hinge')\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "dpo_numpy.conformance.pytest_plugin", "-c",
                           "/dev/null", str(path)], capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout and "differs: " in done.stdout, done.stdout + done.stderr
