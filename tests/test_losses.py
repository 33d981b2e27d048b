import inspect
import itertools
import re

import numpy as np
import oracle
import pytest
import strategies
from mpmath import mpf

from dpo_numpy.losses import LOSSES, Loss

EPS = np.finfo(float).eps


def numbers(name, size=4, seed=0, dtype=np.float64, regime="ordinary", **hyper):
    """A loss with the readings and facts of a batch."""
    loss = LOSSES[name](**hyper)
    return loss, *strategies.draw(np.random.default_rng(seed), loss, size, dtype, regime)


# ---- against the oracle

def test_every_loss_has_an_oracle():
    missing = sorted(set(LOSSES) - set(oracle.ORACLE))
    assert not missing, f"give {', '.join(missing)} a line each in tests/oracle.py: ORACLE"
    assert set(oracle.ORACLE) == set(LOSSES)


def as_rows(numbers):
    return [{key: list(x[b]) if x.ndim == 2 else x[b] for key, x in numbers.items()}
            for b in range(len(numbers["logp"]))]


def units(name, hyper, read, facts):
    """[(error in units, where)] of every value and every derivative of a batch

    A unit is how far the exact answer moves when its inputs move by one ulp each, or an ulp of the answer if that is
    more: no code that is handed rounded numbers, and hands one back, does better. Below the smallest normal number an
    intermediate result is good to half of the smallest subnormal, not to a share of itself, and hyper-parameters
    multiply that.
    """
    value, grad = LOSSES[name](**hyper)(read, **facts)
    dtype = value.dtype.type
    rows = as_rows({**read, **facts})
    exact_value, exact_grad = oracle.exact(name, hyper, rows)
    floor = np.finfo(dtype).smallest_subnormal * np.prod([1 + abs(x) for x in hyper.values() if not isinstance(x, str)])
    pairs = [(value[b], exact_value[b], b) for b in range(len(value))]
    pairs += [(grad[key][b, k], x, (b, key, k)) for (b, key, k), x in exact_grad.items()]
    found = []
    for ours, exact, where in pairs:
        error = abs(oracle.number(ours) - exact)
        unit = max(mpf(float(np.spacing(abs(dtype(exact))))), mpf(float(floor)))
        if error > 4 * unit:  # seldom; the moves take a while
            unit = max(unit, moves(name, hyper, rows, where))
        found.append((float(error / unit), f"{where} is {ours!r}; expected {float(exact)!r}, {name}{hyper} at {rows}"))
    return found


def moves(name, hyper, rows, where):
    """How far one number moves with its inputs: looked for in its row alone, unless rows are coupled"""
    b, *rest = where if isinstance(where, tuple) else (where,)
    start = 0 if hasattr(oracle.ORACLE[name], "coupled") else b
    values, grads = oracle.moves(name, hyper, rows if hasattr(oracle.ORACLE[name], "coupled") else rows[b:b + 1])
    return grads[b - start, *rest] if rest else values[b - start]


def against_oracle(name, dtype, batches):
    rng = np.random.default_rng(0)
    for regime, _ in itertools.product(strategies.REGIMES, range(batches)):
        hyper = strategies.draw_hyper(rng, LOSSES[name])
        read, facts = strategies.draw(rng, LOSSES[name](**hyper), 4, dtype, regime)
        worst, where = max(units(name, hyper, read, facts))
        assert worst <= 4, f"{regime}: {worst:.1f} units: {where}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_exact_to_four_units(name, dtype):
    against_oracle(name, dtype, batches=10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_exact_to_four_units_at_many_points(name, dtype):
    against_oracle(name, dtype, batches=250)


@pytest.mark.parametrize("name", LOSSES)
def test_defaults_are_the_oracles_too(name):
    """What is called without hyper-parameters is the formula at the defaults of the signature."""
    hyper = {key: p.default for key, p in inspect.signature(LOSSES[name]).parameters.items()}
    loss, read, facts = numbers(name)
    assert max(units(name, hyper, read, facts))[0] <= 4
    np.testing.assert_array_equal(loss(read, **facts)[0], LOSSES[name](**hyper)(read, **facts)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_longdouble_is_not_rounded_to_double(name):
    """A kernel that passes through float64 would be 2,000 of its ulps away."""
    hyper = {key: p.default for key, p in inspect.signature(LOSSES[name]).parameters.items()}
    _, read, facts = numbers(name, dtype=np.longdouble, seed=2)
    rng = np.random.default_rng(3)
    read = {key: x + x * np.finfo(np.longdouble).eps * rng.integers(-999, 999, x.shape) for key, x in read.items()}
    # 1 - eps and 1 / (2 tau) are computed in double
    room = EPS if {"eps", "tau"} & set(hyper) else 0
    value, _ = LOSSES[name](**hyper)(read, **facts)
    rows = as_rows({**read, **facts})
    moved, _ = oracle.moves(name, hyper, rows)
    for ours, x, move in zip(value, oracle.exact(name, hyper, rows)[0], moved, strict=True):
        assert abs(oracle.number(ours) - x) <= 4 * (move + oracle.number(np.spacing(abs(ours)))) + room * abs(x)


# ---- values that papers and docstrings state

B = 4
LEVEL = np.full((B, 2), -7.0)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "dpop", "aot", "tdpo1", "tdpo2"])
def test_log_2_at_the_reference(name):
    loss, read, _ = numbers(name)
    read = {key: LEVEL if key == "logp" else np.ones((B, 2)) for key in read}
    value, grad = loss(read, ref_logp=LEVEL)
    np.testing.assert_allclose(value, np.log(2), rtol=2 * EPS)
    assert loss(LEVEL, ref_logp=LEVEL)[1].tolist() == [[-0.05, 0.05]] * B if name == "dpo" else grad["logp"].any()


@pytest.mark.parametrize(("tau", "reduction"), [(0.1, "sum"), (2.0, "sum"), (0.1, "mean")])
def test_ipo_at_the_reference(tau, reduction):
    length = None if reduction == "sum" else np.ones((B, 2))
    value, grad = LOSSES["ipo"](tau=tau, reduction=reduction)(LEVEL, LEVEL, length)
    np.testing.assert_allclose(value, 1 / (4 * tau**2), rtol=4 * EPS)
    np.testing.assert_allclose(grad[:, 0], -1 / tau, rtol=4 * EPS)


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_cdpo_is_least_at_the_log_odds(eps):
    h = np.log((1 - eps) / eps) / 0.1
    value, grad = LOSSES["cdpo"](beta=0.1, eps=eps)([[0.0, -h]], [[0.0, 0.0]])
    # h is rounded, log by up to an ulp and twice more: β ε (1-ε) |z| of it
    assert abs(grad).max() <= 0.1 * 4 * EPS
    assert value[0] == pytest.approx(-(1 - eps) * np.log(1 - eps) - eps * np.log(eps), rel=8 * EPS)


@pytest.mark.parametrize(("lam_d", "lam_u"), [(1.0, 1.0), (0.5, 3.0)])
def test_kto_at_the_reference(lam_d, lam_u):
    value, grad = LOSSES["kto"](beta=0.2, lam_d=lam_d, lam_u=lam_u)(
        [[-2.0], [-3.0]], [[-2.0], [-3.0]], label=[True, False], z0=0.0)
    assert value.tolist() == [lam_d / 2, lam_u / 2]
    np.testing.assert_allclose(grad[:, 0], [-lam_d * 0.2 / 4, lam_u * 0.2 / 4], rtol=4 * EPS)


def test_conventions():
    """gamma itself is subtracted; the penalty is inside σ; ipo sums; the hinge is scaled by beta."""
    value, _ = LOSSES["simpo"](beta=2.0, gamma=0.5)([[-1.0, -1.0]], length=[[1, 1]])
    assert value == pytest.approx(np.log1p(np.exp(0.5)), rel=4 * EPS)
    value, _ = LOSSES["dpop"](beta=0.1, lam=50.0)([[-4.0, -3.0]], [[-3.0, -3.0]])
    assert value == pytest.approx(np.log1p(np.exp(5.1)), rel=8 * EPS)
    assert LOSSES["ipo"](tau=0.5)([[-4.0, -3.0]], [[-2.0, -4.0]])[0] == 16
    assert LOSSES["ipo"](tau=0.5, reduction="mean")([[-4.0, -3.0]], [[-2.0, -4.0]], [[4, 2]])[0] == 4
    assert LOSSES["hinge"](beta=0.25)([[-1.0, -2.0]], [[0.0, 0.0]])[0] == 0.75


# ---- the contract of every loss

@pytest.mark.parametrize("name", LOSSES)
def test_shapes(name):
    loss, read, facts = numbers(name, size=5)
    value, grad = loss(read, **facts)
    assert value.shape == (5,)
    assert set(grad) == set(loss.reads)
    assert {g.shape for g in grad.values()} == {next(iter(read.values())).shape}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_dtype_is_kept(name, dtype):
    """whatever that of the facts: float64, int64, and weights in float64"""
    loss, read, facts = numbers(name)
    value, grad = loss({key: x.astype(dtype) for key, x in read.items()}, weight=np.full(4, 0.25), **facts)
    assert {value.dtype, *(g.dtype for g in grad.values())} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [int, np.int32, bool, np.float16])
def test_other_numbers_become_float64(name, dtype):
    loss, read, facts = numbers(name)
    given = {key: np.rint(x).astype(dtype) for key, x in read.items()}
    value, grad = loss(given, **facts)
    assert {value.dtype, *(g.dtype for g in grad.values())} == {np.dtype(float)}
    np.testing.assert_array_equal(value, loss({key: x.astype(float) for key, x in given.items()}, **facts)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_facts_are_cast_once(name):
    """float64 facts of a float32 loss: as if they had been float32 from the start; and inputs are left as they were."""
    loss, read, facts = numbers(name)
    read = {key: x.astype(np.float32) for key, x in read.items()}
    told = {key: x if x.dtype == bool else x.astype(np.float32) for key, x in facts.items()}
    kept = {key: x.copy() for key, x in {**read, **facts}.items()}
    value, grad = loss(read, **facts)
    again, dagain = loss(read, **told)
    np.testing.assert_array_equal(value, again)
    for key in grad:
        np.testing.assert_array_equal(grad[key], dagain[key])
    for key, x in {**read, **facts}.items():
        np.testing.assert_array_equal(x, kept[key])


@pytest.mark.parametrize("name", LOSSES)
def test_lists_will_do(name):
    loss, read, facts = numbers(name)
    value, _ = loss({key: x.tolist() for key, x in read.items()}, **{key: x.tolist() for key, x in facts.items()})
    np.testing.assert_array_equal(value, loss(read, **facts)[0])


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name]().reads == ("logp",)])
def test_a_single_reading_needs_no_dict(name):
    loss, read, facts = numbers(name)
    value, grad = loss(read["logp"], **facts)
    by_name, grads = loss(read, **facts)
    np.testing.assert_array_equal(value, by_name)
    np.testing.assert_array_equal(grad, grads["logp"])


@pytest.mark.parametrize("name", LOSSES)
def test_leading_axes_are_a_loop(name):
    loss, read, facts = numbers(name)
    rng = np.random.default_rng(1)
    read = {key: x + rng.normal(size=(2, 3, 1, 1)) for key, x in read.items()}
    weight = rng.random(4)
    value, grad = loss(read, weight=weight, **facts)
    assert value.shape == (2, 3, 4)
    for at in np.ndindex(2, 3):
        one, done = loss({key: x[at] for key, x in read.items()}, weight=weight, **facts)
        np.testing.assert_array_equal(value[at], one)
        for key in grad:
            np.testing.assert_array_equal(grad[key][at], done[key])


@pytest.mark.parametrize("name", LOSSES)
def test_no_comparisons(name):
    loss, read, facts = numbers(name)
    value, grad = loss({key: x[:0] for key, x in read.items()}, **{key: x[:0] for key, x in facts.items()})
    assert value.shape == (0,)
    assert all(g.shape == read[key][:0].shape for key, g in grad.items())


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"aot"}))
def test_weight_scales_the_gradient_and_not_the_value(name):
    loss, read, facts = numbers(name)
    weight = np.array([0.0, 0.5, 1.0, 4.0])
    value, grad = loss(read, **facts)
    again, scaled = loss(read, weight=weight, **facts)
    np.testing.assert_array_equal(again, value)
    for key in grad:
        np.testing.assert_array_equal(scaled[key], weight[:, None] * grad[key])


def test_sft_takes_any_number_of_columns():
    for columns in (1, 2, 5):
        logp = -np.arange(1.0, 2 * columns + 1).reshape(2, columns)
        value, grad = LOSSES["sft"]()(logp)
        assert value.tolist() == [1, columns + 1]
        assert grad.tolist() == [[-1] + [0] * (columns - 1)] * 2


# ---- sums of terms

def test_addition_and_scaling():
    _, read, facts = numbers("rpo")
    ref, length = facts["ref_logp"], facts["length"]
    dpo, sft_mean, ipo = LOSSES["dpo"](beta=0.3), LOSSES["sft_mean"](), LOSSES["ipo"]()
    mixed = 2 * (dpo + 0.2 * sft_mean) + ipo * 0.5
    assert (mixed.reads, mixed.needs) == (("logp",), ("ref_logp", "length"))
    value, grad = mixed(read["logp"], ref, length)
    for at, ours in enumerate((value, grad)):
        parts = [2 * dpo(read["logp"], ref)[at], 0.5 * ipo(read["logp"], ref)[at],
                 0.4 * sft_mean(read["logp"], length=length)[at]]
        # three terms, each scaled and added once
        np.testing.assert_allclose(ours, sum(parts), rtol=0, atol=4 * EPS * np.abs(parts).max())
    assert repr(mixed) == "2 * (dpo(beta=0.3) + 0.2 * sft_mean()) + 0.5 * ipo(tau=0.1, reduction=sum)"


def test_a_sum_reads_what_its_terms_read():
    mixed = LOSSES["sft"]() + LOSSES["tdpo1"]()
    assert mixed.reads == ("logp", "kl")
    _, read, facts = numbers("tdpo1")
    value, grad = mixed(read, **facts)
    one, done = LOSSES["tdpo1"]()(read, **facts)
    np.testing.assert_array_equal(value, one - read["logp"][:, 0])
    np.testing.assert_array_equal(grad["kl"], done["kl"])
    np.testing.assert_array_equal(grad["logp"], done["logp"] + [-1, 0])


def test_addition_of_something_else():
    with pytest.raises(TypeError, match="unsupported operand"):
        LOSSES["dpo"]() + 1


def test_names_show_hyper_parameters():
    for name, factory in LOSSES.items():
        shown = repr(factory())
        if name != "rpo":
            assert re.fullmatch(rf"{name}\(.*\)", shown)
            assert re.findall(r"(\w+)=", shown) == list(inspect.signature(factory).parameters)
    assert repr(LOSSES["rpo"](beta=0.2, alpha=3)) == "dpo(beta=0.2) + 3 * sft_mean()"


# ---- errors

#: hyper-parameter -> what is expected of it, and finite numbers outside of that
DOMAIN = {
    "alpha": ("at least 0", [-1e-9]),
    "beta": ("a finite number above 0", [0, -0.1]),
    "eps": ("at least 0 and below 0.5", [-0.01, 0.5, 1]),
    "gamma": ("", []),
    "lam": ("at least 0", [-1]),
    "lam_d": ("at least 0", [-1]),
    "lam_u": ("at least 0", [-1]),
    "reduction": ("'sum' or 'mean'", ["max", 1, None]),
    "tau": ("a finite number above 0", [0, -0.1]),
}
PARAMETERS = [(name, key) for name, factory in LOSSES.items() for key in inspect.signature(factory).parameters]


@pytest.mark.parametrize(("name", "key"), PARAMETERS)
def test_domain_errors(name, key):
    assert key in DOMAIN, f"say in DOMAIN what is expected of {key}"
    expected, outside = DOMAIN[key]
    if key != "reduction":
        for value in (np.nan, np.inf, -np.inf, "0.1", None, [0.1]):
            with pytest.raises(ValueError, match=f"^{re.escape(f'{key} is {value!r}; expected a finite number')}$"):
                LOSSES[name](**{key: value})
    for value in outside:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{key} is {value!r}; expected {expected}')}$"):
            LOSSES[name](**{key: value})


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, key in PARAMETERS if key != "reduction"])
def test_numpy_scalars_are_numbers(name, key):
    """and do not promote float32"""
    low, high = strategies.HYPER[key]
    _, read, facts = numbers(name, dtype=np.float32)
    for value in (np.float32(0.75 * low + 0.25 * high), np.float64(0.75 * low + 0.25 * high)):
        ours = LOSSES[name](**{key: value})(read, **facts)[0]
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, LOSSES[name](**{key: float(value)})(read, **facts)[0])


@pytest.mark.parametrize(("name", "key"), [x for x in PARAMETERS if DOMAIN[x[1]][0].startswith("at least 0")])
def test_zero_is_allowed(name, key):
    assert isinstance(LOSSES[name](**{key: 0}), Loss)


@pytest.mark.parametrize(("name", "need"), [(name, need) for name in LOSSES for need in LOSSES[name]().needs])
def test_missing_facts(name, need):
    loss, read, facts = numbers(name)
    hint = ": call batch.with_reference(policy, params)" if need == "ref_logp" else ""
    with pytest.raises(ValueError, match=f"^{re.escape(f'{loss.name} needs {need}, which was not given{hint}')}$"):
        loss(read, **{key: fact for key, fact in facts.items() if key != need})


def test_missing_readings():
    with pytest.raises(ValueError, match=re.escape(
            "tdpo1(beta=0.1) reads logp, kl; kl was not given: pass a dict of arrays by name")):
        LOSSES["tdpo1"]()(LEVEL, LEVEL)


def test_shape_errors():
    dpo, kto, tdpo1 = LOSSES["dpo"](), LOSSES["kto"](), LOSSES["tdpo1"]()
    two = np.full((2, 2), -1.0)
    for call, message in [
        (lambda: dpo(LEVEL[0], LEVEL), "logp has shape (2,); dpo(beta=0.1) expected (..., B, 2)"),
        (lambda: dpo(np.zeros((B, 3)), LEVEL), "logp has shape (4, 3); dpo(beta=0.1) expected (..., B, 2)"),
        (lambda: kto(LEVEL, LEVEL), "logp has shape (4, 2); kto(beta=0.1, lam_d=1, lam_u=1) expected (..., B, 1)"),
        (lambda: LOSSES["sft"]()(LEVEL[0]), "logp has shape (2,); sft() expected (..., B, K)"),
        (lambda: tdpo1({"logp": LEVEL, "kl": LEVEL[:3]}, LEVEL),
         "kl has shape (3, 2); tdpo1(beta=0.1) expected (..., B, 2)"),
        (lambda: dpo(LEVEL, np.zeros((3, 2))), "ref_logp has shape (3, 2), which does not fit the log-probs' (4, 2)"),
        (lambda: dpo(LEVEL[:1], LEVEL), "ref_logp has shape (4, 2), which does not fit the log-probs' (1, 2)"),
        (lambda: dpo(LEVEL, np.zeros(4)), "ref_logp has shape (4,), which does not fit the log-probs' (4, 2)"),
        (lambda: dpo(two, two[0]), "ref_logp has shape (2,), which does not fit the log-probs' (2, 2)"),
        (lambda: LOSSES["simpo"]()(two, length=[3, 4]),
         "length has shape (2,), which does not fit the log-probs' (2, 2)"),
        (lambda: kto(LEVEL[:, :1], LEVEL[:, :1], label=[True] * 3, z0=0.0),
         "label has shape (3,), which does not fit the log-probs' (4, 1)"),
        (lambda: kto(LEVEL[:, :1], LEVEL[:, :1], label=[True] * 4, z0=np.zeros((2, 4, 1))),
         "z0 has shape (2, 4, 1), which does not fit the log-probs' (4, 1)"),
        (lambda: dpo(LEVEL, LEVEL, weight=np.ones(3)), "weight has shape (3,); expected (4,)"),
        (lambda: dpo(LEVEL, LEVEL, weight=1.0), "weight has shape (); expected (4,)"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_facts_broadcast():
    """one number for all; a column for both responses; (B,) and (B, 1) labels alike"""
    for name in ("dpo", "aot"):
        loss, read, _ = numbers(name)
        for ref in (-3.0, np.full((4, 1), -3.0)):
            np.testing.assert_array_equal(loss(read, ref_logp=ref)[0], loss(read, ref_logp=np.full((4, 2), -3.0))[0])
    loss, read, facts = numbers("kto", size=5)
    column = {**facts, "label": facts["label"][:, None], "z0": facts["z0"][:, None]}
    for at in (0, 1):
        ours, expected = loss(read["logp"], **column)[at], loss(read["logp"], **facts)[at]
        np.testing.assert_array_equal(ours, expected)
    numbers_for_label = {**facts, "label": facts["label"].astype(int)}
    np.testing.assert_array_equal(loss(read, **numbers_for_label)[0], loss(read, **facts)[0])
