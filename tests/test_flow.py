"""analytic.flow: an integrator, descent on the losses of the package, the equations in fifty digits."""

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

import dpo_numpy as dn
from analytic import flow, population

EPS = np.finfo(float).eps


def sigma(m):
    return 1 / (1 + np.exp(-m))


#: margin, time, and the slope of the loss of a certain label
FLOWS = {
    "dpo": (flow.dpo_margin, flow.dpo_time, lambda m: -sigma(-m)),
    "exponential": (flow.exponential_margin, flow.exponential_time, lambda m: -np.exp(-m)),
    "hinge": (flow.hinge_margin, flow.hinge_time, lambda m: -1.0 * (m < 1)),
    "ipo": (flow.ipo_gap, flow.ipo_time, None),
}
P, STARTS = (a.ravel() for a in np.meshgrid([0.0, 0.1, 0.5, 0.8, 1.0], [-3.0, -0.5, 0.0, 1.5, 4.0]))


@pytest.mark.parametrize("name", ["dpo", "exponential"])
def test_an_integrator_goes_the_same_way(name):
    """dm/dt = -2β² (p f'(m) - (1-p) f'(-m))"""
    margin, _, slope = FLOWS[name]
    beta, times = 0.7, np.array([0.01, 0.3, 2.0, 10.0, 40.0])
    path = solve_ivp(lambda t, m: -2 * beta**2 * (P * slope(m) - (1 - P) * slope(-m)), (0, 40), STARTS, method="DOP853",
                     t_eval=times, rtol=1e-12, atol=1e-13)
    assert_allclose(margin(times[:, None], beta, P, STARTS), path.y.T, rtol=0, atol=1e-10)


def test_the_hinge_goes_by_steps_of_euler():
    """Straight lines, and chatter by a step at the corners."""
    beta, step, m = 0.7, 1e-3, STARTS.copy()
    for k in range(10_000):
        if k % 500 == 0:
            assert abs(flow.hinge_margin(k * step, beta, P, STARTS) - m).max() < 4 * beta**2 * step
        m = m + 2 * beta**2 * step * (P * (m < 1) - (1 - P) * (m > -1))
    assert len(np.unique(m.round(2))) > 3


def test_the_gap_of_ipo_is_a_line_of_slope_minus_4():
    tau, h = 0.4, 1e-6
    for t in (0.0, 0.1, 1.0):
        gap = flow.ipo_gap(t, tau, P, STARTS)
        ahead, behind = (flow.ipo_gap(t + d, tau, P, STARTS) for d in (2 * h, 0))
        slope = P * 2 * (gap - 1 / (2 * tau)) + (1 - P) * 2 * (gap + 1 / (2 * tau))  # of p (h - c)² + (1-p) (-h - c)²
        assert_allclose((ahead - behind) / (2 * h), -2 * slope, rtol=0, atol=1e-4)  # 4 h d²gap/dt², up to 100
    assert_allclose(flow.ipo_gap(0.0, tau, P, STARTS), STARTS, rtol=0)


# Descent


class Table:
    """Logits of four responses, 1 preferred to 2 with probability p, and a loss of the package: nothing of analytic."""

    def __init__(self, loss, p, weight=1.0):
        self.loss, self.ref = loss, np.log([0.4, 0.1, 0.3, 0.2])
        self.weight, self.index = weight * np.array([p, 1 - p]), np.array([[1, 2], [2, 1]])

    def descend(self, rate, time):
        """Logits after time, and the gap of the log-ratios"""
        logits = self.ref.copy()
        facts = {"ref_logp": self.ref[self.index], "length": np.ones((2, 2))}
        facts = {name: fact for name, fact in facts.items() if name in self.loss.needs}
        for _ in range(round(time / rate)):
            logp = logits - np.log(np.exp(logits).sum())
            _, grad = self.loss(logp[self.index], weight=self.weight, **facts)
            slope = np.bincount(self.index.ravel(), grad.ravel(), minlength=4)
            logits = logits - rate * (slope - np.exp(logp) * slope.sum())
        return logits, (logits - self.ref)[1] - (logits - self.ref)[2]


LOSSES = {
    "dpo": (dn.LOSSES["dpo"](beta=0.5), 0.5, lambda t, p: flow.dpo_margin(t, 0.5, p)),
    "cdpo": (dn.LOSSES["cdpo"](beta=0.5, eps=0.1), 0.5, lambda t, p: flow.dpo_margin(t, 0.5, 0.9 * p + 0.1 * (1 - p))),
    "ipo": (dn.LOSSES["ipo"](tau=0.4), 1, lambda t, p: flow.ipo_gap(t / 20, 0.4, p)),
    "hinge": (dn.LOSSES["hinge"](beta=0.5), 0.5, lambda t, p: flow.hinge_margin(t, 0.5, p)),
}


@pytest.mark.parametrize("p", [1.0, 0.7])
@pytest.mark.parametrize("name", LOSSES)
def test_descent_in_the_logits_of_a_table_follows_to_the_order_of_its_rate(name, p):
    loss, beta, margin = LOSSES[name]
    table, end = Table(loss, p), 10.0 if name != "ipo" else 0.5
    off = []
    for rate in (end / 100, end / 200):
        logits, h = table.descend(rate, end)
        off.append(beta * h - margin(end if name != "ipo" else 20 * end, p))
        assert_allclose(logits[[0, 3]], table.ref[[0, 3]], rtol=1e-14)
        policy = population.policy([0, h / 2, -h / 2, 0], np.exp(table.ref))
        assert_allclose(np.exp(logits) / np.exp(logits).sum(), policy, rtol=1e-13)
    if name == "hinge":
        assert_allclose(off, 0, atol=2 * beta**2 * end / 100)
    else:
        assert_allclose(off[0] / off[1], 2, rtol=0.1)
        assert abs(off[1]) < 0.02


def test_a_weight_is_a_unit_of_time():
    loss, beta, margin = LOSSES["dpo"]
    _, h = Table(loss, 1.0, weight=0.25).descend(0.05, 20.0)
    assert_allclose(beta * h, margin(5.0, 1.0), rtol=5e-3)
    assert abs(beta * h / margin(20.0, 1.0) - 1) > 0.3


def test_slics_hinge_is_one_of_another_unit():
    """max(0, δ - h) of log-probs: with a uniform reference or without one h is the same."""
    delta = 3.0
    table = Table(dn.LOSSES["slic"](delta=delta, lam=0.0), 1.0)
    gap = table.ref[1] - table.ref[2]
    for end in (0.5, 1.0, 4.0):
        _, h = table.descend(0.01, end)
        exact = delta * flow.hinge_margin(delta * end, 1 / delta, start=gap / delta)
        assert_allclose(h + gap, exact, rtol=0, atol=0.021)  # a step of 2·0.01 beyond the corner


# The equations


def time_of(m, start, p):
    """2β²t, Σ of partial fractions of 1/(p - σ(m))"""
    m, start, p = mp.mpf(m), mp.mpf(start), mp.mpf(p)
    if p in (0, 1):
        way = 1 if p else -1
        return way * (m - start) + mp.exp(way * m) - mp.exp(way * start)
    q = 1 - p
    return (m - start) / p - (mp.log(abs(p - q * mp.exp(m))) - mp.log(abs(p - q * mp.exp(start)))) / (p * q)


@pytest.mark.parametrize("p", [1.0, 0.0, 0.5, 0.3, 1 - 1e-12, 1e-60])
def test_dpo_solves_its_equation_at_all_scales(p, rng):
    """A step of Newton's from it, in 350 digits, is of the order of an ulp of m or of the start."""
    for start in (0.0, 2.0, -2.0, -90.0, 40.0):
        for s in 10 ** rng.uniform(-14, 5, 4):
            m = float(flow.dpo_margin(s / 2, 1.0, p, start))
            with mp.workdps(350):
                x, limit = mp.mpf(m), mp.log(mp.mpf(p) / (1 - mp.mpf(p))) if 0 < p < 1 else mp.inf * (2 * p - 1)
                if abs(x - limit) > 1e-9:  # else it has arrived
                    off = (time_of(x, start, p) - mp.mpf(s)) * (mp.mpf(p) - 1 / (1 + mp.exp(-x)))
                    assert abs(off) <= 8 * EPS * max(abs(m), abs(start)), (start, s, m)


@pytest.mark.parametrize("p", [1.0, 0.9, 0.5 + 1e-6, 0.0, 1e-100])
def test_small_times_keep_their_digits(p):
    """From 0: 2β²t (p - ½) to first order, for every loss; h = 4t h* for IPO."""
    for t in (1e-300, 1e-30, 1e-18):
        assert_allclose(flow.dpo_margin(t, 3.0, p), 18 * t * (p - 0.5), rtol=32 * EPS)
        assert_allclose(flow.ipo_gap(t, 0.1, p), 20 * t * (2 * p - 1), rtol=8 * EPS)
        assert_allclose(flow.exponential_margin(t, 3.0, p), 18 * t * (2 * p - 1), rtol=32 * EPS)
        assert_allclose(flow.dpo_time(18 * t * (p - 0.5), 3.0, p), t, rtol=64 * EPS)
        assert_allclose(flow.exponential_time(18 * t * (2 * p - 1), 3.0, p), t, rtol=64 * EPS)
        assert_allclose(flow.ipo_time(20 * t * (2 * p - 1), 0.1, p), t, rtol=64 * EPS)


def test_certain_labels_are_wrights_function():
    """m = log ω(1 + 2β²t), below log(1 + 2β²t) by a little less than log(1 + 2β²t)/(1 + 2β²t)."""
    with mp.workdps(30):
        for beta, t, m, tail in ((1.0, 50.0, 4.5688, None), (0.1, 100.0, 0.79, 1.10), (0.1, 1e4, 5.28, 5.30)):
            c = 1 + 2 * mp.mpf(beta) ** 2 * t
            exact = mp.log(mp.lambertw(mp.exp(c)))
            assert_allclose(flow.dpo_margin(t, beta), float(exact), rtol=8 * EPS)
            assert_allclose(float(exact), m, rtol=0, atol=5e-3 if tail else 5e-5)
            assert tail is None or abs(float(mp.log(c)) - tail) < 5e-3
    for t in (1e10, 1e100, 1e300):
        c = np.log(2 * t)
        assert_allclose(flow.dpo_margin(t, 1.0), c + (1 - c) / (2 * t), rtol=4 * EPS)
    assert flow.dpo_margin(1e300, 1.0, start=-1e4) == pytest.approx(np.log(2) + 300 * np.log(10), rel=4 * EPS)
    assert flow.dpo_margin(6e307, 1e-8, start=-431.0) == pytest.approx(np.log(12) + 291 * np.log(10), rel=4 * EPS)
    assert flow.dpo_margin(1.0, 1.0, start=1e4) == 1e4 and flow.dpo_margin(1.0, 1.0, start=-1e4) == 2 - 1e4


def test_certain_labels_of_the_exponential_are_a_logarithm():
    """e^m = e^start + 2β²t"""
    for start in (-705.0, -3.0, 0.0, 400.0):
        t = np.exp(start) * np.array([1e-12, 0.5, 3.0])
        m = start + np.log1p(2 * t * np.exp(-start))
        assert_allclose(flow.exponential_margin(t, 1.0, start=start), m, rtol=4 * EPS)
        assert_allclose(flow.exponential_time(m[1:], 1.0, start=start), t[1:], rtol=8 * EPS * (1 + abs(start)))
    assert_allclose(flow.exponential_margin(0.5e10, 1.0, start=-1e4), 10 * np.log(10), rtol=1e-12)
    assert flow.exponential_margin(1.0, 1.0, start=1e4) == 1e4


def test_other_labels_end_and_certain_ones_do_not():
    t = 1e8
    for p in (0.2, 0.5, 0.97):
        logit = np.log(p / (1 - p))
        for start in (-20.0, 0.0, 20.0):
            assert_allclose(flow.dpo_margin(t, 1.0, p, start), logit, rtol=0, atol=1e-14)
            assert_allclose(flow.exponential_margin(t, 1.0, p, start), logit / 2, rtol=0, atol=1e-14)
            assert_allclose(flow.ipo_gap(t, 0.1, p, start), (2 * p - 1) / 0.2, rtol=1e-14)
        assert flow.hinge_margin(t, 1.0, p, -9.0) == (-1 if p <= 0.5 else 1)
        assert flow.hinge_margin(t, 1.0, p, 9.0) == (-1 if p < 0.5 else 1)
    assert (flow.dpo_margin(t, 1.0) > 19) and (flow.exponential_margin(t, 1.0) > 19)
    assert flow.ipo_gap(t, 0.1) == 5 and flow.hinge_margin(t, 1.0) == 1


def test_the_last_of_the_way_is_exponential():
    """Rates 2β² p (1-p) of DPO, 4β² √(p(1-p)) of the exponential, 4 of IPO: the limit's linearization."""
    beta, p = 0.3, 0.8
    for margin, rate in (
        (lambda t: flow.dpo_margin(t, beta, p), 2 * beta**2 * p * (1 - p)),
        (lambda t: flow.exponential_margin(t, beta, p), 4 * beta**2 * (p * (1 - p)) ** 0.5),
        (lambda t: flow.ipo_gap(t, 0.1, p), 4),
    ):
        near = 12 / rate
        off = margin(near + np.array([0, 1 / rate])) - margin(1e3 / rate)
        assert_allclose(off[0] / off[1], np.e, rtol=1e-4)


# Times


@pytest.mark.parametrize("name", FLOWS)
def test_times_are_the_inverse(name):
    margin, time, _ = FLOWS[name]
    t = np.array([0.0, 1e-6, 0.02, 0.4, 1.5, 6.0])[:, None]
    m = margin(t, 0.6, P, STARTS)
    again = time(m, 0.6, P, STARTS)
    ahead = margin(t + 1e-6, 0.6, P, STARTS)
    moving = ahead != m
    speed = np.where(moving, abs(ahead - m) / 1e-6, 1)
    assert moving.sum() > 90
    assert (abs(again - t)[moving] <= (1e-14 * (10 + 8 * t) / np.minimum(speed, 1))[moving]).all()
    assert (again[~moving] <= np.broadcast_to(t, m.shape)[~moving] * (1 + 1e-12) + 1e-12).all() or name != "hinge"


def test_what_is_never_reached_takes_for_ever():
    for p, start, never, reached in (
        (1.0, 0.0, [-1e-9, -3.0], [0.0, 0.5, 0.8]),
        (0.75, 0.0, [-1e-9, 1.5], [0.0, 0.2, 0.4]),
        (0.25, 0.0, [1e-9, -1.5], [0.0, -0.2, -0.4]),
        (0.75, 9.0, [9.1, -3.0], [9.0, 2.0, 8.0]),
        (0.0, -0.5, [0.0, 2.0], [-0.5, -0.7, -0.8]),
    ):
        for _, time, _ in FLOWS.values():  # with τ = 0.6 IPO ends at 0.83, or at 0.42 for p = 0.75
            assert (time(never, 0.6, p, start) == np.inf).all()
            assert np.isfinite(time(reached, 0.6, p, start)).all()
    assert flow.dpo_time(np.log(3.0) + 1e-9, 1.0, 0.75) == flow.exponential_time(np.log(3.0) / 2, 1.0, 0.75) == np.inf
    assert flow.ipo_time(5.0, 0.1) == np.inf and flow.ipo_time(4.9999, 0.1) < 3
    assert_allclose(flow.hinge_time(1.0, 0.1), 50, rtol=4 * EPS)
    assert flow.hinge_time(1 + 1e-9, 0.1) == np.inf


def test_times_up_to_the_last_number_below_the_limit_are_numbers(rng):
    """There q g and √(pq) T are 1 but for rounding, of either sign."""
    p = rng.uniform(0.5, 1, size=300)
    logit = np.log(p) - np.log1p(-p)
    for _ in range(20):
        logit = np.nextafter(logit, 0)
        for start in (0.0, -5.0):
            assert (flow.dpo_time(logit, 1.0, p, start) > 15).all()
            assert (flow.exponential_time(logit / 2, 1.0, p, start) > 15).all()


def test_each_unit_of_a_certain_margin_costs_e_times_the_last():
    t = flow.dpo_time(np.arange(12.0), 0.1)
    assert_allclose(np.diff(t) * 0.02, 1 + np.exp(np.arange(11)) * np.expm1(1), rtol=1e-14)
    assert flow.dpo_time(1e4, 1.0) == flow.exponential_time(1e4, 1.0) == np.inf  # beyond float64
    assert_allclose(flow.dpo_time(5.0, 1.0, start=-1e4), (10005 + np.exp(5)) / 2, rtol=4 * EPS)


# All of them


@pytest.mark.parametrize("name", FLOWS)
def test_arguments_broadcast(name):
    margin, time, _ = FLOWS[name]
    t, p, start = np.array([0.5, 2.0]), np.array([[0.3], [1.0]]), np.array([[[-1.0]], [[0.0]], [[2.0]]])
    for f, x in ((margin, t), (time, t / 8)):
        together = f(x, 0.5, p, start)
        assert together.shape == (3, 2, 2)
        for i, j, k in np.ndindex(3, 2, 2):
            assert_allclose(together[i, j, k], f(x[k], 0.5, p[j, 0], start[i, 0, 0]), rtol=8 * EPS)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: flow.dpo_margin([1.0, -1.0], 1.0), "t is -1.0 at [1]; expected times, at least 0"),
        (lambda: flow.ipo_gap(np.inf, 1.0), "t is inf; expected finite numbers"),
        (lambda: flow.hinge_margin(1.0, 0.0), "beta is 0.0; expected one finite number above 0"),
        (lambda: flow.ipo_gap(1.0, -1), "tau is -1; expected one finite number above 0"),
        (lambda: flow.ipo_time(1.0, [1]), "tau is [1]; expected one finite number above 0"),
        (lambda: flow.exponential_margin(1.0, 1.0, p=1.5), "p is 1.5; expected probabilities, from 0 to 1"),
        (lambda: flow.dpo_margin(1.0, 1.0, start=np.nan), "start is nan; expected finite numbers"),
        (lambda: flow.dpo_time(np.inf, 1.0), "margin is inf; expected finite numbers"),
        (lambda: flow.ipo_time([0, np.nan], 1.0), "gap is nan at [1]; expected finite numbers"),
        (
            lambda: flow.dpo_margin([1.0, 2.0], 1.0, p=[0.5] * 3),
            "the leading shapes of t (2,) and p (3,) and start () do not fit; expected them to broadcast",
        ),
        (
            lambda: flow.hinge_time([1.0, 2.0], 1.0, start=[0.5] * 3),
            "the leading shapes of margin (2,) and p () and start (3,) do not fit; expected them to broadcast",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
