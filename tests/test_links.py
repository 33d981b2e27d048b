import itertools
import math

import numpy as np
import pytest

from dpo_numpy import links
from dpo_numpy.links import (
    apo_down,
    apo_zero,
    balanced,
    batch_mean,
    bco,
    chosen,
    classify,
    discopop,
    dpop,
    dynamic,
    each,
    exo,
    fallen,
    gaps,
    hinge,
    infonca,
    js,
    kto,
    kto_at_zero,
    kto_pair,
    length_margin,
    logistic,
    margin,
    nca,
    nca_listwise,
    negative,
    odds_ratio,
    pair,
    plackett_luce,
    powers,
    ranking,
    reward_distance,
    robust,
    shifted,
    sorted_columns,
    sorted_margins,
    square_sum,
    squared,
    squares,
    weighted,
    win_rates,
)

LENGTH, W, SCORE, REWARD, WON = [7, 4], [0.9, 0.8], [2.5, 1.0], [1.5, -0.25], [0.8, 0.3]


def told(kernel, fact):
    """A kernel that knows its fact, in the dtype of the scores"""
    def knowing(*s, **hyper):
        return kernel(*s, np.asarray(fact, s[0].real.dtype), **hyper)

    return knowing


KERNELS = {
    "logistic": (logistic, 1, {"beta": 0.7, "offset": 0.3}),
    "smoothed": (logistic, 1, {"beta": 0.7, "offset": -0.3, "eps": 0.2}),
    "nearly half": (logistic, 1, {"beta": 1.3, "eps": 0.49}),
    "squared": (squared, 1, {"target": 2.5}),
    "hinge": (hinge, 1, {"beta": 0.7}),
    "dpop": (dpop, 2, {"beta": 0.7, "lam": 3.0}),
    "negative": (negative, 1, {}),
    "balanced": (balanced, 1, {"up": 0.7, "down": 1.4, "root": math.log(0.5)}),
    "robust": (robust, 1, {"beta": 0.7, "eps": 0.2}),
    "length_margin": (told(length_margin, LENGTH), 1, {"beta": 0.7, "alpha": 0.1}),
    "hinge of 0.3": (hinge, 1, {"beta": 0.7, "delta": 0.3}),
    "exo": (exo, 1, {"beta": 0.7, "eps": 0.2}),
    "discopop": (discopop, 1, {"beta": 0.7, "tau": 0.8}),
    "weighted": (told(weighted, W), 1, {"beta": 0.7, "clamp": True}),
    "gaps": (told(gaps, SCORE), 1, {"beta": 0.7, "alpha": 0.4, "f": "log"}),
    "gaps as they are": (told(gaps, SCORE), 1, {"beta": 0.7, "alpha": 0.4, "f": "identity"}),
    "reward kl": (told(reward_distance, REWARD), 1, {"beta": 0.7, "eta": 1.3, "distance": "kl"}),
    "reward reverse_kl": (told(reward_distance, REWARD), 1, {"beta": 0.7, "eta": 1.3, "distance": "reverse_kl"}),
    "reward squared": (told(reward_distance, REWARD), 1, {"beta": 0.7, "eta": 1.3, "distance": "squared"}),
    "shifted": (told(shifted, 0.4), 1, {}),
    "fallen": (fallen, 1, {}),
    "nca": (nca, 2, {"beta": 0.7}),
    "bco": (told(bco, 0.3), 2, {"beta": 0.7}),
    "squares": (squares, 2, {"target": 1.5}),
    "win_rates": (told(win_rates, WON), 2, {"beta": 0.7}),
    "apo_zero": (apo_zero, 2, {"beta": 0.7, "plus_one": False}),
    "apo_zero plus one": (apo_zero, 2, {"beta": 0.7, "plus_one": True}),
    "apo_down": (apo_down, 2, {"beta": 0.7, "plus_one": False}),
    "apo_down plus one": (apo_down, 2, {"beta": 0.7, "plus_one": True}),
    "js": (js, 2, {"beta": 0.7}),
    "powers": (powers, 2, {"beta": 0.7, "alphas": (0.05,), "offset": 0.2}),
    "powers mixed": (powers, 2, {"beta": 0.7, "alphas": (-0.05, 0.0), "eps": 0.2}),
    "square_sum": (square_sum, 2, {}),
    "classify": (lambda s, **hyper: classify(s, True, s.real.dtype.type(0.3), **hyper), 1, {"beta": 0.7}),
    "classify not": (lambda s, **hyper: classify(s, False, s.real.dtype.type(0.3), **hyper), 1, {"beta": 0.7}),
    "kto_at_zero": (lambda s, **hyper: kto_at_zero(s, True, **hyper), 1, {"beta": 0.7, "lam_d": 1.5, "lam_u": 2.5}),
    "desired": (lambda s, **hyper: kto(s, True, 0.4, **hyper), 1, {"beta": 0.7, "lam_d": 1.5, "lam_u": 2.5}),
    "undesired": (lambda s, **hyper: kto(s, False, 0.4, **hyper), 1, {"beta": 0.7, "lam_d": 1.5, "lam_u": 2.5}),
}
EPS = np.finfo(float).eps
LONG = np.finfo(np.longdouble).eps


def slopes(kernel, x, hyper):
    out = kernel(*x, **hyper)[1]
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("magnitude", [1e-3, 0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("name", KERNELS)
def test_slope_against_four_point_differences(name, magnitude):
    kernel, arity, hyper = KERNELS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(arity, 400)) * magnitude
    wide, ours = x.astype(np.longdouble), slopes(kernel, x, hyper)
    h = LONG**0.2
    kinks = {"hinge": 1 - 0.7 * x[0], "hinge of 0.3": 0.3 - 0.7 * x[0], "dpop": x[0], "fallen": x[0]}
    kinked = abs(kinks[name]) < 3 * h if name in kinks else np.zeros(400, bool)
    assert kinked.mean() < 0.5
    for i in range(arity):
        def at(k, i=i):
            moved = wide.copy()
            moved[i] += k * h
            return kernel(*moved, **hyper)[0]

        measured = (at(-2) - at(2) + 8 * (at(1) - at(-1))) / (12 * h)
        # h⁴ φ⁽⁵⁾/30, where |φ⁽⁵⁾| < 2 but for dpop's (2.8⁵) and exponentials of up to 10; rounding, eps |φ|/h; that of
        # z = βh, at most 12 magnitudes, by which the slope moves; and its terms, of up to β(1 + z), where they cancel
        scale = {"dpop": 2.8**5, "discopop": 200, "powers": np.exp(10), "powers mixed": np.exp(10)}.get(name, 2)
        terms = EPS * (1 + magnitude) * name.startswith(("discopop", "exo", "reward", "nca", "balanced", "powers"))
        room = h**4 * scale / 30 + 2 * LONG * (abs(at(0)) + 1) / h + 8 * terms
        room = room + (8 + 12 * magnitude) * EPS * abs(ours[i])
        assert (abs(ours[i] - measured) <= room)[~kinked].all()


@pytest.mark.parametrize("name", KERNELS)
def test_complex_step(name):
    """The same derivative where branches look at the real part only."""
    kernel, arity, hyper = KERNELS[name]
    x = np.random.default_rng(1).normal(size=(arity, 200)) * 5
    for i, slope in enumerate(slopes(kernel, x, hyper)):
        stepped = kernel(*(x + 1e-40j * (np.arange(arity) == i)[:, None]), **hyper)[0].imag / 1e-40
        # φ' itself is rounded a dozen times; terms that cancel, of size at most beta
        np.testing.assert_allclose(slope, stepped, rtol=24 * EPS, atol=16 * EPS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("name", KERNELS)
def test_dtype_is_kept(name, dtype):
    kernel, arity, hyper = KERNELS[name]
    x = np.random.default_rng(2).normal(size=(arity, 9)).astype(dtype)
    assert {out.dtype for out in (kernel(*x, **hyper)[0], *slopes(kernel, x, hyper))} == {np.dtype(dtype)}


def test_kinks():
    """At the kink the slope is 0 for the hinge, that of the unpenalized side for dpop."""
    value, slope = hinge(np.array([1.0, 2.0, 3.0]), beta=0.5)
    assert value.tolist() == [0.5, 0, 0]
    assert slope.tolist() == [-0.5, 0, 0]
    value, (up, down) = dpop(np.array([0.0, -1.0]), np.array([0.0, 0.0]), beta=1.0, lam=9.0)
    np.testing.assert_allclose(value, [np.log(2), np.log1p(np.exp(10))], rtol=4 * EPS)
    np.testing.assert_allclose(up, [-0.5, -10 / (1 + np.exp(-10))], rtol=4 * EPS)
    np.testing.assert_allclose(down, [0.5, 1 / (1 + np.exp(-10))], rtol=4 * EPS)


def test_smoothed_slope_keeps_its_digits_where_it_vanishes():
    """φ'(z₀ + δ) = β² ε (1-ε) δ near the minimum z₀ = log((1-ε)/ε); the difference of two terms leaves noise there."""
    for eps in (0.01, 0.3, 0.4999):
        least = np.log1p((1 - 2 * eps) / eps)
        for delta in (1e-12, -1e-12):
            z = np.array([least + delta])
            moved = z[0].astype(np.longdouble) - np.log1p((1 - 2 * np.longdouble(eps)) / np.longdouble(eps))
            # the next term of the series is δ of it; log1p in double is off by an ulp of z₀
            room = 8 * EPS + 1e-12 + EPS * least / 1e-12
            assert logistic(z, beta=1.0, eps=eps)[1][0] == pytest.approx(float(eps * (1 - eps) * moved), rel=room)


def test_smoothed_slope_at_the_far_ends():
    slope = logistic(np.array([-1e4, 1e4, -np.inf, np.inf]), beta=2.0, eps=0.25)[1]
    assert slope.tolist() == [-1.5, 0.5, -1.5, 0.5]


# ---- lifts

WEIGHT = np.array([1.0, 0.5, 2.0, 0.0])


def scores(columns, lead=()):
    return np.random.default_rng(3).normal(size=(*lead, 4, columns))


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_margin(lead):
    s = scores(2, lead)
    value, ds = margin(logistic, beta=0.7).fn(s, WEIGHT, {})
    expected, slope = logistic(s[..., 0] - s[..., 1], beta=0.7)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(ds[..., 0], WEIGHT * slope)
    np.testing.assert_array_equal(ds[..., 1], -WEIGHT * slope)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_pair(lead):
    s = scores(2, lead)
    value, ds = pair(dpop, beta=0.7, lam=3.0).fn(s, WEIGHT, {})
    expected, (up, down) = dpop(s[..., 0], s[..., 1], beta=0.7, lam=3.0)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(ds[..., 0], WEIGHT * up)
    np.testing.assert_array_equal(ds[..., 1], WEIGHT * down)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_chosen(columns):
    s = scores(columns, (2,))
    value, ds = chosen(squared, target=0.5).fn(s, WEIGHT, {})
    np.testing.assert_array_equal(value, (s[..., 0] - 0.5) ** 2)
    np.testing.assert_array_equal(ds[..., 0], WEIGHT * 2 * (s[..., 0] - 0.5))
    assert not ds[..., 1:].any()


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_each(lead):
    s, label = scores(1, lead), np.array([True, False, True, False])
    hyper = {"beta": 0.7, "lam_d": 1.5, "lam_u": 2.5}
    link = each(kto, "z0", **hyper)
    assert link.needs == ("label", "z0")
    value, ds = link.fn(s, WEIGHT, {"label": label, "z0": np.array(0.4)})
    for b in range(4):
        expected, slope = kto(s[..., b, 0], label[b], 0.4, **hyper)
        np.testing.assert_allclose(value[..., b], expected, rtol=2 * EPS)
        np.testing.assert_allclose(ds[..., b, 0], WEIGHT[b] * slope, rtol=2 * EPS)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_lifts_hand_over_facts(lead):
    """those of a comparison in its shape, those of a response with their axis; one loop is the same"""
    s, fact = scores(2, lead), {"length": np.array([[3, 9], [4, 4], [5, 2], [1, 8.0]]), "delta": np.arange(4.0)}
    value, ds = margin(length_margin, "length", beta=0.7, alpha=0.1).fn(s, WEIGHT, fact)
    paired, dpaired = pair(bco, "delta", beta=0.7).fn(s, WEIGHT, fact)
    assert margin(length_margin, "length").needs == ("length",)
    assert pair(bco, "delta").needs == ("delta",)
    for b in range(4):
        one, slope = length_margin(s[..., b, 0] - s[..., b, 1], fact["length"][b], beta=0.7, alpha=0.1)
        np.testing.assert_allclose(value[..., b], one, rtol=2 * EPS)
        np.testing.assert_allclose(ds[..., b, 0], WEIGHT[b] * slope, rtol=2 * EPS)
        two, slopes_ = bco(s[..., b, 0], s[..., b, 1], fact["delta"][b], beta=0.7)
        np.testing.assert_allclose(paired[..., b], two, rtol=2 * EPS)
        np.testing.assert_allclose(dpaired[..., b, 1], WEIGHT[b] * slopes_[1], rtol=2 * EPS)


# ---- rankings

RANKINGS = {
    "plackett_luce": (plackett_luce, [True] * 5, {"beta": 0.7}),
    "plackett_luce, short": (plackett_luce, [True] * 3 + [False] * 2, {"beta": 0.7}),
    "infonca": (infonca, [2.0, 1.5, 0.0, -0.5, 0.25], {"beta": 0.7, "alpha": 0.8}),
    "infonca, certain": (infonca, [20.0, 1.5, 0.0, -0.5, 0.25], {"beta": 0.7, "alpha": 0.8}),
    "nca_listwise": (nca_listwise, [2.0, 1.5, 0.0, -0.5, 0.25], {"beta": 0.7, "alpha": 0.8}),
}


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("name", RANKINGS)
def test_slopes_of_a_ranking(name, magnitude):
    kernel, fact, hyper = RANKINGS[name]
    s = magnitude * np.random.default_rng(6).normal(size=(50, 5)).T
    fact = np.array(fact)[:, None]
    value, slopes_ = kernel(s, fact, **hyper)
    assert value.shape == (50,)
    for k in range(5):
        stepped = kernel(s + 1e-40j * (np.arange(5) == k)[:, None], fact, **hyper)[0].imag / 1e-40
        # sums of up to five shares of at most beta
        np.testing.assert_allclose(slopes_[k], stepped, rtol=32 * EPS, atol=16 * EPS)


def test_a_ranking_weighs_its_rows():
    s, present = scores(3, (2,)), np.broadcast_to([[True, True, k > 1] for k in range(4)], (2, 4, 3))
    value, ds = ranking(plackett_luce, "present", beta=0.7).fn(s, WEIGHT, {"present": present})
    for r, b in np.ndindex(2, 4):
        expected, slope = plackett_luce(s[r, b], present[r, b], beta=0.7)
        assert value[r, b] == pytest.approx(expected, rel=2 * EPS)
        np.testing.assert_allclose(ds[r, b], WEIGHT[b] * slope, rtol=2 * EPS)


def test_luce_is_the_probability_of_an_order():
    """Σ over all orders of exp(-loss) is 1; two responses are a logistic of their difference; so is a short ranking."""
    s = np.random.default_rng(7).normal(size=4)
    orders = np.array(list(itertools.permutations(range(4)))).T
    total = np.exp(-plackett_luce(s[orders], np.ones((4, 24), bool), beta=0.7)[0]).sum()
    assert total == pytest.approx(1, rel=16 * EPS)
    value, slope = plackett_luce(s, np.array([True, True, False, False]), beta=0.7)
    expected, by_margin = logistic(s[0] - s[1], beta=0.7)
    assert value == pytest.approx(float(expected), rel=4 * EPS)
    np.testing.assert_allclose(slope, [by_margin, -by_margin, 0, 0], rtol=4 * EPS)


@pytest.mark.parametrize("name", RANKINGS)
def test_a_ranking_near_its_target_and_one_far_away_do_not_hear_of_each_other(name):
    kernel, _, hyper = RANKINGS[name]
    score = np.array([[2.0, 9.0, 1e-9], [1.5, -7.0, 0.0], [1.4, 0.0, 0.0]])
    s = np.array([[2.0, 0.0, 0.0], [1.4, 1.0, 0.0], [1.3, -50.0, 1e-9]])
    fact = score if kernel is not plackett_luce else np.array([[True] * 3, [True] * 3, [True, False, True]])
    together, slopes_ = kernel(s, fact, **hyper)
    for b in range(3):
        value, slope = kernel(s[:, b], fact[:, b], **hyper)
        np.testing.assert_allclose(together[b], value, rtol=4 * EPS)
        np.testing.assert_allclose(slopes_[:, b], slope, rtol=4 * EPS)


def test_a_ranking_of_one():
    """Nothing to choose from; against noise, one response is a label of a coin"""
    one = np.array([0.3])
    for kernel, fact, hyper in ((plackett_luce, np.array([True]), {}), (infonca, one, {"alpha": 0.8})):
        value, slope = kernel(one, fact, beta=0.7, **hyper)
        assert value == 0 and slope.tolist() == [0]
    value, slope = nca_listwise(one, one, beta=0.7, alpha=0.8)
    assert value == pytest.approx(np.log1p(np.exp(0.21)) + np.log1p(np.exp(-0.21)), rel=4 * EPS)
    assert slope == pytest.approx(0.7 * np.tanh(0.105), rel=4 * EPS)


def test_slopes_of_nca_where_scores_are_far_from_zero():
    """½ tanh(δ/2) is what a label is off ½, δ the scores' difference; far below 0 and far apart, nothing overflows"""
    score = np.array([100.0, 100.0 - 2.0**-30])
    _, slope = nca_listwise(np.zeros(2), score, beta=0.7, alpha=0.5)
    off = 0.35 * 0.5 * np.tanh(2.0**-30)
    np.testing.assert_allclose(slope, [-off, off], rtol=8 * EPS)
    _, slope = nca_listwise(np.zeros(2), np.array([-1.0, -1000.0]), beta=0.7, alpha=0.5)
    np.testing.assert_allclose(slope, [-0.175, 0.175], rtol=8 * EPS)


def test_a_response_that_is_absent_is_not_heard():
    present = np.array([True, True, False])
    for absent in (np.nan, np.inf, -np.inf, 1e300):
        value, slope = plackett_luce(np.array([1.0, 2.0, absent]), present, beta=0.7)
        assert value == plackett_luce(np.array([1.0, 2.0, 0.0]), present, beta=0.7)[0]
        assert slope[2] == 0


# ---- odds and powers

@pytest.mark.parametrize("magnitude", [1e-12, 1e-3, 1.0, 30.0])
def test_odds_ratio(magnitude):
    a, b = -magnitude * np.random.default_rng(8).random((2, 300)) - 1e-15
    value, (up, down) = odds_ratio(a, b)
    wide = [x.astype(np.longdouble) for x in (a, b)]
    z = np.subtract(*(x - np.log(-np.expm1(x)) for x in wide))
    naive = np.where(z > 0, 0, -z) + np.log1p(np.exp(-abs(z)))
    # z in extended precision is good to its eps times |log odds| < 40
    np.testing.assert_allclose(value, naive, rtol=16 * EPS)
    np.testing.assert_allclose(up, -1 / (1 + np.exp(z)) / -np.expm1(wide[0]), rtol=16 * EPS)
    np.testing.assert_allclose(down, 1 / (1 + np.exp(z)) / -np.expm1(wide[1]), rtol=16 * EPS)


def test_odds_of_what_is_certain():
    """limits: odds ∞ against odds 1/(e-1), the other way round, and both"""
    value, (up, down) = odds_ratio(np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0]))
    np.testing.assert_allclose(value, [0, np.inf, np.log(2)])
    np.testing.assert_allclose(up, [-1 / np.expm1(1), 1 / np.expm1(-1), -np.inf], rtol=4 * EPS)
    np.testing.assert_allclose(down, [0, np.inf, np.inf])


def test_a_power_that_overflows_keeps_its_sign_and_a_vanishing_slope_is_zero():
    with np.errstate(all="raise", under="ignore"):
        value, (up, down) = powers(np.array([-1e4, 0.0, -1e4]), np.array([0.0, -1e4, -1e4]), beta=0.5, alphas=(1.0,))
    np.testing.assert_allclose(value, [np.inf, 0, np.log(2)])
    assert up.tolist() == [-np.inf, 0, -np.inf]
    assert down.tolist() == [0.5, 0, np.inf]


def test_gaps_are_positive():
    with pytest.raises(ValueError, match=r"score of the chosen less that of the rejected is -1.0; expected above 0"):
        gaps(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]), beta=1.0, alpha=1.0, f="log")
    with pytest.raises(ValueError, match=r"^score of the chosen less that of the rejected is 0\.0; expected above 0"):
        gaps(np.zeros(1), np.array([[2.0, 2.0]]), beta=1.0, alpha=1.0, f="log")


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.3])
def test_the_root_of_smoothed_labels_is_known_to_more_digits_than_float32_has(eps):
    """next to it, where the slope is φ'' (z - root), φ'' = ε (1-ε)"""
    root = math.log((1 - eps) / eps)
    z = np.float32(root) + np.arange(-8, 9, dtype=np.float32) * np.spacing(np.float32(root))
    _, slope = logistic(z, beta=1.0, eps=eps)
    assert slope.dtype == np.float32
    np.testing.assert_allclose(slope, eps * (1 - eps) * (z.astype(float) - root), rtol=1e-5)


@pytest.mark.parametrize("K", range(2, 14))
def test_slopes_of_a_ranking_of_equals_keep_the_digits_that_cancel(K):
    """Σ_{k<j} 1/(K-k) - (K-j-1)/(K-j), of which little may be left: 0.02 of terms up to 0.8 for the eighth of twelve"""
    _, slopes = plackett_luce(np.zeros(K), np.ones(K, bool), beta=1.0)
    exact = [math.fsum([1 / (K - k) for k in range(j)] + [-1 / (K - j)] * (K - j - 1)) for j in range(K)]
    np.testing.assert_allclose(slopes, exact, rtol=2 * np.finfo(float).eps)


def test_a_product_of_weights_is_clamped_where_it_is_above_one():
    h, w = np.array([0.5, 0.5]), np.array([[2.0, 3.0], [0.5, 0.5]])
    value, slope = logistic(h, 0.7)
    for clamp, v in ((True, [1, 0.25]), (False, [6, 0.25])):
        ours, dours = weighted(h, w, beta=0.7, clamp=clamp)
        np.testing.assert_array_equal(ours, v * value)
        np.testing.assert_array_equal(dours, v * slope)


# ---- a whole batch

def test_batch_mean_is_the_sum_over_the_count():
    s, length = scores(2), np.array([[3.0, 1.0], [9.0, 1.0], [1.0, 1.0], [4.0, 1.0]])
    value, ds = batch_mean().fn(s, WEIGHT, {"length": length})
    assert WEIGHT @ value / WEIGHT.sum() == pytest.approx(-(WEIGHT @ s[:, 0]) / (WEIGHT @ length[:, 0]), rel=4 * EPS)
    np.testing.assert_allclose(ds[:, 0], -WEIGHT * WEIGHT.sum() / (WEIGHT @ length[:, 0]), rtol=4 * EPS)
    assert not ds[:, 1].any()
    value, ds = batch_mean().fn(s, 0 * WEIGHT, {"length": length})
    assert not value.any() and not ds.any()


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_kto_pair(detach, seed):
    """against the definition, and its gradient by differences, the baselines moving or not"""
    s = np.random.default_rng(seed).normal([0.3, -0.1], size=(4, 2))
    weight = np.array([1.0, 0.5, 2.0, 0.25])

    def definition(s, at):
        k_w, k_l = np.maximum(0, weight @ at / weight.sum())
        first, second = (1 / (1 + np.exp(-0.7 * x)) for x in (s[:, 0] - k_l, k_w - s[:, 1]))
        return weight @ (1 - first + 1 - second) / 2

    value, ds = kto_pair(0.7, detach).fn(s, weight, {})
    assert weight @ value == pytest.approx(definition(s, s), rel=8 * EPS)
    h = 1e-5
    for at in np.ndindex(4, 2):
        step = np.zeros((4, 2))
        step[at] = h
        up, down = (definition(s + sign * step, s if detach else s + sign * step) for sign in (1, -1))
        assert ds[at] == pytest.approx((up - down) / (2 * h), abs=1e-9)  # h² of a third derivative, 4 EPS/h of rounding


def test_dynamic():
    s, keep = scores(2), np.array([True, False, True, True])
    h, weight = s[:, 0] - s[:, 1], np.array([1.0, 5.0, 2.0, 0.5])
    rate = 0.4 * (1 + 0.6 * (weight[keep] @ h[keep] / weight[keep].sum() - 0.3))
    value, ds = dynamic(0.4, 0.6, 1e-3).fn(s, weight, {"m0": np.array(0.3), "keep": keep})
    expected, slope = logistic(h, rate)
    np.testing.assert_allclose(value, np.where(keep, expected, 0), rtol=8 * EPS)
    np.testing.assert_allclose(ds[:, 0], np.where(keep, weight * slope, 0), rtol=8 * EPS)
    np.testing.assert_array_equal(ds[:, 1], -ds[:, 0])
    value, _ = dynamic(0.4, 0.6, 0.25).fn(s, weight, {"m0": np.array(50.0), "keep": keep})
    np.testing.assert_allclose(value[keep], logistic(h, 0.25)[0][keep], rtol=8 * EPS)


def test_dynamic_with_nothing_to_keep():
    value, ds = dynamic(0.4, 0.6, 1e-3).fn(scores(2), WEIGHT, {"m0": np.array(0.0), "keep": np.zeros(4, bool)})
    assert not value.any()
    assert not ds.any()


@pytest.mark.parametrize("weight", [[1, 1, 1, 1], [2, 1, 3, 1], [0, 2, 1, 0]])
def test_columns_meet_rank_by_rank(weight):
    """weights are copies; what the chosen gain, the rejected at the same rank lose"""
    s, weight = scores(2), np.array(weight, float)
    copies = np.repeat(np.arange(4), weight.astype(int))
    link = sorted_columns(logistic, beta=0.7)
    value, ds = link.fn(s, weight, {})
    a, b = np.sort(s[copies, 0]), np.sort(s[copies, 1])
    assert weight @ value == pytest.approx(logistic(a - b, beta=0.7)[0].sum(), rel=16 * EPS)
    h = 1e-5
    for at in np.ndindex(4, 2):
        step = np.zeros((4, 2))
        step[at] = h
        up, down = (weight @ link.fn(s + x * step, weight, {})[0] for x in (1, -1))
        assert ds[at] == pytest.approx((up - down) / (2 * h), abs=1e-9)
    assert ds.sum() == pytest.approx(0, abs=16 * EPS)


# ---- optimal transport of margins

def transport(s, ref, weight=None, **hyper):
    weight = np.ones(len(s)) if weight is None else np.asarray(weight, float)
    return sorted_margins(logistic, **hyper).fn(s, weight, {"ref_logp": ref})


def batch(size, seed=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 2)) * 3, rng.normal(size=(size, 2)) * 3


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_transport_of_equal_weights_is_a_sort(size):
    s, ref = batch(size)
    value, ds = transport(s, ref, beta=0.7, eps=0.1)
    u, v = s[:, 0] - s[:, 1], ref[:, 0] - ref[:, 1]
    rank = [sorted(u).index(x) for x in u]
    expected, slope = logistic(u - np.sort(v)[rank], beta=0.7, eps=0.1)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(ds, np.stack([slope, -slope], axis=-1))


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_transport_of_equal_weights_is_that_of_any_weights(weight, levels):
    """Ranks that meet one to one, against pieces of mass: nothing tied, and nearly all of it; row by row"""
    rng = np.random.default_rng(5)
    u, v = rng.integers(levels, size=(2, 300)) / 4.0
    weights = np.full(300, weight)
    rows, cols, mass = links._coupling(u, v, weights)
    assert len(rows) == 300
    phi, slope = logistic(u[rows] - v[cols], beta=0.7)
    value, du, dv = (np.zeros(300) for _ in range(3))
    value[rows], du[rows], dv[cols] = phi, mass * slope, -mass * slope
    ours = links._by_rank(lambda h: logistic(h, beta=0.7), u, v, weights)
    for found, expected in zip(ours, (value, du, dv), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0 if weight == 1 else 2 * EPS)


def test_transport_without_any_weight():
    value, ds = transport(*batch(4), np.zeros(4), beta=0.7)
    assert not value.any() and not ds.any()


def test_the_order_of_what_is_tied_is_that_of_the_rows():
    """Python's sort is stable; a NaN is larger than any number, in whatever order"""
    x = np.random.default_rng(6).integers(50, size=2000) / 4.0
    x[7] = -0.0
    alone = np.where(np.arange(2000) == 9, -1.0, x)
    for tied in (x, alone):
        assert links._order(tied).tolist() == sorted(range(2000), key=tied.tolist().__getitem__)
    x = np.random.default_rng(6).permutation(2000) / 4.0
    assert links._order(x).tolist() == np.argsort(x, kind="stable").tolist()
    x[:3] = np.nan
    assert set(links._order(x)[-3:]) == {0, 1, 2}


def test_transport_is_the_cheapest_matching():
    """The cost is convex in the difference, so of all permutations the sorted one is the least."""
    s, ref = batch(5)
    u, v = s[:, 0] - s[:, 1], ref[:, 0] - ref[:, 1]
    brute = min(logistic(u - v[list(order)], beta=0.7)[0].sum() for order in itertools.permutations(range(5)))
    assert transport(s, ref, beta=0.7)[0].sum() == pytest.approx(brute, rel=8 * EPS)


@pytest.mark.parametrize("weight", [[2, 1, 3, 1], [1, 4, 1, 1], [0, 2, 1, 0], [3, 3, 3, 3]])
def test_transport_weights_are_copies(weight):
    s, ref = batch(4)
    copies = np.repeat(np.arange(4), weight)
    value, ds = transport(s, ref, weight, beta=0.7)
    each_value, each_ds = transport(s[copies], ref[copies], beta=0.7)
    for b in range(4):
        here = copies == b
        # of up to 12 numbers: a sum and its parts
        np.testing.assert_allclose(ds[b], each_ds[here].sum(axis=0), rtol=16 * EPS, atol=16 * EPS)
        assert value[b] == (pytest.approx(each_value[here].mean(), rel=16 * EPS) if here.any() else 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transport_of_small_weights_keeps_digits(dtype):
    """Weights 1/B: a mass is a difference of cumulative sums near 1, in float32 4 of 7 digits are left at B = 2,000."""
    s, ref = (x.astype(dtype) for x in batch(2000))
    link = sorted_margins(logistic, beta=dtype(0.7))
    value, ds = link.fn(s, np.full(2000, 1 / 2000, dtype), {"ref_logp": ref})
    expected, slope = link.fn(s, np.ones(2000, dtype), {"ref_logp": ref})
    # a mass is off by 2,000 roundings of longdouble, next to those of the answer
    room = 4 * np.finfo(dtype).eps + 2000 * 2000 * LONG
    np.testing.assert_allclose(value, expected, rtol=room)
    np.testing.assert_allclose(ds * 2000, slope, rtol=room)


def test_transport_of_masses_that_add_up_differently():
    """The two totals differ by a rounding, and the last rows may weigh less than that, or nothing."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        s, ref = batch(12, seed)
        weight = 10 ** rng.uniform(-25, 0, 12) * (rng.random(12) < 0.7)
        weight[rng.integers(12)] = 1
        value, ds = transport(s, ref, weight, beta=0.7)
        heavy = weight > 0
        kept, dkept = transport(s[heavy], ref[heavy], weight[heavy], beta=0.7)
        # 12 masses, each an ulp of the total off
        assert weight @ value == pytest.approx(weight[heavy] @ kept, rel=24 * EPS)
        np.testing.assert_allclose(ds[heavy], dkept, rtol=0, atol=24 * EPS * weight.sum())
        assert abs(ds[~heavy]).max(initial=0) <= 24 * EPS * weight.sum()


def test_transport_ties_in_any_order():
    s, ref = batch(6)
    s[:3], ref[2:5] = s[0], ref[2]
    value, ds = transport(s, ref, beta=0.7)
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        order = list(order)
        again, dagain = transport(s[order], ref[order], beta=0.7)
        assert again.sum() == pytest.approx(value.sum(), rel=8 * EPS)
        # the tied rows share their slopes in another way, the rest keep theirs
        np.testing.assert_allclose(dagain[np.argsort(order)][:3].sum(axis=0), ds[:3].sum(axis=0), rtol=8 * EPS)
        np.testing.assert_allclose(dagain[np.argsort(order)][3:], ds[3:], rtol=8 * EPS)


def test_transport_gradient():
    """of Σ weight·value, by differences, with weights that do not match up"""
    s, ref = batch(5)
    weight = np.array([0.5, 1.0, 0.3, 2.0, 0.7])
    _, ds = transport(s, ref, weight, beta=0.7, eps=0.2)
    h = 1e-5
    for at in np.ndindex(5, 2):
        step = np.zeros((5, 2))
        step[at] = h
        up, down = (weight @ transport(s + sign * step, ref, weight, beta=0.7, eps=0.2)[0] for sign in (1, -1))
        # h² φ'''/6 < 1e-11, and 10 roundings of Σ < 20 over h: 5e-9
        assert ds[at] == pytest.approx((up - down) / (2 * h), abs=5e-9)


def test_transport_of_replicates_is_a_loop():
    s, ref = np.stack([batch(4, 5)[0], batch(4, 6)[0]]), batch(4, 7)[1]
    value, ds = sorted_margins(logistic, beta=0.7).fn(s, WEIGHT, {"ref_logp": ref})
    for r in range(2):
        one, done = transport(s[r], ref, WEIGHT, beta=0.7)
        np.testing.assert_array_equal(value[r], one)
        np.testing.assert_array_equal(ds[r], done)


def test_everything_public_is_tested_here():
    assert set(links.__all__) - {"Link"} <= set(globals())
