"""analytic.divergences: the definitions in fifty digits, limits by hand, inequalities, and the f-DPO policy."""

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose

from analytic import divergences, minimizers, optimum
from analytic.divergences import f_divergence, generator, renyi, slope, slope_inverse

EPS = np.finfo(float).eps
LOG2 = np.log(2)


def pairs(rng, n=2000, K=4):
    """n distributions p and q, from far apart to close, each alone or together near a corner"""
    x = rng.normal(size=(n, K)) * 10 ** rng.uniform(-2, 0.7, size=(n, 1))
    y = x + rng.normal(size=(n, K)) * 10 ** rng.uniform(-6, 0.7, size=(n, 1))
    p, q = (np.exp(z - z.max(axis=1, keepdims=True)) for z in (x, y))
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


def power(alpha):
    """f with f' = (1 - u^-α)/α, by its limits at 0 and 1"""
    a = mp.mpf(alpha)
    if a == 0:
        return lambda u: u * mp.log(u) - u + 1
    if a == 1:
        return lambda u: u - 1 - mp.log(u)
    return lambda u: u / a - u ** (1 - a) / (a * (1 - a)) + 1 / (1 - a)


F = {
    "reverse_kl": power(0),
    "forward_kl": power(1),
    "js": lambda u: u * mp.log(u) - (1 + u) * mp.log((1 + u) / 2),
    "chi2": lambda u: (u - 1) ** 2 / 2,
    "mixed_chi2": lambda u: (u - 1) ** 2 / 2 + u * mp.log(u) - u + 1,
    "squared_hellinger": lambda u: (mp.sqrt(u) - 1) ** 2 / 2,
    "total_variation": lambda u: abs(u - 1) / 2,
}
ALPHAS = (-40.0, -2.5, -1e-9, 1e-300, 0.3, 0.5, 1 - 1e-9, 1.0, 1.7, 40.0)
#: name, α and f of each
MEMBERS = [(name, 0.5, f) for name, f in F.items()] + [("alpha", alpha, power(alpha)) for alpha in ALPHAS]
SMOOTH = [member for member in MEMBERS if member[0] != "total_variation"]


def test_there_is_a_formula_for_each():
    assert {name for name, _, _ in MEMBERS} == set(divergences.DIVERGENCES)
    assert set(minimizers.DIVERGENCES) < set(divergences.DIVERGENCES)


# Values


@pytest.mark.parametrize(("name", "alpha", "f"), MEMBERS)
def test_generators_in_fifty_digits(name, alpha, f, rng):
    """To 16 ulps, and as many more as the exponent of u^-α has units, at any distance of u from 1."""
    u = np.exp(10.0 ** rng.uniform(-15, 2.4, 40) * rng.choice([-1, 1], 40))
    u = u[u != 1]
    with mp.workdps(90 + 600 * (alpha == 1e-300)):
        exact = np.array([float(f(mp.mpf(x))) for x in u])
    value, ordinary = generator(u, name, alpha), exact < 1e300
    sharp = EPS * (16 + abs(np.log(u) * max(1, abs(alpha))))
    assert (abs(value[ordinary] / exact[ordinary] - 1) <= sharp[ordinary]).all()
    assert (value[~ordinary] > 1e299).all()


@pytest.mark.parametrize(("name", "alpha", "f"), MEMBERS)
def test_divergences_keep_their_digits_however_close_the_two_are(name, alpha, f):
    """Dyadic numbers, so that rows sum to 1 exactly; Σ p log p/q leaves ε/distance² of it."""
    p = np.array([0.25, 0.5, 0.25])
    for distance in (2.0**-4, 2.0**-20, 2.0**-40, 2.0**-50):
        q = p + distance * np.array([1, -0.5, -0.5])
        with mp.workdps(120 + 600 * (alpha == 1e-300)):
            exact = mp.fsum(mp.mpf(y) * f(mp.mpf(x) / mp.mpf(y)) for x, y in zip(p, q, strict=True))
            assert_allclose(f_divergence(p, q, name, alpha), float(exact), rtol=16 * EPS * (1 + abs(alpha)))
    assert f_divergence(p, p, name, alpha) == 0


def test_the_two_kls_are_those_of_optimum(rng):
    p, q = pairs(rng)
    rounding = 16 * EPS * (1 + abs(np.log(p / q)).max())
    assert_allclose(f_divergence(p, q, "reverse_kl"), optimum.kl(p, q), rtol=0, atol=rounding)
    assert_allclose(f_divergence(p, q, "forward_kl"), optimum.kl(q, p), rtol=0, atol=rounding)


def test_members_of_the_family_and_the_other_way_round(rng):
    p, q = pairs(rng)
    m = (p + q) / 2
    for name, alpha in (("reverse_kl", 0), ("forward_kl", 1), ("chi2", -1)):
        assert_allclose(f_divergence(p, q, name), f_divergence(p, q, "alpha", alpha), rtol=8 * EPS)
    assert_allclose(4 * f_divergence(p, q, "squared_hellinger"), f_divergence(p, q, "alpha", 0.5), rtol=8 * EPS)
    for alpha in (-3.0, -0.2, 0.3, 0.5, 0.9):
        back = f_divergence(q, p, "alpha", 1 - alpha)
        assert_allclose(f_divergence(p, q, "alpha", alpha), back, rtol=64 * EPS * (1 + abs(np.log(p / q)).max()))
    assert_allclose(f_divergence(p, q, "js"), optimum.kl(p, m) + optimum.kl(q, m), rtol=0, atol=64 * EPS)
    both = f_divergence(p, q, "chi2") + f_divergence(p, q, "reverse_kl")
    assert_allclose(f_divergence(p, q, "mixed_chi2"), both, rtol=8 * EPS)
    assert_allclose(f_divergence(p, q, "chi2"), ((p - q) ** 2 / q).sum(axis=1) / 2, rtol=64 * EPS)
    hellinger = ((p**0.5 - q**0.5) ** 2).sum(axis=1) / 2
    assert_allclose(f_divergence(p, q, "squared_hellinger"), hellinger, rtol=0, atol=8 * EPS)
    assert_allclose(f_divergence(p, q, "total_variation"), abs(p - q).sum(axis=1) / 2, rtol=8 * EPS)


@pytest.mark.parametrize(
    ("name", "alpha", "lost", "missed", "apart"),
    [  # p = (1, 0), q = (½, ½); p and q exchanged; no response in common: (1, 0) and (0, 1)
        ("reverse_kl", 0, LOG2, np.inf, np.inf),
        ("forward_kl", 0, np.inf, LOG2, np.inf),
        ("js", 0, 1.5 * np.log(4 / 3), 1.5 * np.log(4 / 3), 2 * LOG2),
        ("chi2", 0, 0.5, np.inf, np.inf),
        ("mixed_chi2", 0, 0.5 + LOG2, np.inf, np.inf),
        ("squared_hellinger", 0, 1 - 0.5**0.5, 1 - 0.5**0.5, 1),
        ("total_variation", 0, 0.5, 0.5, 1),
        ("alpha", 0.25, (1 - 0.5**0.25) / 0.1875, (1 - 0.5**0.75) / 0.1875, 1 / 0.1875),  # (1 - Σ p^¾ q^¼)/(α (1-α))
        ("alpha", 2.0, np.inf, 0.5, np.inf),
        ("alpha", -2.0, 0.5, np.inf, np.inf),  # (1 - 4)/(-6)
        ("alpha", 1.0, np.inf, LOG2, np.inf),
    ],
)
def test_where_one_of_the_two_has_no_mass(name, alpha, lost, missed, apart):
    for p, q, exact in (([1, 0], [0.5, 0.5], lost), ([0.5, 0.5], [1, 0], missed), ([1, 0], [0, 1], apart)):
        assert_allclose(f_divergence(p, q, name, alpha), exact, rtol=8 * EPS)
        assert_allclose(f_divergence([*p, 0], [*q, 0], name, alpha), exact, rtol=8 * EPS)


def test_the_ends_of_float64():
    tiny = 5e-324
    for name, alpha in (("reverse_kl", 0.0), ("js", 0.0), ("squared_hellinger", 0.0), ("alpha", 0.3), ("alpha", 0.9)):
        gone, there = (f_divergence([1.0, 0.0], [x, 1.0], name, alpha) for x in (0.0, tiny))
        assert there == (pytest.approx(-np.log(tiny), rel=8 * EPS) if name == "reverse_kl" else
                         pytest.approx(gone, rel=1e-13 + tiny ** min(alpha or 1, 1 - alpha)))
    assert_allclose(f_divergence([1e-200, 1], [1e-300, 1], "alpha", -4.0), 1e200 / 20, rtol=1e-12)  # p⁵ q⁻⁴/20
    assert f_divergence([0.5, 0.5], [tiny, 1.0], "chi2") == np.inf


# Derivatives


@pytest.mark.parametrize(("name", "alpha", "f"), SMOOTH)
def test_slopes_are_derivatives_and_have_inverses(name, alpha, f):
    for u in (1e-3, 0.4, 1 - 1e-9, 1.0, 1.5, 30.0):
        with mp.workdps(90 + 600 * (alpha == 1e-300)):
            exact, curvature = (float(mp.diff(lambda x, u=u: f(x * mp.mpf(u)), 1, n)) / u**n for n in (1, 2))
        t = slope(u, name, alpha)
        assert_allclose(t, exact, rtol=EPS * (16 + 8 * abs(alpha * np.log(u))), atol=1e-14 * (u == 1))
        worth = abs(t) / (u * curvature)  # of a digit of t in digits of u
        if 0 < worth < 1e6:
            assert_allclose(slope_inverse(t, name, alpha), u, rtol=16 * EPS * (1 + worth))


@pytest.mark.parametrize(("name", "alpha", "f"), SMOOTH)
def test_the_conjugate_is_never_exceeded_and_met_at_the_slope(name, alpha, f, rng):
    """u t <= f(u) + f*(t), f*(t) = t f'⁻¹(t) - f(f'⁻¹(t)): the variational bound, a response at a time."""
    u, other = np.exp(rng.normal(size=(2, 50)) / max(1, abs(alpha)))
    t = slope(other, name, alpha)
    best = slope_inverse(t, name, alpha)
    conjugate = t * best - generator(best, name, alpha)
    room = generator(u, name, alpha) + conjugate - u * t
    terms = 1 + abs(conjugate) + abs(u * t) + generator(u, name, alpha)
    assert (room >= -1e-12 * terms).all() and (room > 1e-6).any()
    met = generator(other, name, alpha) + conjugate - other * t
    assert_allclose(met / terms, 0, atol=1e-12)


def test_slopes_at_the_border():
    assert slope(0.0, "chi2") == -1 and slope_inverse([-1.0, -5.0], "chi2").tolist() == [0, 0]
    assert slope(0.0, "reverse_kl") == -np.inf and slope_inverse(-800.0, "reverse_kl") == 0
    assert_allclose(slope(0.0, "alpha", -2.0), -0.5, rtol=EPS)
    assert slope_inverse([1.0, 7.0], "forward_kl").tolist() == [np.inf, np.inf]
    assert slope_inverse(1.0, "js") == np.inf and slope_inverse(0.5, "squared_hellinger") == np.inf
    assert_allclose(slope(1e300, "js"), LOG2, rtol=2 * EPS)
    assert slope_inverse(1e3, "mixed_chi2") == pytest.approx(1001 - np.log(1001 - np.log(994.1)), rel=1e-8)
    assert slope([0.3, 1.0, 4.0], "total_variation").tolist() == [-0.5, 0, 0.5]
    for name, alpha, _ in SMOOTH:
        assert slope(1.0, name, alpha) == generator(1.0, name, alpha) == 0
        assert slope_inverse(0.0, name, alpha) == 1


@pytest.mark.parametrize("name", [*minimizers.DIVERGENCES, -1.5, 3.0])
def test_f_dpo_maximizes_reward_less_the_divergence(name, rng):
    """J is concave: let r - β f'(π/π_ref) be one number λ, no more where π is 0. And no other policy is better."""
    name, alpha = ("alpha", name) if isinstance(name, float) else (name, 0.5)
    clipped = 0
    for _ in range(6):
        ref, reward, beta = rng.dirichlet(np.ones(5)), 2 * rng.normal(size=5), rng.uniform(0.3, 2)
        pi = minimizers.f_dpo(ref, reward, beta, name, alpha)
        levels = reward - beta * slope(pi / ref, name, alpha)
        lam = levels[pi > 0].mean()
        size = abs(reward).max() + beta * abs(slope(pi / ref, name, alpha)).max()
        assert_allclose(levels[pi > 0], lam, rtol=0, atol=256 * EPS * size)
        assert (levels[pi == 0] <= lam).all()
        clipped += (pi == 0).sum()
        assert_allclose(ref * slope_inverse((reward - lam) / beta, name, alpha), pi, rtol=1e-9, atol=1e-13)
        others = 0.9 * pi + 0.1 * rng.dirichlet(np.ones(5), size=200)
        J, *less = (x @ reward - beta * f_divergence(x, ref, name, alpha) for x in (pi, others))
        assert (less[0] < J).all()
    assert (clipped > 0) == (name == "chi2" or (name == "alpha" and alpha < 0))


# Rényi


@pytest.mark.parametrize("order", [1e-9, 0.3, 0.5, 0.9, 1 - 1e-10, 1 + 1e-10, 1.5, 2.0, 30.0])
def test_renyi_in_fifty_digits(order, rng):
    for p, q in zip(*pairs(rng, 20), strict=True):
        with mp.workdps(50):
            x, y = ([mp.mpf(v) / mp.fsum(map(mp.mpf, w)) for v in w] for w in (p, q))
            a = mp.mpf(order)
            exact = float(mp.log(mp.fsum(s**a * t ** (1 - a) for s, t in zip(x, y, strict=True))) / (a - 1))
        assert_allclose(renyi(p, q, order), exact, rtol=0, atol=16 * EPS * (1 + abs(np.log(p / q)).max()))


def test_renyi_never_falls_with_the_order_and_has_its_limits(rng):
    p, q = pairs(rng)
    D = [renyi(p, q, order) for order in (0, 1e-3, 0.5, 1 - 1e-9, 1, 1 + 1e-9, 2, 50, 1e9, 1e300, np.inf)]
    assert (np.diff(D, axis=0) >= -1e-13).all()
    assert_allclose(D[4], optimum.kl(p, q), rtol=0, atol=1e-13)
    assert_allclose([D[3], D[5]], [D[4]] * 2, rtol=0, atol=1e-7)  # 1e-9 times half the variance of log p/q
    assert_allclose(D[-1], np.log((p / q).max(axis=1)), rtol=0, atol=1e-14)
    assert_allclose([D[-2], D[-3]], [D[-1]] * 2, rtol=0, atol=1e-7)  # -log q over the order
    assert_allclose(D[0], 0, atol=1e-15)
    assert_allclose(D[2], -2 * np.log1p(-f_divergence(p, q, "squared_hellinger")), rtol=1e-12)


def test_renyi_where_one_of_the_two_has_no_mass():
    orders = (0, 0.25, 1, 2, np.inf)
    lost = [renyi([0.5, 0.5, 0], [0.25, 0, 0.75], a) for a in orders]  # Σ over the first: ½^a ¼^(1-a)
    assert_allclose(lost, [np.log(4), np.log(0.5**0.25 * 0.25**0.75) / -0.75, np.inf, np.inf, np.inf], rtol=8 * EPS)
    covered = [renyi([0.5, 0.5, 0], [0.25, 0.25, 0.5], a) for a in orders]
    assert_allclose(covered, LOG2, rtol=8 * EPS)
    assert [renyi([1.0, 0, 0], [0, 0.3, 0.7], a) for a in orders] == [np.inf] * 5
    assert_allclose(renyi([1e-300, 1], [5e-324, 1], 1e305), np.log(1e-300) - np.log(5e-324), rtol=8 * EPS)


def test_renyi_keeps_its_digits_where_the_two_are_close():
    """D_a → a/2 Σ (p - q)²/q."""
    p = np.array([0.25, 0.5, 0.25])
    q = p + 2.0**-40 * np.array([1, -0.5, -0.5])
    for order in (1e-5, 0.5, 1.0, 2.0, 10.0):
        assert_allclose(renyi(p, q, order), order / 2 * ((p - q) ** 2 / q).sum(), rtol=1e-10)


# Inequalities


def test_inequalities(rng):
    p, q = pairs(rng, 20_000)
    kl, js, chi2, hellinger, tv = (
        f_divergence(p, q, name) for name in ("reverse_kl", "js", "chi2", "squared_hellinger", "total_variation")
    )
    for low, high in (
        (tv, np.sqrt(kl / 2)),  # Pinsker
        (tv, np.sqrt(-np.expm1(-kl))),  # Bretagnolle and Huber
        (hellinger, tv),
        (tv, np.sqrt(hellinger * (2 - hellinger))),  # Le Cam
        (2 * hellinger, kl),
        (kl, np.log1p(2 * chi2)),  # Pearson's χ² is 2 chi2
        (js, 2 * LOG2 * tv),
        (2 * LOG2 * hellinger, js),
        (js, 2 * hellinger),
    ):
        assert (low <= high * (1 + 1e-9)).all()
        assert (low > 0.4 * high).any()


def test_pinskers_constant_is_the_best():
    p, q = [0.5 + 1e-6, 0.5 - 1e-6], [0.5, 0.5]
    ratio = f_divergence(p, q, "total_variation") ** 2 / f_divergence(p, q, "reverse_kl")
    assert_allclose(ratio, 0.5, rtol=1e-9)
    assert f_divergence([0.9, 0.1], q, "total_variation") ** 2 < 0.45 * f_divergence([0.9, 0.1], q, "reverse_kl")


@pytest.mark.parametrize(("name", "alpha", "f"), MEMBERS)
def test_merging_responses_and_mixing_pairs_lower_every_one(name, alpha, f, rng):
    (p, q), (r, s), share = pairs(rng, 300), pairs(rng, 300), rng.random((300, 1))
    D, other = (f_divergence(*both, name, alpha) for both in ((p, q), (r, s)))
    merged = f_divergence(np.add.reduceat(p, [0, 2, 3], axis=1), np.add.reduceat(q, [0, 2, 3], axis=1), name, alpha)
    assert (merged <= D * (1 + 1e-9)).all()
    mixed = f_divergence(share * p + (1 - share) * r, share * q + (1 - share) * s, name, alpha)
    assert (mixed <= (share[:, 0] * D + (1 - share[:, 0]) * other) * (1 + 1e-9)).all()


# All of them


def test_leading_axes_are_problems_of_their_own(rng):
    p, q = rng.dirichlet(np.ones(4), size=(2, 1)), rng.dirichlet(np.ones(4), size=3)
    p[0, 0] = [0.5, 0.5, 0, 0]
    for name, alpha, _ in MEMBERS:
        together = f_divergence(p, q, name, alpha)
        for i, j in np.ndindex(2, 3):
            assert_allclose(together[i, j], f_divergence(p[i, 0], q[j], name, alpha), rtol=4 * EPS)
    for order in (0, 0.5, 1, 3, np.inf):
        together = renyi(p, q, order)
        for i, j in np.ndindex(2, 3):
            assert_allclose(together[i, j], renyi(p[i, 0], q[j], order), rtol=4 * EPS)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: f_divergence([0.5, 0.25], [0.5, 0.5], "js"), "the sum of p is 0.75; expected 1"),
        (lambda: f_divergence([1.0], [2.0], "js"), "the sum of q is 2.0; expected 1"),
        (
            lambda: f_divergence([1.0], [0.5, 0.5], "js"),
            "the shapes of p (1,) and q (2,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: generator(1.0, "kl"),
            "divergence is 'kl'; expected 'reverse_kl' or 'forward_kl' or 'chi2' or 'squared_hellinger' or 'alpha' or "
            "'js' or 'mixed_chi2' or 'total_variation'",
        ),
        (lambda: generator(1.0, "alpha", np.inf), "alpha is inf; expected one finite number"),
        (lambda: slope([1.0, -1.0], "js"), "u is -1.0 at [1]; expected ratios of probabilities, at least 0"),
        (lambda: generator(np.inf, "js"), "u is inf; expected finite numbers"),
        (lambda: slope_inverse(np.nan, "js"), "t is nan; expected finite numbers"),
        (
            lambda: slope_inverse(0.0, "total_variation"),
            "divergence is 'total_variation', whose slope has no inverse; expected another",
        ),
        (lambda: renyi([1.0], [1.0], -1), "order is -1; expected one number, at least 0, or inf"),
        (lambda: renyi([1.0], [1.0], np.nan), "order is nan; expected one number, at least 0, or inf"),
        (lambda: renyi([0.5], [1.0], 1), "the sum of p is 0.5; expected 1"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
