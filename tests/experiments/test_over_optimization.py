"""Over-optimization: each claim can fail, E[g | p] and the paths are what independent computations say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax
from scipy.stats import norm, t

import dpo_numpy as dn
from analytic import graph, population, temperature
from toy_models.experiments import _proxies, _tables, over_optimization
from toy_models.experiments._config import streams
from toy_models.experiments.over_optimization import BEST_OF, KINDS, Config

SMALL = {"replicates": 2, "responses": 50, "K": 5, "n": 20, "steps": 20}


def replaced(result, key, where, value):
    changed = np.array(result[key], copy=True)
    changed[where] = value
    return {**result, key: changed}


def risen(result, key, index=slice(None)):
    """Gold that never falls: the largest so far, with a spread that leaves means sure"""
    return replaced(result, key, index, np.maximum.accumulate(result[key][index], axis=-1))


def of(kind):
    return slice(None), KINDS.index(kind)


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "gaussian error: E[g | p]": lambda r: replaced(r, "proxies.measured_slope", 0, 0.35),
    "correlated error: E[g | p]": lambda r: replaced(r, "proxies.measured_slope", 1, -0.3),
    "E[g | p] says": lambda r: replaced(
        r, "proxies.gold", of("heavy"), r["proxies.gold"][of("heavy")] + 0.5 * r["proxies.kl"]),
    "gaussian error: no draw's": lambda r: replaced(
        r, "proxies.expected", (0, 0, -1), r["proxies.expected"][0, 0, -2] - 1e-6),
    "gaussian error: gold that was drawn": lambda r: replaced(
        r, "proxies.gold", of("gaussian"), r["proxies.expected"][of("gaussian")]),
    "gaussian error: but little": lambda r: replaced(  # deeper where it does fall
        r, "proxies.gold", of("gaussian"), r["proxies.gold"][:, 0] - 0.3 * fell(r["proxies.gold"][:, 0])),
    "error correlated": lambda r: replaced(r, "proxies.expected", (0, 1, -1), 1.0),
    "heavy-tailed error": lambda r: risen(r, "proxies.expected", of("heavy")),
    "adversarial error: gold peaks": lambda r: lowered(r, np.minimum.accumulate(r["proxies.expected"][:, 3], axis=-1)),
    "adversarial error: and ends": lambda r: {**r, "harm": np.array(1.0)},
    "best of n: the adversary's": lambda r: replaced(r, "best_of_n.owned", (0, 0), 0.02),
    "best of n: less gold": lambda r: replaced(r, "best_of_n.gold", (slice(None), 0, 2), 1.5),
    "best of n: more gold than Boltzmann at its KL, heavy": lambda r: replaced(r, "best_of_n.gold", (0, 2, 3), 0.0),
    "best of n: more gold than Boltzmann at its KL, adversarial":
        lambda r: replaced(r, "best_of_n.gold", (0, 3, 3), -1.0),
    "labels: one path": lambda r: {**r, "labels.apart": np.array(1e-6)},
    "labels: n of them have": lambda r: replaced(r, "labels.no_end", slice(24), False),
    "labels: n of them, gold": lambda r: replaced(  # as deep a fall, less alike
        r, "labels.gold", (slice(None), 0), spread(r["labels.gold"][:, 0], r["labels.kl"][:, 0])),
    "labels: with 4 n": lambda r: replaced(
        r, "labels.gold", (slice(None), 1, -1), r["labels.gold"][:, 1].max(axis=-1) - 0.5),
    "labels: with all": lambda r: replaced(r, "labels.all_gold", -1, 1.0),
    "labels: at 10 β": lambda r: replaced(r, "labels.tenfold_gold", (slice(None), -1), 0.3),
    "labels: what takes over": lambda r: replaced(r, "labels.unbeaten", (slice(None), -1), 0.1),
    "labels: smoothed": lambda r: risen(r, "labels.smoothed_gold"),
    "labels: IPO": lambda r: replaced(r, "labels.ipo_gold", (slice(None), -1), 0.3),
    "labels: stopped early": lambda r: {**r, "labels.tempered_gold": r["labels.tempered_gold"] + 0.4},
}


def fell(gold):
    """Where a path is below what it was before, by more than rounding"""
    return np.maximum.accumulate(gold, axis=1) - gold > 1e-12


def lowered(r, expected):
    """Gold follows what is expected of it"""
    change = expected - r["proxies.expected"][:, 3]
    changed = replaced(r, "proxies.expected", of("adversarial"), expected)
    return replaced(changed, "proxies.gold", of("adversarial"), r["proxies.gold"][:, 3] + change)


def spread(gold, kl):
    """The same mean path, the ends of pairs of data sets far apart, where these are beyond the KL of the peak"""
    changed, far = gold.copy(), np.flatnonzero(kl[:, -2] > 3)
    changed[far[:len(far) // 2 * 2], -1] += 8 * np.where(np.arange(len(far) // 2 * 2) % 2, 1, -1)
    return changed


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = over_optimization.claims(BROKEN[name](result))
    assert [key for key, claim in found.items() if not claim.holds] == [key for key in found if key.startswith(name)]


def test_there_is_a_way_to_break_every_claim(result):
    found = over_optimization.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_what_sweeps_plot_is_of_the_kind_asked_for(result):
    gaussian = over_optimization.run(Config(error="gaussian", **SMALL))
    adversarial = over_optimization.run(Config(**SMALL))
    assert gaussian["hump"] == 0 and gaussian["final_gold"] == gaussian["peak_gold"]
    assert adversarial["final_gold"] == pytest.approx(-2, abs=1e-3) and adversarial["hump"] > 1.5
    assert gaussian["data_hump"] == adversarial["data_hump"]
    assert result["data_hump"] == pytest.approx(
        result["labels.gold"][:, 0].mean(axis=0).max() - result["labels.gold"][:, 0, -1].mean(), abs=1e-14)
    assert result["peak_kl"] < 1 < 2 < result["data_peak_kl"] < 3


# ---- proxies

@pytest.mark.parametrize(("scale", "freedom"), [(0.5, 2.0), (0.2, 1.0), (2.0, 5.0)])
def test_gold_given_a_heavy_proxy_is_that_of_two_integrals(scale, freedom):
    g = np.linspace(-15, 15, 300_001)  # ten standard deviations each way; smooth, so that trapezia have all digits
    for p in (0.0, 0.7, -3.0, 20.0):
        density = norm.pdf(g, scale=1.5) * t.pdf((p - g) / scale, freedom)
        found = _proxies.given_heavy(np.array([p]), 1.5, scale, freedom)[0]
        assert found == pytest.approx(g @ density / density.sum(), rel=1e-9, abs=1e-12)


def test_far_out_gold_is_what_the_tail_leaves_of_it():
    """-s_g² d log density/dp, by Tweedie's formula for gold as the noise: s_g² (ν + 1)/p, at first order"""
    assert 1e4 * _proxies.given_heavy(np.array([1e4]), 0.5, 0.3, 2.0)[0] == pytest.approx(0.25 * 3, rel=1e-4)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_the_slope_and_its_error_are_those_of_regression(rho):
    rng = np.random.default_rng(0)
    g = rng.normal(size=(2000, 100))
    e = 1.25 * (rho * g + np.sqrt(1 - rho**2) * rng.normal(size=g.shape))
    b = (g * (g + e)).sum(axis=1) / ((g + e) ** 2).sum(axis=1)
    error = _proxies.slope_error(1.0, 1.25, rho, 100)
    assert b.mean() == pytest.approx(_proxies.slope(1.0, 1.25, rho), abs=3 * error / np.sqrt(2000))
    assert b.std() == pytest.approx(error, rel=0.06)  # 3 of 1/√(2·2000), and 1/100 for chance in Σ p²


def drawn(replicates, responses, owned=2):
    return _proxies.draw(streams(3, replicates), responses, 1.0, 1.25, -0.9, 2.0, 0.5, owned, 2.0)


def test_the_kinds_differ_in_error_alone():
    found = drawn(3, 200)
    error = found.proxy - found.gold
    assert np.corrcoef(found.gold[:, 1].ravel(), error[:, 1].ravel())[0, 1] == pytest.approx(-0.9, abs=0.03)
    assert np.corrcoef(found.gold[:, 0].ravel(), error[:, 0].ravel())[0, 1] == pytest.approx(0, abs=3 / np.sqrt(600))
    assert abs(error[:, 2]).max() > 5 * 0.5 * np.median(abs(error[:, 2]))
    for proxy, gold, honest in zip(found.proxy[:, 3], found.gold[:, 3], found.gold[:, 0], strict=True):
        best = np.argsort(proxy)[-2:]
        assert (gold[best] == -2).all()
        assert (np.delete(gold, best) == np.delete(honest, best)).all()


def test_the_frontier_is_that_of_a_root_for_each_kl():
    found, at = drawn(2, 50), np.array([0.2, 1.0, 2.5])
    curves = _proxies.frontier(found, at)
    ref = np.full(50, 1 / 50)
    for r, k in np.ndindex(2, 4):
        for i, kl in enumerate(at):
            reward, beta = temperature.frontier(ref, found.proxy[r, k], kl)
            pi = softmax(found.proxy[r, k] / beta)
            # between two of 50 β the curve is a chord
            assert curves["proxy"][r, k, i] == pytest.approx(reward, rel=0.01)
            assert curves["gold"][r, k, i] == pytest.approx(pi @ found.gold[r, k], abs=0.03)
            assert curves["expected"][r, k, i] == pytest.approx(pi @ found.expected[r, k], abs=0.03)


@pytest.mark.slow
def test_many_responses_come_to_the_normal_integral():
    """p ~ N(0, s²), tilted: N(√(2 KL) s, s²), cut at the quantile from where it is the adversary's"""
    at = np.array([0.3, 0.5, 1.0])
    found = _proxies.frontier(drawn(12, 20_000, owned=200), at)["expected"][:, 3]
    s, cut, shift = np.sqrt(1 + 1.25**2), norm.isf(0.01), np.sqrt(2 * at)
    honest = shift * norm.cdf(cut - shift) - norm.pdf(cut - shift)
    exact = honest * s / (1 + 1.25**2) - 2 * norm.sf(cut - shift)
    assert_allclose(found.mean(axis=0), exact, rtol=0, atol=3 * found.std(axis=0).max() / np.sqrt(12) + 1e-3)


def test_the_best_of_n_never_exceeds_n_times_the_reference(result):
    assert (result["best_of_n.owned"] <= result["best_of_n.n"] * result["share"] + 1e-12).all()
    assert result["best_of_n.kl"] == pytest.approx([np.log(n) - (n - 1) / n for n in BEST_OF], abs=0.05)


# ---- labels

def test_the_world_has_the_correlation_and_the_spread_it_is_told():
    for agreement in (0.0, 0.5, -0.5):
        reward, ref = over_optimization._world(Config(agreement=agreement, K=200, spread=0.7))
        assert np.corrcoef(reward, np.log(ref))[0, 1] == pytest.approx(agreement, abs=1e-12)
        assert np.log(ref).std() == pytest.approx(0.7, rel=1e-12)


def test_labels_are_counts_of_pairs_drawn_from_the_reference():
    config = Config(**SMALL | {"replicates": 400})
    data = over_optimization._data(config)
    assert data.wins.shape == (801, 5, 5)
    assert_allclose(data.wins.sum(axis=(1, 2)), 1, rtol=1e-12)
    counts = data.wins[:400] * 20
    assert_allclose(counts, counts.round(), atol=1e-12)
    met = np.outer(data.ref, data.ref) * expit(data.reward[:, None] - data.reward) * (1 - np.eye(5))
    assert_allclose(data.wins[-1], met / met.sum(), rtol=1e-12)
    error = np.sqrt(data.wins[-1] / 20 / 400)
    assert (abs(data.wins[:400].mean(axis=0) - data.wins[-1]) <= 4.5 * error).all()
    fewer = over_optimization._data(Config(**SMALL | {"replicates": 3}))
    np.testing.assert_array_equal(fewer.wins[:3], data.wins[:3])


def test_training_is_descent_written_out():
    config = Config(**SMALL, beta=0.3)
    data = over_optimization._data(config)
    found = _tables.descended(data.wins[:2], data.ref, dn.LOSSES["dpo"](beta=0.3), np.array([5.0, 7.0, 9.0]))
    for row in range(2):
        u = np.zeros(5)
        for step, size in enumerate((5.0, 7.0, 9.0), 1):
            slope = np.zeros(5)
            for i, j in np.ndindex(5, 5):
                pull = data.wins[row, i, j] * 0.3 / (1 + np.exp(0.3 * (u[i] - u[j])))
                slope[i] -= pull
                slope[j] += pull
            u = u - size * slope
            assert_allclose(found[step, row], u, rtol=0, atol=1e-13)


def test_where_all_lose_to_all_it_comes_to_rest_at_the_fit():
    config = Config(**SMALL | {"n": 400, "spread": 0.3})
    data = over_optimization._data(config)
    end = _tables.descended(data.wins[:1], data.ref, dn.LOSSES["dpo"](beta=1.0), np.full(1200, 8.0))[-1, 0]
    assert_allclose(end, population.newton(data.wins[0], 1.0), rtol=0, atol=1e-9)


def test_gold_and_kl_are_counted_from_the_reference(result):
    for name in ("", "tenfold_", "smoothed_", "ipo_", "tempered_"):
        assert abs(result[f"labels.{name}kl"][..., 0]).max() < 1e-15
        assert abs(result[f"labels.{name}gold"][..., 0]).max() < 1e-15


def test_smoothed_labels_are_labels_of_which_some_are_turned_around():
    config = Config(**SMALL, smoothing=0.3)
    data, found = over_optimization._data(config), over_optimization._labels(config)
    turned = 0.7 * data.wins[:2] + 0.3 * data.wins[:2].swapaxes(1, 2)
    sizes = np.diff(found["labels.time"]) / config.beta**2
    u = _tables.descended(turned, data.ref, dn.LOSSES["dpo"](beta=config.beta), sizes)
    gold = (softmax(np.log(data.ref) + u, axis=-1) - data.ref) @ data.reward
    assert_allclose(found["labels.smoothed_gold"], gold.T, rtol=0, atol=1e-11)


def test_a_response_that_is_met_and_never_loses_rules_a_fit_out():
    config = Config(**SMALL | {"replicates": 60})
    wins = over_optimization._data(config).wins[:60]
    unbeaten = [((w.sum(axis=1) > 0) & (w.sum(axis=0) == 0)).any() for w in wins]
    found = over_optimization._labels(config)
    assert 5 < sum(unbeaten) < 60
    assert found["labels.no_end"].tolist() == unbeaten
    assert not graph.mle_exists(wins[unbeaten]).any()
    assert ((found["labels.unbeaten"] > 0).all(axis=1) == unbeaten).all()


def test_steps_grow_and_then_stay():
    sizes = _tables.growing(60)
    assert sizes[0] == 0.01 and sizes[-1] == 1 and (sizes < 1).sum() == 41
    assert_allclose(sizes[1:41] / sizes[:40], 1.12, rtol=1e-12)


def test_time_is_that_of_the_reward_whatever_beta():
    one, other = (over_optimization.run(Config(**SMALL, beta=beta)) for beta in (0.1, 0.5))
    assert_allclose(one["labels.time"], other["labels.time"], rtol=1e-12)
    assert_allclose(one["labels.tempered_kl"][:, -1], one["labels.kl"][:, 0, -1], rtol=1e-10)
    assert (one["labels.kl"][:, :, -1] > other["labels.kl"][:, :, -1]).all()


# ---- other settings

def test_without_an_adversary_its_kind_is_the_gaussian_one():
    found = over_optimization.run(Config(share=0.0, **SMALL))
    np.testing.assert_array_equal(found["proxies.gold"][:, 3], found["proxies.gold"][:, 0])
    assert (found["best_of_n.owned"] == 0).all()


def test_a_correlation_above_the_edge_lets_gold_rise():
    found = over_optimization.run(Config(**SMALL, correlation=-0.7, error="correlated"))
    assert found["proxies.slope"][1] > 0 and found["hump"] == 0
    fallen = over_optimization.run(Config(**SMALL, correlation=-0.9, error="correlated"))
    assert fallen["proxies.slope"][1] < 0 < fallen["hump"]


@pytest.mark.parametrize("setting", [
    {"beta": 1.0, "n": 1, "steps": 10}, {"K": 3, "spread": 0.0, "agreement": -0.5, "smoothing": 0.4, "replicates": 3},
    {"error": "heavy", "freedom": 1.0, "scale": 2.0, "gold_size": 0.1, "responses": 10, "share": 0.3},
])
def test_other_settings_run_and_give_finite_arrays(setting):
    found = over_optimization.run(Config(**SMALL | setting))
    assert all(np.isfinite(x).all() for name, x in found.items() if x.dtype.kind == "f")
    assert found["labels.gold"].shape[0] == setting.get("replicates", 2)
    numbers = [claim.number for claim in over_optimization.claims(found).values()]
    assert np.isfinite(numbers).sum() > 15 and not np.isinf(numbers).any()


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"error": "small"}, "error is small; expected one of gaussian, correlated, heavy, adversarial"),
    ({"correlation": -1.0}, "correlation is -1.0; expected above -1 and below 1"),
    ({"agreement": 1.0}, "agreement is 1.0; expected above -1 and below 1"),
    ({"smoothing": 0.5}, "smoothing is 0.5; expected above 0 and below 0.5"),
    ({"share": 1.0}, "share is 1.0; expected at least 0 and below 1"),
    ({"replicates": 1}, "replicates is 1; expected a whole number, at least 2"),
    ({"responses": 5}, "responses is 5; expected a whole number, at least 10"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
