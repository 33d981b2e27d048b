"""β's two knobs: each claim can fail, and its numbers are those of naive loops that know neither clock nor flow."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax

from analytic import temperature
from toy_models.experiments import beta_two_knobs
from toy_models.experiments.beta_two_knobs import EARLY, MET, UNEVEN, WITHIN, Config

SMALL = Config(replicates=2, betas=(0.1, 1.0), steps=(20,), horizons=(50,), responses=4, rounds=2, beta=0.7, lr=0.5)


def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "at the optimum": lambda r: {**r, "kl_best": r["kl_best"][::-1]},
    "after few steps": lambda r: {**r, **dict.fromkeys(("kl_trained", "kl_flow"), r["kl_trained"][:, ::-1].cumsum(1))},
    "the β that moves": lambda r: replaced(r, "most", np.s_[:, -1], 3.0),
    "implied rewards": lambda r: {**r, "one_path": np.array(1e-9)},
    "steps of descent": lambda r: replaced(r, "kl_flow", (1, 3, 0), 0.9),
    "steps to a given": lambda r: {**r, "counted": 1.5 ** np.arange(12)[::-1, None] * r["counted"]},
    "a β that is small": lambda r: replaced(r, "first_order", 0, 1.2),
    "Adam": lambda r: replaced(r, "adam", 0, 0.1),
    "with steps of": lambda r: {**r, "kl_scaled": r["kl_scaled"][:, ::-1]},
    "TR-DPO": lambda r: replaced(r, "soft", 1, 1e-3),
    "an unfrozen reference": lambda r: replaced(r, "unfrozen_loss", -1, 0.69),
    "and a policy": lambda r: replaced(r, "drift_off", 0, 1e-6),
    "so that β": lambda r: {**r, "drift_scaled": np.array(1e-6)},
    "an unfrozen one goes": lambda r: replaced(r, "uneven", (0, 0), 0.5),
    "but a frozen one": lambda r: replaced(r, "uneven", 1, r["uneven"][0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = beta_two_knobs.claims(BROKEN[name](result))
    assert [key.startswith(name) for key, claim in found.items() if not claim.holds] == [True]


def test_there_is_a_way_to_break_every_claim(result):
    found = beta_two_knobs.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def descent(r, beta, steps, lr=1.0):
    """Log-ratios after each step, by the gradient as one writes it down: all pairs of a world, as often"""
    K, u = len(r), np.zeros(len(r))
    for _ in range(steps):
        down = np.zeros(K)
        for i in range(K):
            for j in range(K):
                if i != j:
                    down[i] += expit(r[i] - r[j]) - expit(beta * (u[i] - u[j]))
        u = u + lr * beta * 2 / (K * (K - 1)) * down
        yield u


def kl(u):
    pi = softmax(u)
    return float(sum(p * np.log(p * len(pi)) for p in pi))


@pytest.mark.parametrize("k", [0, 4, 6, 11])
def test_what_descent_has_moved_by_a_naive_loop(result, k):
    *_, u = descent(result["rewards"][1], result["betas"][k], 100)
    assert result["kl_trained"][1, k, 1] == pytest.approx(kl(u), rel=1e-9)


def test_steps_are_counted_to_where_implied_rewards_are_right(result):
    r, k = result["rewards"][0], result["betas"].tolist().index(1.0)
    off = [abs(u - (r - r.mean())).max() for u in descent(r, 1.0, 300)]
    assert result["counted"][k, 0] == 1 + np.flatnonzero(np.array(off) < WITHIN)[0]
    assert np.isnan(result["counted"][0]).all()


def test_of_ten_responses_it_is_near_what_another_world_of_ten_has(result):
    """β of 0.01, 0.1, 0.3, 3: KL after 100 steps 0.0008, 0.081, 0.419, 0.046; most at 0.537, 0.167, 0.063"""
    at = [result["betas"].tolist().index(b) for b in (0.01, 0.1, 0.3, 3.0)]
    assert_allclose(result["kl_trained"][1, at].mean(axis=1), [0.0008, 0.081, 0.419, 0.046], rtol=0.3)
    most = np.median(result["most"], axis=0) / np.sqrt(result["horizons"])
    assert_allclose(most[:3], [0.537, 0.167, 0.063], rtol=0.15)


@pytest.mark.slow
def test_the_beta_that_moves_most_by_ten_thousand_steps_of_each(result):
    r, K = result["rewards"][0], 10
    betas = np.geomspace(0.03, 0.12, 60)[:, None]
    P, u = expit(r[:, None] - r), np.zeros((60, K))
    for _ in range(10_000):
        u = u - betas * (expit(betas[..., None] * (u[:, :, None] - u[:, None])) - P).sum(axis=-1) / 45
    most = betas[np.argmax([kl(row) for row in u]), 0]
    k = result["horizons"].tolist().index(10_000)
    assert result["most"][0, k] / 100 == pytest.approx(most, rel=0.04)


def test_adam_by_the_paper(result):
    r, beta, K = result["rewards"][2], 0.01, 10
    P, u, m, v = expit(r[:, None] - r), np.zeros(K), np.zeros(K), np.zeros(K)
    for t in range(1, EARLY + 1):
        g = beta * (expit(beta * (u[:, None] - u)) - P).sum(axis=1) * 2 / (K * (K - 1)) / len(result["rewards"])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = u - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert result["adam"][0, 2] == pytest.approx(kl(u), rel=1e-6)
    assert 0.003 < result["adam"].min() and result["adam"].max() < 0.005  # each logit moves by 10 · 0.01 at most
    plain = result["kl_trained"][0]
    assert plain[0].mean() / plain[9].mean() < 1e-3  # the twin: without Adam β is seen at once


def test_the_first_order_is_the_variance_of_the_drift(result):
    r, K = result["rewards"][0], 10
    d = [sum(expit(r[i] - r[j]) - 0.5 for j in range(K) if j != i) * 2 / (K * (K - 1)) for i in range(K)]
    moved = result["kl_trained"][0, 0, 0] / (np.var(EARLY * 0.01 * np.array(d)) / 2)
    assert result["first_order"][0] == pytest.approx(moved, rel=1e-9)


def test_an_unfrozen_reference_by_a_naive_loop():
    """Pairs are met as 0.05, 0.05 and 1; every step begins with a margin of 0, a weight of β/2"""
    beta, pi = 0.3, np.full(3, 1 / 3)
    met = MET[:, None] * MET * (1 - np.eye(3))
    met /= met.sum() / 2
    for _ in range(100):
        drift = np.array([sum(met[i, j] * (expit(UNEVEN[i] - UNEVEN[j]) - 0.5) for j in range(3)) for i in range(3)])
        pi = pi * np.exp(0.3 / beta * beta * drift)
        pi /= pi.sum()
    found = beta_two_knobs._uneven(Config(beta=beta))["uneven"]
    assert_allclose(found[0], pi, rtol=1e-9)
    assert found[0].argmax() == 1 and found[2].argmax() == 0


def test_where_pairs_are_met_evenly_it_goes_to_the_best(result):
    unfrozen = result["way"][result["road"].tolist().index("unfrozen")]
    assert (np.diff(unfrozen) > 0).all()
    drift = beta_two_knobs._drift(result["rewards"])
    assert (drift.argmax(axis=1) == result["rewards"].argmax(axis=1)).all()


def test_rounds_end_at_the_kl_of_their_beta(result):
    flat = np.full(10, 0.1)
    for road, alpha in (("hard", 1.0), ("soft", 0.5), ("frozen", 0.0)):
        way = result["way"][result["road"].tolist().index(road)]
        for k in (1, 2, 3):
            b = float(temperature.trust_region_beta(0.3, k, alpha))
            expected = temperature.moments(flat, result["rewards"], b).kl.mean()
            assert way[120 * k - 1] == pytest.approx(expected, abs=1e-6)


def test_scalars_are_those_of_their_beta(result):
    k = result["betas"].tolist().index(0.3)
    assert result["kl"] == pytest.approx(result["kl_trained"][1, k].mean(), rel=1e-12)
    assert result["kl_optimum"] == pytest.approx(result["kl_best"][k].mean(), rel=1e-12)
    assert result["moved"] == pytest.approx(result["kl"] / result["kl_optimum"])
    assert result["beta_most"] == pytest.approx(result["most"][:, 0].mean() / 10)


def test_other_settings():
    small = beta_two_knobs.run(SMALL)
    assert small["kl_trained"].shape == (2, 2, 2) and small["most"].shape == (2, 1)
    found = beta_two_knobs.claims(small)
    undecided = [name for name, claim in found.items() if not claim.evaluated]
    assert [name[:16] for name in undecided] == ["steps to a given"]
    *_, u = descent(small["rewards"][0], 0.1, 20, lr=0.5)
    assert small["kl_trained"][1, 0, 0] == pytest.approx(kl(u), rel=1e-9)
    assert max(small["hard"].max(), small["soft"].max()) < 1e-8


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"betas": (1.0, 0.5)}, r"betas is \(1.0, 0.5\); expected at least two, each larger than the one before"),
    ({"betas": (1.0,)}, r"betas is \(1.0,\); expected at least two, each larger than the one before"),
    ({"alpha": 1.0}, "alpha is 1.0; expected at least 0 and below 1"),
    ({"steps": (0,)}, "steps holds 0; expected a whole number, at least 1"),
    ({"responses": 2}, "responses is 2; expected a whole number, at least 3"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
