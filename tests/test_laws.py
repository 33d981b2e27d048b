"""Laws that hold for all numbers, over the whole registry: a loss that is added is held to them without a line here."""

import inspect

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import HYPER, REGIMES, columns, domain, draw, draw_hyper, log_probs, losses, names, seeds

from dpo_numpy.losses import LOSSES

EPS = np.finfo(float).eps
beta = st.floats(*HYPER["beta"])
few = settings(max_examples=60)

#: losses of a margin score_w - score_l, where no response counts by itself
MARGIN = sorted(name for name in LOSSES if "logp" in LOSSES[name]().reads
                and all("margin" in term.link.fn.__qualname__ for term in LOSSES[name]().terms))
COUPLED = sorted(name for name in LOSSES if LOSSES[name]().coupled)
#: where a loss leaves the range of floats at finite log-probs, of an exponential or of odds
UNBOUNDED = ("alphapo", "f_dpo_alpha", "f_dpo_chi2", "f_dpo_forward_kl", "orpo")


def make(name, seed, size=5, dtype=np.float64, regime="ordinary"):
    """A loss with random hyper-parameters, readings, facts."""
    rng = np.random.default_rng(seed)
    loss = LOSSES[name](**draw_hyper(rng, LOSSES[name]))
    return loss, *draw(rng, loss, size, dtype, regime)


def rows(x, order):
    return {key: value[order] if value.ndim else value for key, value in x.items()}


def of_means(loss):
    return any("length" in term.score.needs for term in loss.terms)


# ---- one loss is another

@few
@given(beta, log_probs(3, 2), log_probs(3, 2))
def test_losses_that_contain_dpo(beta, logp, ref):
    """cdpo(eps=0) = dpop(lam=0) = rpo(alpha=0) = dpo, and aot one row at a time"""
    value, grad = LOSSES["dpo"](beta=beta)(logp, ref)
    for name, hyper in (("cdpo", {"eps": 0}), ("dpop", {"lam": 0}), ("rpo", {"alpha": 0})):
        again, dagain = LOSSES[name](beta=beta, **hyper)(logp, ref, length=np.full((3, 2), 7))
        np.testing.assert_array_equal(again, value)
        np.testing.assert_array_equal(dagain, grad)
    for b in range(3):
        one, done = LOSSES["aot"](beta=beta)(logp[b:b + 1], ref[b:b + 1])
        # (w - l) - (rw - rl) for (w - rw) - (l - rl): six roundings of numbers below 2000 move z by beta times that
        room = 6 * 1000 * EPS * beta
        np.testing.assert_allclose(one, value[b:b + 1], rtol=room, atol=room)
        np.testing.assert_allclose(done, grad[b:b + 1], rtol=max(room, 8 * EPS), atol=beta * room)


@few
@given(beta, log_probs(3, 2), log_probs(3, 2))
def test_tdpo_without_kl_is_dpo(beta, logp, ref):
    value, grad = LOSSES["dpo"](beta=beta)(logp, ref)
    for name in ("tdpo1", "tdpo2"):
        again, dagain = LOSSES[name](beta=beta)({"logp": logp, "kl": np.zeros((3, 2))}, ref)
        np.testing.assert_array_equal(again, value)
        np.testing.assert_array_equal(dagain["logp"], grad)


@few
@given(st.floats(*HYPER["tau"]), beta, log_probs(3, 2), st.floats(0, 3), st.floats(0, 3))
def test_values_at_the_reference(tau, beta, logp, lam_d, lam_u):
    np.testing.assert_allclose(LOSSES["ipo"](tau=tau)(logp, logp)[0], 1 / (4 * tau**2), rtol=4 * EPS)
    np.testing.assert_allclose(LOSSES["dpo"](beta=beta)(logp, logp)[0], np.log(2), rtol=2 * EPS)
    kto, label = LOSSES["kto"](beta=beta, lam_d=lam_d, lam_u=lam_u), [True, False, True]
    value, _ = kto(logp[:, :1], logp[:, :1], label=label, z0=0)
    assert value.tolist() == [lam_d / 2, lam_u / 2, lam_d / 2]


@few
@given(beta, log_probs(3, 2), log_probs(3, 2))
def test_dpo_of_exchanged_labels(beta, logp, ref):
    """-log σ(z) and -log σ(-z) differ by z, and σ(z) + σ(-z) = 1."""
    value, grad = LOSSES["dpo"](beta=beta)(logp, ref)
    swapped, dswapped = LOSSES["dpo"](beta=beta)(logp[:, ::-1], ref[:, ::-1])
    z = beta * ((logp - ref) @ [1, -1])
    np.testing.assert_allclose(swapped - value, z, rtol=4 * EPS, atol=4 * EPS * (1 + abs(z).max()))
    # -β σ(-z) for the chosen and +β σ(z) for what is now the rejected: they part by β
    np.testing.assert_allclose(dswapped[:, 1] - grad[:, 0], beta, rtol=8 * EPS)


@few
@given(beta, st.floats(0.01, 0.49), log_probs(3, 2), log_probs(3, 2))
def test_cdpo_is_the_mean_over_noisy_labels(beta, eps, logp, ref):
    value, grad = LOSSES["cdpo"](beta=beta, eps=eps)(logp, ref)
    right, dright = LOSSES["dpo"](beta=beta)(logp, ref)
    wrong, dwrong = LOSSES["dpo"](beta=beta)(logp[:, ::-1], ref[:, ::-1])
    np.testing.assert_allclose(value, (1 - eps) * right + eps * wrong, rtol=6 * EPS)
    np.testing.assert_allclose(grad, (1 - eps) * dright + eps * dwrong[:, ::-1], rtol=0, atol=8 * EPS * beta)


def same(one, other, rtol=0.0, atol=0.0):
    """Value and gradient of two calls."""
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


@few
@given(beta, log_probs(3, 2), log_probs(3, 2), st.integers(1, 50))
def test_losses_that_are_dpo_to_the_last_bit(beta, logp, ref, n):
    dpo, level = LOSSES["dpo"](beta=beta)(logp, ref), np.full((3, 2), n)
    same(LOSSES["rdpo"](beta=beta, eps=0)(logp, ref), dpo)
    same(LOSSES["wpo"](beta=beta)(logp, ref, w=np.ones((3, 2))), dpo)
    same(LOSSES["odpo"](beta=beta, alpha=0)(logp, ref, score=np.array([[2.0, 1.0]] * 3)), dpo, rtol=2 * EPS)
    same(LOSSES["r_dpo"](beta=beta, alpha=0)(logp, ref, length=np.array([[n, 2 * n]] * 3)), dpo)
    same(LOSSES["r_dpo"](beta=beta, alpha=1.7)(logp, ref, length=level), dpo)
    same(LOSSES["beta_dpo"](beta=beta, alpha=0, floor=0)(logp, ref, m0=0.0, keep=True), dpo, rtol=2 * EPS)
    same(LOSSES["cal_dpo"](lam=0)(logp, ref), LOSSES["dpo"](beta=1)(logp, ref))
    same(LOSSES["mpo"](beta=beta, w_p=1, w_q=0, w_g=0)(logp, ref, length=level, delta=0.3), dpo)
    same(LOSSES["dpop"](beta=beta, lam=0, penalty="outside")(logp, ref), dpo)


@few
@given(beta, log_probs(3, 2), log_probs(3, 2))
def test_losses_that_are_dpo_to_rounding(beta, logp, ref):
    dpo = LOSSES["dpo"](beta=beta)(logp, ref)
    # z = βh, of numbers below 2000, rounded a few times in another order
    room = {"rtol": 8 * 1000 * EPS * (1 + beta), "atol": 8 * 1000 * EPS * (1 + beta)}
    same(LOSSES["pl_dpo"](beta=beta)(logp, ref), dpo, **room)
    same(LOSSES["f_dpo_alpha"](beta=beta, alpha=0)(logp, ref), dpo, **room)
    same(LOSSES["f_dpo_alpha"](beta=beta, alpha=1, convention="order")(logp, ref), dpo, **room)
    certain = np.array([[1.0, 0.0]] * 3)
    same(LOSSES["infonca"](beta=beta, alpha=1e-3)(logp, ref, score=certain), dpo, **room)
    nca = LOSSES["nca"](beta=beta)(logp, ref)
    same(LOSSES["nca_listwise"](beta=beta, alpha=1e-3)(logp, ref, score=certain), nca, **room)
    same(LOSSES["bt_rm"]()(beta * (logp - ref)), (dpo[0], dpo[1] / beta), **room)
    same(LOSSES["pl_rm"]()(beta * (logp - ref)), (dpo[0], dpo[1] / beta), **room)
    for b in range(3):
        row = slice(b, b + 1)
        for eps in (0.0, 0.2):
            alone = LOSSES["aot_unpaired"](beta=beta, eps=eps)(logp[row], ref[row])
            same(alone, LOSSES["cdpo"](beta=beta, eps=eps)(logp[row], ref[row]), **room)


@few
@given(beta, log_probs(3, 2), log_probs(3, 2), st.integers(1, 50))
def test_lengths_that_are_equal_scale_beta(beta, logp, ref, n):
    level = np.full((3, 2), n)
    room = {"rtol": 8 * 1000 * EPS * (1 + beta), "atol": 8 * 1000 * EPS * (1 + beta)}
    same(LOSSES["ln_dpo"](beta=beta * n)(logp, ref, level), LOSSES["dpo"](beta=beta)(logp, ref), **room)
    same(LOSSES["simpo"](beta=beta * n, gamma=0)(logp, length=level), LOSSES["dpo"](beta=beta)(logp, 0.0), **room)


@few
@given(beta, log_probs(3, 2, low=-50), log_probs(3, 2, low=-50))
def test_the_family_of_f_divergences(beta, logp, ref):
    """forward KL at α = 1, χ² at -1, the reverse KL at 0; `order` is 1 - α; mixed χ² adds the two"""
    alpha = LOSSES["f_dpo_alpha"]
    same(LOSSES["f_dpo_forward_kl"](beta=beta)(logp, ref), alpha(beta=beta, alpha=1)(logp, ref))
    same(LOSSES["f_dpo_chi2"](beta=beta)(logp, ref), alpha(beta=beta, alpha=-1)(logp, ref))
    same(alpha(beta=beta, alpha=0.25)(logp, ref), alpha(beta=beta, alpha=0.75, convention="order")(logp, ref))
    with np.errstate(over="ignore"):
        z = beta * (np.expm1(logp - ref) + (logp - ref)) @ [1, -1]
    value, _ = LOSSES["f_dpo_chi2"](beta=beta, mixed=True)(logp, ref)
    expected = np.logaddexp(0, -z)
    # z is a difference of exponentials, each good to its ulps and what its argument is rounded by
    scale = beta * (np.exp(logp - ref) * 100).sum(axis=-1) + beta * 200
    assert (abs(value - expected) <= 4 * EPS * (scale + abs(expected))).all()


@few
@given(st.floats(0.1, 5), st.floats(0, 3), log_probs(3, 2), st.floats(0, 0.4))
def test_conventions_of_the_target_margin(beta, gamma, logp, eps):
    length = np.array([[3, 7], [9, 2], [5, 5]])
    ratio = LOSSES["simpo"](beta=beta, gamma=gamma, scale="ratio", eps=eps)(logp, length=length)
    same(ratio, LOSSES["simpo"](beta=beta, gamma=gamma * beta, eps=eps)(logp, length=length))
    room = {"rtol": 8000 * EPS * (1 + beta), "atol": 8000 * EPS * (1 + beta)}
    same(LOSSES["alphapo"](beta=beta, gamma=gamma, alpha=0, scale="ratio", eps=eps)(logp, length=length), ratio, **room)


@few
@given(beta, log_probs(3, 2), log_probs(3, 2), st.floats(-2, 2))
def test_pairs_that_are_two_single_responses(beta, logp, ref, delta):
    """bco and the pair of KTO without a baseline are sums over columns; apo_zero likewise, plus its constant"""
    for loss, single, facts in ((LOSSES["bco"](beta=beta), "bco_unpaired", {"delta": delta}),
                                (LOSSES["apo_zero"](beta=beta, plus_one=True), "apo_zero_unpaired", {})):
        value, grad = loss(logp, ref, **facts)
        parts = [LOSSES[single](beta=beta)(logp[:, [k]], ref[:, [k]], label=[k == 0] * 3, **facts) for k in (0, 1)]
        np.testing.assert_allclose(value, sum(part[0] for part in parts), rtol=4 * EPS)
        np.testing.assert_allclose(grad, np.concatenate([part[1] for part in parts], axis=1), rtol=4 * EPS)
    below = np.minimum(logp, ref - 1e-3)  # no mean above 0: no baseline
    value, grad = LOSSES["kto_pair"](beta=beta)(below, ref)
    twice, dtwice = LOSSES["apo_zero"](beta=beta, plus_one=True)(below, ref)
    np.testing.assert_allclose(value, twice / 2, rtol=4 * EPS)
    # half of a subnormal number is rounded to a whole count of the smallest
    np.testing.assert_allclose(grad, dtwice / 2, rtol=4 * EPS, atol=2 * np.finfo(float).smallest_subnormal)
    same(LOSSES["apo_zero_unpaired"](beta=beta)(logp[:, :1], ref[:, :1], label=[True, False, True]),
         LOSSES["kto"](beta=beta)(logp[:, :1], ref[:, :1], label=[True, False, True], z0=0.0))


@few
@given(beta, log_probs(3, 2), log_probs(3, 2), st.sampled_from(["sum", "mean", "tokens"]), st.floats(0, 3))
def test_mixtures_are_sums(beta, logp, ref, nll, alpha):
    length, dpo, sft = np.array([[3, 7], [9, 2], [5, 5]]), LOSSES["dpo"](beta=beta), LOSSES["sft"](nll)
    room = {"rtol": 4 * EPS}
    same(LOSSES["rpo"](beta=beta, alpha=alpha, nll=nll)(logp, ref, length),
         (dpo + alpha * sft)(logp, ref, length), **room)
    same(LOSSES["cpo"](beta=beta, alpha=alpha, nll=nll)(logp, length=length),
         (dpo + alpha * sft)(logp, ref_logp=0.0, length=length), **room)
    same(LOSSES["slic"](delta=1, lam=alpha, nll=nll)(logp, length=length),
         (LOSSES["hinge"](beta=1) + alpha * sft)(logp, ref_logp=0.0, length=length), **room)
    same(LOSSES["orpo"](lam=0, nll=nll)(logp, length=length), sft(logp, length=length), **room)
    same(LOSSES["mpo"](beta=beta, nll=nll)(logp, ref, length, delta=0.1),
         (0.8 * dpo + 0.2 * LOSSES["bco"](beta=beta) + sft)(logp, ref, length, delta=0.1), **room)
    same(LOSSES["sft_mean"]()(logp, length=length), LOSSES["sft"]("mean")(logp, length=length))


@few
@given(beta, log_probs(3, 2), log_probs(3, 2))
def test_soft_labels_that_are_certain_are_hard(beta, logp, ref):
    won = np.array([[1.0, 0.0]] * 3)
    soft = LOSSES["sppo"](beta=beta, labels="soft")
    same(soft(logp, ref, win_rate=won), LOSSES["sppo"](beta=beta)(logp, ref), rtol=2 * EPS)
    half = soft(logp, ref, win_rate=np.full((3, 2), 0.5))[0]
    np.testing.assert_allclose(half, ((logp - ref) ** 2).sum(axis=1), rtol=4 * EPS)


@few
@given(seeds, st.floats(0.01, 0.49), beta)
def test_reverse_and_forward_distances_meet_at_their_target(seed, eps, beta):
    """exo, reward_rpo and cdpo are least, and flat, at the same margin: exo at the log odds of ε, reward_rpo at t"""
    rng = np.random.default_rng(seed)
    ref, reward = -rng.random((4, 2)), rng.normal(size=(4, 2))
    cases = [(LOSSES["exo"](beta=beta, eps=eps), np.full(4, np.log1p((1 - 2 * eps) / eps)), {})]
    cases += [(LOSSES["reward_rpo"](beta=beta, distance=distance), reward @ [1, -1], {"reward": reward})
              for distance in ("kl", "reverse_kl", "squared")]
    for loss, margin, facts in cases:
        logp = ref + np.stack([margin / beta, np.zeros(4)], axis=-1)
        value, grad = loss(logp, ref, **facts)
        # the margin is good to an ulp of itself and the log-probs; slopes to β times that, values to its square
        off = 8 * EPS * (1 + abs(margin) + beta)
        assert (abs(value) <= off**2).all()
        assert (abs(grad).max(axis=1) <= 2 * beta * off).all()
        assert (loss(logp + np.array([0.1, 0]), ref, **facts)[0] > 0).all()


@few
@given(seeds)
def test_what_both_responses_say_up_to_the_shorter_length_is_all_that_counts(seed):
    """ld_dpo: α = 1 is dpo; at α = 0 tokens beyond it are not heard, in value and gradient"""
    rng = np.random.default_rng(seed)
    mask = (np.arange(7) > 0) & (np.arange(7) <= rng.integers(1, 7, (4, 2, 1)))
    token_logp, ref = (-rng.random((4, 2, 7)) * mask for _ in range(2))
    loss = LOSSES["ld_dpo"](beta=0.7, alpha=1)
    value, grad = loss(token_logp, ref_token_logp=ref, mask=mask)
    expected, slope = LOSSES["dpo"](beta=0.7)(token_logp.sum(axis=-1), ref.sum(axis=-1))
    np.testing.assert_allclose(value, expected, rtol=16 * EPS)
    np.testing.assert_allclose(grad, slope[..., None] * mask, rtol=16 * EPS)
    beyond = np.cumsum(mask, axis=-1) > mask.sum(axis=-1).min(axis=-1)[:, None, None]
    deaf = LOSSES["ld_dpo"](beta=0.7, alpha=0)
    value, grad = deaf(token_logp, ref_token_logp=ref, mask=mask)
    again, _ = deaf(token_logp - 5 * beyond, ref_token_logp=ref, mask=mask)
    np.testing.assert_array_equal(again, value)
    assert not grad[beyond].any()


def test_ld_dpo_with_a_whole_reference_switches_examples_off():
    """What its docstring says: 40 and 10 tokens of 4.6 nats, policy = reference."""
    mask = np.arange(41) > 0
    mask = np.stack([mask, mask & (np.arange(41) <= 10)])[None]
    token_logp = -4.6 * mask
    loss = LOSSES["ld_dpo"](beta=0.1, alpha=0.5, reference="full")
    assert loss(token_logp, ref_logp=token_logp.sum(axis=-1), mask=mask)[0][0] == pytest.approx(0.00101, abs=5e-6)
    both = LOSSES["ld_dpo"](beta=0.1, alpha=0.5)(token_logp, ref_token_logp=token_logp, mask=mask)
    np.testing.assert_allclose(both[0], np.log(2), rtol=2 * EPS)


# ---- symmetries

def test_margin_losses_are_recognized():
    assert {"dpo", "cdpo", "ipo", "hinge", "aot", "simpo", "tdpo1", "r_dpo", "odpo"} <= set(MARGIN)
    assert not {"sft", "rpo", "dpop", "kto", "nca", "pl_dpo", "bt_rm"} & set(MARGIN)


def test_coupled_losses_are_recognized():
    assert COUPLED == ["aot", "aot_unpaired", "beta_dpo", "kto_pair"]
    assert LOSSES["sft"]("tokens").coupled


@few
@given(st.sampled_from(MARGIN), seeds)
def test_margin_slopes_sum_to_zero(name, seed):
    """A constant that both responses share, log Z(x), cannot matter: slopes are opposite (per token, if means)."""
    loss, read, facts = make(name, seed)
    _, grad = loss(read, **facts)
    by_length = facts["length"] if of_means(loss) else np.ones(2)
    d = grad["logp"] * by_length
    # opposite numbers, divided by the length and multiplied again
    np.testing.assert_allclose(d[:, 0], -d[:, 1], rtol=2 * EPS)


@few
@given(st.sampled_from(MARGIN), seeds, st.integers(-64, 0))
def test_a_common_shift_cancels(name, seed, shift):
    """log Z(x): the same bits, in numbers of few digits; but for what D adds to a score, rounded there"""
    loss, read, facts = make(name, seed)
    assume(not of_means(loss))  # a mean divides each response's share by its own length
    read = {key: np.round(x * 1024) / 1024 for key, x in read.items()}
    facts = {key: x if x.dtype == bool else np.round(x * 1024) / 1024 for key, x in facts.items()}
    assume("score" not in facts or (facts["score"] @ [1, -1] > 0).all())
    value, grad = loss(read, **facts)
    again, dagain = loss({**read, "logp": read["logp"] + shift}, **facts)
    room = 8 * EPS * (64 + np.abs(list(read.values())).max()) * ("kl" in read)
    np.testing.assert_allclose(again, value, rtol=4 * EPS * ("kl" in read), atol=abs(grad["logp"]).max() * room)
    for key in grad:  # slopes of at most beta²/4 = 25, times alpha < 2
        np.testing.assert_allclose(dagain[key], grad[key], rtol=4 * EPS * ("kl" in read), atol=50 * room)


@few
@given(losses, seeds, st.sampled_from(sorted(REGIMES)))
def test_the_order_of_comparisons_does_not_matter(name, seed, regime):
    loss, read, facts = make(name, seed, regime=regime)
    order = np.random.default_rng(seed).permutation(5)
    weight = np.random.default_rng(seed).integers(1, 4, 5)  # exact sums
    if name.startswith("aot"):  # ties may share their partners in another order; their total is tested in test_links
        ratio = read["logp"] - (facts["ref_logp"] if "unpaired" in name else 0)
        assume(all(len(np.unique(x)) == 5 for x in (ratio[:, 0], ratio[:, 1], ratio[:, 0] - ratio[:, 1])))
    value, grad = loss(read, weight=weight, **facts)
    again, dagain = loss(rows(read, order), weight=weight[order], **rows(facts, order))
    room = rounded(loss, read, facts)
    np.testing.assert_allclose(again, value[order], rtol=room, atol=room)
    for key in grad:
        largest = np.abs(grad[key][np.isfinite(grad[key])]).max(initial=0)
        np.testing.assert_allclose(dagain[key], grad[key][order], rtol=room, atol=room * largest)


def rounded(loss, read, facts):
    """What another order of the sums over a batch may change: none but in coupled losses, where they enter a z"""
    if not loss.coupled:
        return 0
    size = max(np.abs(x).max() for x in (*read.values(), *(facts[key] for key in ("ref_logp", "m0") if key in facts)))
    return 8 * EPS * (1 + size) ** (2 if "m0" in facts else 1) * 10  # of beta; of beta_dpo's z = β(1 + αM)h: M and h


@few
@given(losses, seeds, st.integers(0, 4))
def test_weight_two_is_the_row_twice(name, seed, twice):
    loss, read, facts = make(name, seed)
    order, weight = np.array([*range(5), twice]), np.ones(5)
    weight[twice] = 2
    value, grad = loss(read, weight=weight, **facts)
    copied, dcopied = loss(rows(read, order), **rows(facts, order))
    room = 8 * EPS + rounded(loss, read, facts)  # the sum or mean of two
    mean = copied[:5].copy()
    mean[twice] = (copied[twice] + copied[5]) / 2
    np.testing.assert_allclose(value, mean, rtol=room, atol=room * loss.coupled)
    for key, d in dcopied.items():
        total = d[:5].copy()
        total[twice] += d[5]
        np.testing.assert_allclose(grad[key], total, rtol=room, atol=room * np.abs(d).max())


@few
@given(losses, seeds, st.integers(0, 4))
def test_weight_zero_is_no_row(name, seed, gone):
    loss, read, facts = make(name, seed)
    weight, left = np.ones(5), np.delete(np.arange(5), gone)
    weight[gone] = 0
    value, grad = loss(read, weight=weight, **facts)
    without, dwithout = loss(rows(read, left), **rows(facts, left))
    room = rounded(loss, read, facts)  # a 0 among the summands may change the order of the others
    np.testing.assert_allclose(value[left], without, rtol=room, atol=room)
    for key in grad:
        np.testing.assert_allclose(grad[key][left], dwithout[key], rtol=room, atol=room * np.abs(dwithout[key]).max())
        assert not grad[key][gone].any()


@few
@given(losses, seeds, st.floats(0.01, 100), st.sampled_from([np.float32, np.float64]))
def test_scaling_a_loss(name, seed, factor, dtype):
    loss, read, facts = make(name, seed, dtype=dtype)
    value, grad = loss(read, **facts)
    scaled, dscaled = (factor * loss)(read, **facts)
    doubled, ddoubled = (loss + loss)(read, **facts)
    room = 4 * len(loss.terms) * np.finfo(dtype).eps
    assert scaled.dtype == value.dtype == dtype
    np.testing.assert_allclose(scaled, dtype(factor) * value, rtol=room)
    np.testing.assert_allclose(doubled, 2 * value, rtol=room)
    for key in grad:
        np.testing.assert_allclose(dscaled[key], dtype(factor) * grad[key], rtol=room)
        np.testing.assert_allclose(ddoubled[key], 2 * grad[key], rtol=room)


# ---- all numbers

@few
@given(losses, seeds, st.sampled_from(sorted(REGIMES)), st.sampled_from([np.float32, np.float64, np.longdouble]))
def test_finite_numbers_give_finite_numbers(name, seed, regime, dtype):
    """in the dtype they came in; an overflow or an invalid operation would be a warning, and so an error"""
    loss, read, facts = make(name, seed, dtype=dtype, regime=regime)
    value, grad = loss(read, **facts)
    for x in (value, *grad.values()):
        assert (np.isfinite(x) | (name in UNBOUNDED) & ~np.isnan(x)).all()  # where and of which sign: the oracle's test
        assert x.dtype == dtype


@pytest.mark.parametrize("where", ["reading", "fact"])
@pytest.mark.parametrize("name", LOSSES)
def test_nan_propagates(name, where):
    """to the value of its row (of some row, where rows are coupled) and to no other"""
    loss, read, facts = make(name, 0)
    spoiled = [key for key, x in (read if where == "reading" else facts).items() if x.dtype.kind == "f"]
    for key in spoiled:
        for k in range(columns(loss)):
            given_read, given_facts = ({name: np.array(x) for name, x in told.items()} for told in (read, facts))
            x = {**given_read, **given_facts}[key]
            x[(2, k) if x.ndim > 1 else 2 if x.ndim else ()] = np.nan
            value, _ = loss(given_read, **given_facts)
            clean, grad = loss(read, **facts)
            unread = key == "logp" and not grad[key][:, k].any()  # sft: the rejected response
            absent = "present" in facts and x.ndim == 2 and not facts["present"][2, k]
            if unread or absent or not facts.get("keep", np.ones(5))[2]:
                np.testing.assert_array_equal(value, clean)
            elif name in COUPLED:
                assert np.isnan(value).any()
            else:
                assert np.isnan(value).tolist() == [False, False, True, False, False]
                np.testing.assert_array_equal(np.delete(value, 2), np.delete(clean, 2))


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in LOSSES for key in names(LOSSES[name])])
def test_every_hyper_parameter_changes_the_loss(name, key):
    """value or gradient, from the default to another, somewhere among a few batches"""
    default = inspect.signature(LOSSES[name]).parameters[key].default
    base = {"alpha": 0.2} if (name, key) == ("f_dpo_alpha", "convention") else {}  # at 1/2 both are the same
    choices = isinstance(default, (str, bool))
    others = domain(LOSSES[name], key) if choices else [0.5 * default + 0.2, 1.5 * default + 0.1]
    for other in others:
        other = min(other, 0.45) if key == "eps" else other
        if other == default:
            continue
        one, two = LOSSES[name](**base), LOSSES[name](**{**base, key: other})
        both = one + two
        both.name = name
        changed = []
        for seed in range(10):
            read, facts = draw(np.random.default_rng(seed), both, 5, float)
            (value, grad), (again, dagain) = (
                loss({r: read[r] for r in loss.reads}, **{f: facts[f] for f in loss.needs}) for loss in (one, two))
            changed.append((abs(again - value) > 1e-9 * abs(value)).any())
            changed += [(abs(dagain[r] - grad[r]) > 1e-9 * abs(grad[r])).any() for r in grad if r in dagain]
        assert any(changed)


@few
@given(losses, seeds)
def test_gradient_by_differences(name, seed):
    """along a random direction in all readings at once, what is stopped standing still"""
    loss, read, facts = make(name, seed, dtype=np.longdouble, regime="ordinary")
    weight = np.random.default_rng(seed).random(5) + 0.5
    _, grad = loss(read, weight=weight, **facts)
    rng = np.random.default_rng(seed + 1)
    # A reading whose gradient is identically 0 in a column is stopped there: it stays where it is
    direction = {key: rng.normal(size=x.shape) * grad[key].astype(bool).any(axis=0) for key, x in read.items()}
    if name.startswith("aot"):
        ratio = read["logp"] - facts.get("ref_logp", 0)
        assume(all(np.diff(np.sort(x)).min() > 1e-3 for x in (read["logp"] @ [1, -1], ratio[:, 0], ratio[:, 1])))
    assume(name not in ("beta_dpo", "kto_pair"))  # what they stop moves with the log-probs: see test_gradient

    def f(h):
        return weight @ loss({key: x + h * direction[key] for key, x in read.items()}, weight=weight, **facts)[0]

    h = np.longdouble(1e-5)
    measured = (f(-2 * h) - f(2 * h) + 8 * (f(h) - f(-h))) / (12 * h)
    claimed = sum((grad[key] * direction[key]).sum() for key in grad)
    scale = sum(np.abs(grad[key] * direction[key]).sum() for key in grad) + abs(f(0))
    assume(abs(measured - (f(h) - f(-h)) / (2 * h)) < 1e-6 * scale)  # hinge, dpop: the two differ where the slope jumps
    # h⁴ f⁽⁵⁾/30, a slope of up to beta (1 + lam) = 1010 in each of five derivatives; rounding: 1e-19/1e-5 of f
    assert abs(claimed - measured) <= 1e-9 * scale
