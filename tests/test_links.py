import itertools

import numpy as np
import pytest

from dpo_numpy import links
from dpo_numpy.links import chosen, dpop, each, hinge, kto, logistic, margin, negative, pair, sorted_margins, squared

KERNELS = {
    "logistic": (logistic, 1, {"beta": 0.7, "offset": 0.3}),
    "smoothed": (logistic, 1, {"beta": 0.7, "offset": -0.3, "eps": 0.2}),
    "nearly half": (logistic, 1, {"beta": 1.3, "eps": 0.49}),
    "squared": (squared, 1, {"target": 2.5}),
    "hinge": (hinge, 1, {"beta": 0.7}),
    "dpop": (dpop, 2, {"beta": 0.7, "lam": 3.0}),
    "negative": (negative, 1, {}),
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
    kinked = {"hinge": abs(1 - 0.7 * x[0]) < 3 * h, "dpop": abs(x[0]) < 3 * h}.get(name, np.zeros(400, bool))
    assert kinked.mean() < 0.5
    for i in range(arity):
        def at(k, i=i):
            moved = wide.copy()
            moved[i] += k * h
            return kernel(*moved, **hyper)[0]

        measured = (at(-2) - at(2) + 8 * (at(1) - at(-1))) / (12 * h)
        # h⁴ φ⁽⁵⁾/30, where |φ⁽⁵⁾| < 2 but for dpop's (2.8⁵); rounding, eps |φ|/h; and that of z = βh, at most 12
        # magnitudes, by which the slope moves
        scale = {"dpop": (0.7 * 4.0) ** 5}.get(name, 2)
        room = h**4 * scale / 30 + 2 * LONG * (abs(at(0)) + 1) / h + (8 + 12 * magnitude) * EPS * abs(ours[i])
        assert (abs(ours[i] - measured) <= room)[~kinked].all()


@pytest.mark.parametrize("name", KERNELS)
def test_complex_step(name):
    """The same derivative where branches look at the real part only."""
    kernel, arity, hyper = KERNELS[name]
    x = np.random.default_rng(1).normal(size=(arity, 200)) * 5
    for i, slope in enumerate(slopes(kernel, x, hyper)):
        stepped = kernel(*(x + 1e-40j * (np.arange(arity) == i)[:, None]), **hyper)[0].imag / 1e-40
        # φ' itself is rounded a dozen times; terms that cancel, of size at most beta
        np.testing.assert_allclose(slope, stepped, rtol=24 * EPS, atol=4 * EPS)


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
