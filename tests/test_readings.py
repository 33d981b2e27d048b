import re
import tracemalloc
from fractions import Fraction

import mpmath
import numpy as np
import oracle
import pytest
from mpmath import mp, mpf

from dpo_numpy import readings
from dpo_numpy.check import check_gradient, complex_step, finite_difference
from dpo_numpy.preferences import Responses
from dpo_numpy.readings import (
    READINGS,
    sequence_kl,
    sequence_logp,
    sequence_reward,
    token_entropy,
    token_logp,
    token_value,
)

EPS = np.finfo(float).eps
#: As in Preferences: a prompt, the response, padding; the responses of different lengths, one of them with a gap.
MASK = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1]], bool)
V = 5
#: all but the one that is another with another mask
NAMES = sorted(set(READINGS) - {"full_logp"})
FUNCTIONS = {"token_logp": token_logp, "logp": sequence_logp, "token_entropy": token_entropy,
             "token_value": token_value, "reward": sequence_reward}


def some(seed=0, scale=1.0, lead=(), dtype=float):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(*lead, *MASK.shape, V))).astype(dtype)
    return logits, rng.integers(V, size=MASK.shape), MASK


def exact_log_softmax(row):
    row = [oracle.number(x) for x in row]
    total = mpmath.log(sum(map(mpmath.exp, row)))
    return [x - total for x in row]


def of(name, x, tokens, mask, seed=9):
    """A reading by name; the reference of the KL is random, and near for every second token."""
    if name != "kl":
        return FUNCTIONS[name](x, tokens, mask)
    rng = np.random.default_rng(seed)
    ref = rng.normal(size=x.shape)
    ref[..., ::2, :] = x.real[..., ::2, :] + 1e-6 * ref[..., ::2, :]
    return sequence_kl(x, ref, mask)


# ---- values

@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_token_logp_is_the_log_softmax_one_step_before(scale, dtype):
    logits, tokens, mask = some(1, scale, dtype=dtype)
    value, _ = token_logp(logits, tokens, mask)
    total, _ = sequence_logp(logits, tokens, mask)
    assert value.dtype == total.dtype == dtype
    assert not value[~mask].any()
    eps = oracle.number(np.finfo(dtype).eps)
    with mp.workdps(400):
        for b in range(len(mask)):
            exact = {t: exact_log_softmax(logits[b, t - 1])[tokens[b, t]] for t in np.flatnonzero(mask[b])}
            largest = oracle.number(abs(logits[b]).max())
            for t, e in exact.items():  # the logits' own rounding, and six of the answer's (test_numerics)
                assert abs(oracle.number(value[b, t]) - e) <= eps * (6 * abs(e) + 2 * largest)
            expected = sum(exact.values())
            assert abs(oracle.number(total[b]) - expected) <= eps * (7 * abs(expected) + 6 * largest)


@pytest.mark.parametrize("spread", [1e-8, 1e-3, 1.0, 30.0])
def test_sequence_kl_against_the_definition(spread):
    """To the last digits also where KL is 1e-16: the naive sum has none left there."""
    logits, _, mask = some(2)
    ref = logits + spread * np.random.default_rng(3).normal(size=logits.shape)
    value, pullback = sequence_kl(logits, ref, mask)
    grad = pullback(np.ones(len(mask)))
    with mp.workdps(60):
        for b in range(len(mask)):
            total = mpf(0)
            for t in np.flatnonzero(mask[b]) - 1:
                log_p, log_q = exact_log_softmax(logits[b, t]), exact_log_softmax(ref[b, t])
                total += sum(mpmath.exp(q) * (q - p) for p, q in zip(log_p, log_q, strict=True))
                for v in range(V):  # moved by the rounding of d, which is that of the logits
                    room = EPS * mpmath.exp(max(log_p[v], log_q[v])) * (8 + 4 * abs(log_p[v] - log_q[v]) - log_q[v])
                    assert abs(mpf(grad[b, t, v]) - (mpmath.exp(log_p[v]) - mpmath.exp(log_q[v]))) <= room
            # d = log p - log q moves by some eps, and KL by |d| of it
            assert abs(mpf(value[b]) - total) <= EPS * (30 * total + 30 * mpmath.sqrt(total))


def test_sequence_kl_where_exponentials_overflow_and_outcomes_are_impossible():
    mask = np.array([[False, True]])

    def kl(logits, ref):
        value, pullback = sequence_kl(np.tile(np.array(logits), (1, 2, 1)), np.tile(np.array(ref), (1, 2, 1)), mask)
        return value[0], pullback(np.ones(1))[0, 0].tolist()

    near = (pytest.approx(np.log(2), rel=4 * EPS), pytest.approx([-0.5, 0.5], rel=4 * EPS))
    assert kl([0.0, 0.0], [0.0, -1000.0]) == near
    assert kl([0.0, 0.0], [0.0, -np.inf]) == near
    assert kl([0.0, -np.inf], [0.0, -np.inf]) == (0, [0, 0])
    assert kl([0.0, -np.inf], [0.0, 0.0])[0] == np.inf


def test_kl_of_equals_is_exactly_zero():
    logits, _, mask = some(4, 30)
    value, pullback = sequence_kl(logits, logits, mask)
    assert not value.any()
    assert not pullback(np.ones(len(mask))).any()


def test_the_shift():
    """A probe in which every (position, token) has a log-prob of its own."""
    probe = np.log(np.arange(1.0, 21).reshape(1, 4, 5))
    tokens, mask = np.array([[3, 1, 4, 2]]), np.array([[False, True, False, True]])
    p = np.arange(1.0, 21).reshape(4, 5)
    value, pullback = token_logp(probe, tokens, mask)
    assert np.exp(value[0, 1]) == pytest.approx(p[0, 1] / p[0].sum(), rel=8 * EPS)  # logits at 0 score the token at 1
    assert np.exp(value[0, 3]) == pytest.approx(p[2, 2] / p[2].sum(), rel=8 * EPS)
    assert np.abs(pullback(np.ones((1, 4)))).sum(axis=-1)[0].astype(bool).tolist() == [True, False, True, False]
    total, _ = sequence_logp(probe, tokens, mask)
    assert total[0] == value[0, 1] + value[0, 3]


def test_a_nearly_certain_token_keeps_its_digits():
    """log p = -e⁻⁵⁰ and dlogp/dlogit = 1 - p = e⁻⁵⁰, both rounded to 0 by log(p) and 1 - p."""
    logits, tokens, mask = np.array([[[50.0, 0.0], [0.0, 0.0]]]), np.array([[1, 0]]), np.array([[False, True]])
    value, pullback = sequence_logp(logits, tokens, mask)
    assert value[0] == pytest.approx(-np.exp(-50), rel=4 * EPS)
    assert pullback(np.ones(1))[0, 0].tolist() == pytest.approx([np.exp(-50), -np.exp(-50)], rel=4 * EPS)


def test_impossible_tokens():
    logits, tokens, mask = np.array([[[0.0, -np.inf, 0.0]] * 3]), np.array([[0, 0, 2]]), np.array([[False, True, True]])
    value, pullback = sequence_logp(logits, tokens, mask)
    assert value[0] == pytest.approx(-2 * np.log(2), rel=4 * EPS)
    np.testing.assert_allclose(pullback(np.ones(1))[0, 0], [0.5, 0, -0.5], rtol=4 * EPS)
    assert sequence_logp(logits, np.array([[0, 1, 0]]), mask)[0].tolist() == [-np.inf]


def test_nan_propagates():
    logits, tokens, mask = some(5)
    logits[1, 0, 0] = np.nan
    for name in ("logp", "kl"):
        assert np.isnan(of(name, logits, tokens, mask)[0]).tolist() == [False, True, False]


def test_float32_is_summed_in_float64():
    """2,048 tokens, -2,900 nats: rounded once in every row. Added in float32, loop or pairwise, they lose over 1e-4."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(20, 2049, 3)).astype(np.float32)
    tokens, mask = rng.integers(3, size=(20, 2049)), np.tile(np.arange(2049) > 0, (20, 1))
    total, _ = sequence_logp(logits, tokens, mask)
    tokenwise, _ = token_logp(logits, tokens, mask)
    once = tokenwise.astype(np.longdouble).sum(axis=1).astype(np.float32)
    assert total.dtype == np.float32
    np.testing.assert_array_equal(total, once)
    assert abs(np.add.accumulate(tokenwise, axis=1)[:, -1] - once).max() > 1e-4
    assert abs(tokenwise.sum(axis=1) - once).max() > 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_token_entropy_against_the_definition(scale, dtype):
    """Nearly level, ordinary, nearly certain: entropies of log V and of e⁻³⁰, slopes that vanish at either end."""
    logits, tokens, mask = some(3, scale, dtype=dtype)
    value, pullback = token_entropy(logits, tokens, mask)
    grad = pullback(np.ones_like(value))
    assert value.dtype == grad.dtype == dtype
    assert not value[~mask].any()
    eps, tiny = (oracle.number(getattr(np.finfo(dtype), name)) for name in ("eps", "tiny"))
    largest = oracle.number(abs(logits).max())
    with mp.workdps(200):
        for b, t in np.argwhere(mask):
            log_p = exact_log_softmax(logits[b, t - 1])
            p = [mpmath.exp(x) for x in log_p]
            entropy = -sum(x * y for x, y in zip(p, log_p, strict=True))
            # a difference of logits moves by their rounding, and a probability by that share of itself
            assert abs(oracle.number(value[b, t]) - entropy) <= eps * (8 + 2 * largest) * (entropy + tiny)
            for v in range(V):
                room = p[v] * (4 * largest + (8 + 2 * largest) * (abs(log_p[v] + entropy) + entropy))
                room = min(room, p[v] * 8 * (largest + largest**2 * (V + 1))) + 2 * largest * tiny
                assert abs(oracle.number(grad[b, t - 1, v]) + p[v] * (log_p[v] + entropy)) <= eps * room


def test_token_entropy_of_the_certain_and_the_impossible():
    """H = log(1 + e⁻⁵⁰) + 50 p of the token that it is not; what has no probability has no share."""
    logits = np.array([[[50.0, 0.0, -np.inf], [0.0, -np.inf, -np.inf], [0.0, 0.0, 0.0]]])
    tokens, mask = np.zeros((1, 3), int), np.array([[False, True, True]])
    value, pullback = token_entropy(logits, tokens, mask)
    p = np.exp(-50)
    np.testing.assert_allclose(value, [[0, 51 * p, 0]], rtol=4 * EPS)
    np.testing.assert_allclose(pullback(np.ones((1, 3))), [[[-50 * p, 50 * p, 0], [0, 0, 0], [0, 0, 0]]], rtol=4 * EPS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_softmax_does_not_see(dtype):
    """A reward adds up the tokens' logits, a value is their mean: neither is normalized."""
    logits, tokens, mask = some(5, 3.0, dtype=dtype)
    reward, from_reward = sequence_reward(logits, tokens, mask)
    value, from_value = token_value(logits, tokens, mask)
    assert reward.dtype == value.dtype == dtype
    assert not value[~mask].any()
    eps = np.finfo(dtype).eps
    for b in range(len(mask)):
        at = np.flatnonzero(mask[b])
        exact = sum(Fraction(float(logits[b, t - 1, tokens[b, t]])) for t in at)
        assert abs(Fraction(float(reward[b])) - exact) <= eps * abs(exact)
        for t in at:
            exact = sum(Fraction(float(x)) for x in logits[b, t - 1]) / V
            assert abs(Fraction(float(value[b, t])) - exact) <= V * eps * abs(logits[b, t - 1]).max()
    # every logit up by 1: each token's reward, and each value, up by 1; no log-prob moves
    np.testing.assert_allclose(sequence_reward(logits + 1, tokens, mask)[0], reward + mask.sum(axis=1), rtol=64 * eps)
    assert (from_reward(np.ones(len(mask), dtype)).sum(axis=-1) == np.roll(mask, -1, axis=1)).all()
    of_value = from_value(np.ones(mask.shape, dtype)).sum(axis=-1)
    np.testing.assert_allclose(of_value, np.roll(mask, -1, axis=1), rtol=V * eps)


def test_a_value_leaves_out_what_there_is_not():
    logits = np.array([[[3.0, -np.inf, 1.0], [0.0, 0.0, 0.0]]])
    value, pullback = token_value(logits, np.zeros((1, 2), int), np.array([[False, True]]))
    assert value.tolist() == [[0.0, 2.0]]
    assert pullback(np.ones((1, 2)))[0, 0].tolist() == [0.5, 0.0, 0.5]


def test_policy_and_value_share_a_table_without_a_word():
    """The log-prob's gradient sums to 0 along a row, the value's is constant along it: they are orthogonal."""
    logits, tokens, mask = some(6)
    d_policy = token_logp(logits, tokens, mask)[1](np.random.default_rng(1).normal(size=mask.shape))
    d_value = token_value(logits, tokens, mask)[1](np.random.default_rng(2).normal(size=mask.shape))
    assert abs((d_policy * d_value).sum(axis=-1)).max() < 8 * EPS
    assert abs(d_policy).max() > 0.1
    assert abs(d_value).max() > 0.1


# ---- gradients

@pytest.mark.parametrize("method", [finite_difference, complex_step])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_pullback(name, scale, method):
    logits, tokens, mask = some(7, scale)
    rng = np.random.default_rng(8)
    value, pullback = of(name, logits, tokens, mask)
    out = rng.normal(size=value.shape)
    frozen = np.random.default_rng(9).normal(size=logits.shape)
    frozen[..., ::2, :] = logits[..., ::2, :] + 1e-6 * frozen[..., ::2, :]

    def f(params):
        x = params["x"]
        return (out * (sequence_kl(x, frozen, mask) if name == "kl" else of(name, x, tokens, mask))[0]).sum()

    check = check_gradient(f, {"x": logits}, {"x": pullback(out)}, rng, method)
    # A unit is one rounding of each entry of the gradient; each is the product of about eight rounded numbers, and in a
    # complex step the value's real part, up to `scale` times as large, is rounded too.
    assert check.units < 16 * max(1, scale)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"reward", "token_value"}))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_sums_to_zero_over_the_vocabulary(name, dtype):
    logits, tokens, mask = some(10, 3, dtype=dtype)
    value, pullback = of(name, logits, tokens, mask)
    grad = pullback(np.random.default_rng(11).normal(size=value.shape).astype(dtype))
    assert grad.dtype == dtype
    assert grad.any()
    # V entries, each good to a dozen roundings (of logits of size 10, where exp moves by as much)
    assert (abs(grad.sum(axis=-1)) <= np.finfo(dtype).eps * 12 * V * (abs(grad).sum(axis=-1) + (name == "kl"))).all()


def test_token_gradient_off_the_mask_is_ignored():
    logits, tokens, mask = some(12)
    _, pullback = token_logp(logits, tokens, mask)
    d = np.random.default_rng(13).normal(size=mask.shape)
    np.testing.assert_array_equal(pullback(d), pullback(np.where(mask, d, np.nan)))


# ---- what must not matter

@pytest.mark.parametrize("name", NAMES)
def test_padding_and_prompt_are_invisible(name):
    """Ids off the mask, logits that predict them, and more padding."""
    logits, tokens, mask = some(14)
    ref = np.random.default_rng(15).normal(size=logits.shape)
    noise = np.random.default_rng(16)
    scored = np.roll(mask, -1, axis=1)
    more = ((0, 0), (0, 3))
    other, other_ref = (np.pad(np.where(scored[..., None], x, noise.normal(size=x.shape)), (*more, (0, 0)))
                        for x in (logits, ref))
    ids, wide = np.pad(np.where(mask, tokens, V + 99), more, constant_values=V + 7), np.pad(mask, more)

    def both(x, tokens, mask, ref):
        value, pullback = sequence_kl(x, ref, mask) if name == "kl" else of(name, x, tokens, mask)
        return value, pullback(np.ones(value.shape))

    value, grad = both(logits, tokens, mask, ref)
    padded_value, padded_grad = both(other, ids, wide, other_ref)
    if name.startswith("token"):
        np.testing.assert_array_equal(padded_value, np.pad(value, more))
    else:  # NumPy adds 9 numbers in another order than 6: at most 5 roundings
        np.testing.assert_allclose(padded_value, value, rtol=5 * EPS)
    np.testing.assert_array_equal(padded_grad[:, :6], grad)
    assert not padded_grad[:, 6:].any()
    assert not grad[~scored].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["C", "F", "reversed"])
@pytest.mark.parametrize("lead", [(1,), (2,), (2, 3)])
def test_leading_axes_are_a_loop(name, order, lead):
    logits, tokens, mask = some(17, lead=lead)
    kept = logits.copy()
    logits = {"C": logits, "F": np.asfortranarray(logits), "reversed": logits[..., ::-1].copy()[..., ::-1]}[order]
    ref = np.random.default_rng(18).normal(size=(*mask.shape, V))

    def one(x, ref):
        value, pullback = sequence_kl(x, ref, mask) if name == "kl" else of(name, x, tokens, mask)
        return value, pullback(np.cos(value))

    value, grad = one(logits, ref)
    assert grad.shape == logits.shape
    for at in np.ndindex(lead):
        np.testing.assert_array_equal(value[at], one(kept[at], ref)[0])
        np.testing.assert_array_equal(grad[at], one(kept[at], ref)[1])
    np.testing.assert_array_equal(logits, kept)


@pytest.mark.parametrize("block", [1, V, 2 * V, 3 * V + 1])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_do_not_matter(name, block, monkeypatch):
    logits, tokens, mask = some(19)
    value, pullback = of(name, logits, tokens, mask)
    grad = pullback(np.sin(1 + value))
    monkeypatch.setattr(readings, "BLOCK", block)
    small, back = of(name, logits, tokens, mask)
    np.testing.assert_array_equal(small, value)
    np.testing.assert_array_equal(back(np.sin(1 + small)), grad)


def test_mask_of_nothing():
    logits, tokens, _ = some(20)
    value, pullback = sequence_logp(logits, tokens, np.zeros(tokens.shape, bool))
    assert not value.any()
    assert not pullback(np.ones(3)).any()


@pytest.mark.parametrize("name", ["logp", "token_logp", "token_entropy", "kl"])
def test_a_vocabulary_of_one_word(name):
    value, pullback = of(name, np.full((3, 6, 1), 0.3), np.zeros((3, 6), int), MASK)
    assert not value.any()
    assert not pullback(np.ones_like(value)).any()


@pytest.mark.parametrize("name", ["logp", "token_logp", "token_entropy", "kl"])
def test_no_responses(name):
    value, pullback = of(name, np.zeros((0, 6, V)), np.zeros((0, 6), int), np.zeros((0, 6), bool))
    assert len(value) == 0
    assert pullback(value).shape == (0, 6, V)


# ---- memory

@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_no_second_array_of_logits(name, threads, threading, monkeypatch):
    """The forward pass holds a few blocks of rows a thread; the way back those and the gradient."""
    threading(threads)
    monkeypatch.setattr(readings, "BLOCK", 1 << 15)
    rng = np.random.default_rng(21)
    logits = rng.normal(size=(4, 64, 8192))
    ref, tokens = (rng.normal(size=logits.shape) if name == "kl" else None), rng.integers(8192, size=(4, 64))
    mask = np.tile(np.arange(64) > 0, (4, 1))
    block = 8 * readings.BLOCK
    tracemalloc.start()
    try:
        value, pullback = sequence_kl(logits, ref, mask) if name == "kl" else of(name, logits, tokens, mask)
        forward = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        pullback(np.ones(value.shape))
        backward = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = threads * HELD[name] * block
    assert logits.nbytes == 64 * block
    assert forward < held
    assert backward < logits.nbytes + held


# blocks a thread: the logits and what is made of them, for KL two softmaxes and the branches of its terms
HELD = {"kl": 13.5, "token_entropy": 6.5, "token_value": 4.5, "reward": 0.5}
HELD |= dict.fromkeys(("logp", "token_logp"), 1.5)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name, threading, monkeypatch):
    monkeypatch.setattr(readings, "BLOCK", 64)
    rng = np.random.default_rng(22)
    logits, ref, tokens = rng.normal(size=(50, 6, V)), rng.normal(size=(50, 6, V)), rng.integers(V, size=(50, 6))
    mask = rng.random((50, 6)) < 0.7
    mask[:, 0] = False
    found = []
    for n in (1, 2, 5):
        threading(n)
        value, pullback = sequence_kl(logits, ref, mask) if name == "kl" else of(name, logits, tokens, mask)
        found.append((value, pullback(value)))
    for value, grad in found[1:]:
        assert np.array_equal(value, found[0][0])
        assert np.array_equal(grad, found[0][1])


# ---- errors

def test_errors_are_full_sentences():
    logits, tokens, mask = some(22)
    first, far = mask.copy(), tokens.copy()
    first[1, 0], far[0, 3] = True, V
    negative = np.where(far == V, -2, tokens)
    shapes = ("logits (3, 5, 5), tokens (3, 6) and mask (3, 6) do not fit; expected (..., T, V), (..., T), (..., T)")
    for call, message in [
        (lambda: token_logp(logits[:, 1:], tokens, mask), shapes),
        (lambda: token_logp(logits, tokens[:, 1:], mask),
         "logits (3, 6, 5), tokens (3, 5) and mask (3, 6) do not fit; expected (..., T, V), (..., T), (..., T)"),
        (lambda: sequence_logp(logits, tokens, mask.astype(int)), "mask has dtype int64; expected bool"),
        (lambda: sequence_kl(logits, logits, first),
         "mask counts the first token, which no logits predict; expected mask[..., 0] false"),
        (lambda: token_logp(logits, far, mask), "tokens hold id 5 under the mask; expected ids from 0 to 4"),
        (lambda: token_logp(logits, negative, mask), "tokens hold id -2 under the mask; expected ids from 0 to 4"),
        (lambda: sequence_kl(logits, logits[..., 1:], mask),
         "ref_logits has shape (3, 6, 4); expected that of logits, (3, 6, 5)"),
        (lambda: READINGS["kl"](logits, Responses(tokens, mask)),
         "the reading kl needs the reference's distributions: call batch.with_reference(policy, params, 'logp', 'kl')"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_registry_reads_what_the_functions_read():
    logits, tokens, mask = some(23)
    responses = Responses(tokens, mask)
    for name, reading in FUNCTIONS.items():
        np.testing.assert_array_equal(READINGS[name](logits, responses)[0], reading(logits, tokens, mask)[0])


def test_registry_reads_kl_from_the_kept_reference():
    from dpo_numpy.preferences import Reference

    logits, tokens, mask = some(24)
    ref = np.random.default_rng(25).normal(size=logits.shape)

    class Fixed:
        def logits(self, params, tokens):
            return params["x"], None

    responses = Responses(tokens, mask, reference=Reference.of(Fixed(), {"x": ref}))
    np.testing.assert_array_equal(READINGS["kl"](logits, responses)[0], sequence_kl(logits, ref, mask)[0])


def test_full_logp_counts_the_prompt_and_the_gap_and_no_padding():
    logits, tokens, mask = some(11)
    responses = Responses(tokens, mask)
    whole = np.array([[0, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(responses.whole, whole)
    value, pullback = READINGS["full_logp"](logits, responses)
    expected, expected_pullback = sequence_logp(logits, tokens, whole)
    np.testing.assert_array_equal(value, expected)
    d = np.random.default_rng(0).normal(size=3)
    np.testing.assert_array_equal(pullback(d), expected_pullback(d))
    with mp.workdps(50):
        total = sum(exact_log_softmax(logits[0, t - 1])[tokens[0, t]] for t in range(1, 5))
    assert value[0] == pytest.approx(float(total), rel=8 * EPS)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, bool])
def test_logits_that_are_no_wide_floats_are_refused(dtype):
    tokens, mask = np.array([[0, 1]]), np.array([[False, True]])
    with pytest.raises(ValueError, match=rf"^logits have dtype {np.dtype(dtype)}; expected NumPy's floating-point num"):
        token_logp(np.zeros((1, 2, 2), dtype), tokens, mask)


def test_logits_of_another_library_are_refused():
    class Tensor:
        shape, dtype = (1, 2, 2), "torch.float32"

    with pytest.raises(ValueError, match=r"^logits have dtype torch.float32; expected NumPy's"):
        token_logp(Tensor(), np.array([[0, 1]]), np.array([[False, True]]))
