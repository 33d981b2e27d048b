"""What any policy can do: enumerate, sample, exact KL."""

import re

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, Plain, Prefix, params_of

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.policy import enumerate_responses, exact_kl, sample
from toy_models import NGram, Tabular

EPS = np.finfo(np.float64).eps


def log_probs(policy, params, responses):
    return read(policy, params, responses, np.arange(len(responses)), ["logp"])[0]["logp"]


def spelled(responses):
    return [tuple(tokens[mask].tolist()) for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


# ---- enumerate

@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("prompt", [[0], [2, 1]])
def test_every_response_is_there_once_and_probabilities_sum_to_1(name, prompt, rng):
    policy = POLICIES[name]()
    for length in (1, 2, 4):
        every = enumerate_responses(policy, prompt, length)
        words = spelled(every)
        assert len(set(words)) == len(words)
        V = policy.vocab
        assert len(words) == (V if policy.eos is None else sum((V - 1) ** n for n in range(length)) + (V - 1) ** length)
        assert [len(word) for word in words] == sorted(map(len, words))
        assert (every.tokens[:, :len(prompt)] == prompt).all()
        assert not every.mask[:, :len(prompt)].any()
        ended = [policy.eos is None or word[-1] == policy.eos for word in words]
        assert every.facts["finished"].tolist() == ended
        if policy.eos is not None:
            assert not any(policy.eos in word[:-1] for word in words)
            assert all(len(word) == length for word, end in zip(words, ended, strict=True) if not end)
        for magnitude in (1.0, 10.0):
            logp = log_probs(policy, params_of(policy, rng, magnitude), every)
            # each log-prob of up to 100 nats carries an error of a few eps times itself
            p = np.exp(logp)
            assert p.sum() == pytest.approx(1, abs=EPS * (4 + 4 * (p * abs(logp)).sum() + len(logp)))


def test_a_vocabulary_of_eos_alone_has_one_response():
    class Sure(Prefix):
        vocab = 1

    every = enumerate_responses(Sure(), [0], 3)
    assert spelled(every) == [(0,)]
    assert every.facts["finished"].tolist() == [True]


def test_another_eos():
    class Last(Prefix):
        eos = 2

    open_ = [(i, j) for i in (0, 1, 3) for j in (0, 1, 3)]
    assert spelled(enumerate_responses(Last(), [1], 2)) == [(2,), (0, 2), (1, 2), (3, 2), *open_]


@pytest.mark.parametrize(("prompt", "length", "text"), [
    ([], 2, "prompt has 0 tokens and max_length is 2; expected at least 1 of each"),
    ([0], 0, "prompt has 1 tokens and max_length is 0; expected at least 1 of each"),
    ([0], 20, "max_length is 20: more than 2**24 tokens of responses over 4 outcomes; expected fewer"),
])
def test_enumerate_refuses(prompt, length, text):
    with message(text):
        enumerate_responses(NGram(vocab=4), prompt, length)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_expected_score_is_0(name, rng):
    """E_π ∇ log π = 0, over all responses of a prompt"""
    policy = POLICIES[name]()
    params = params_of(policy, rng, 2.0)
    every = enumerate_responses(policy, [1], 4)
    values, back = read(policy, params, every, np.arange(len(every)), ["logp"])
    p = np.exp(values["logp"])
    for grad in back({"logp": p}).values():
        assert abs(grad).max() < 4 * EPS * p.sum() * np.sqrt(len(p)) * 4
    skewed = p * (1 + 0.01 * rng.normal(size=len(p)))  # fails when the probabilities are a little off
    assert max(abs(grad).max() for grad in back({"logp": skewed}).values()) > 1e-5


# ---- sample

@pytest.mark.parametrize("name", sorted(POLICIES))
def test_samples_are_as_frequent_as_they_are_probable(name, rng):
    policy = POLICIES[name]()
    params = params_of(policy, rng, 0.7)
    every = enumerate_responses(policy, [1], 3)
    p = dict(zip(spelled(every), np.exp(log_probs(policy, params, every)), strict=True))
    n = 20_000
    drawn = sample(policy, params, [[1]] * n, rng, 3)
    count = dict.fromkeys(p, 0)
    for word in spelled(drawn):
        count[word] += 1
    # Pearson's chi-square has mean dof and variance about 2 dof; 5 sigma. Words expected less than 5 times go together.
    rare = [word for word in p if n * p[word] < 5]
    groups = [[word] for word in p if word not in rare] + ([rare] if rare else [])
    expected = np.array([n * sum(p[word] for word in group) for group in groups])
    observed = np.array([sum(count[word] for word in group) for group in groups])
    dof = len(groups) - 1
    assert dof >= 2
    assert ((observed - expected) ** 2 / expected).sum() < dof + 5 * np.sqrt(2 * dof) + 5
    ended = [policy.eos is None or word[-1] == policy.eos for word in spelled(drawn)]
    assert drawn.facts["finished"].tolist() == ended
    # fails when another policy is asked: the same counts, other probabilities
    other = np.exp(log_probs(policy, params_of(policy, rng, 0.7), every))
    q = dict(zip(spelled(every), other, strict=True))
    wrong = np.array([n * sum(q[word] for word in group) for group in groups])
    assert ((observed - wrong) ** 2 / wrong).sum() > dof + 5 * np.sqrt(2 * dof) + 5


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"tabular"}))
def test_rows_do_not_mix(name, rng):
    """Prompts of many lengths, together: each response comes from its own prompt, and padding stays 0"""
    policy = POLICIES[name]()
    params = {k: 50 * p for k, p in params_of(policy, rng).items()}  # nearly deterministic
    prompts = [[1], [0, 1, 2], [2, 2], [1, 0], [2, 1, 1, 1, 0]]
    together = sample(policy, params, prompts, rng, 6)
    for row, prompt in enumerate(prompts):
        assert together.tokens[row, :len(prompt)].tolist() == prompt
        assert not together.mask[row, :len(prompt)].any()
        end = together.width[row]
        assert together.mask[row, len(prompt):end].all()
        assert (together.tokens[row, end:] == 0).all()
        tokens = np.array(prompt)
        for token in together.tokens[row, len(prompt):end]:
            logits = policy.logits(params, tokens[None])[0][0, -1]
            assert logits[token] > logits.max() - 40  # as probable as e⁻⁴⁰ at least
            tokens = np.append(tokens, token)


def test_samples_depend_on_the_generator_alone():
    policy, params = NGram(vocab=4), NGram(vocab=4).init(np.random.default_rng(0))
    prompts = [[0], [1, 2], [3]] * 20
    one, same, other = (sample(policy, params, prompts, np.random.default_rng(seed), 5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.tokens, same.tokens)
    np.testing.assert_array_equal(one.mask, same.mask)
    assert spelled(one) != spelled(other)
    slow = sample(Plain(policy), params, prompts, np.random.default_rng(1), 5)
    np.testing.assert_array_equal(one.tokens, slow.tokens)


def test_an_outcome_of_probability_0_is_never_drawn():
    W = np.array([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]] * 5)
    drawn = sample(NGram(vocab=5), {"W": W}, [[0]] * 500, np.random.default_rng(3), 4)
    assert set(drawn.tokens[drawn.mask].tolist()) == {1, 3}
    assert not drawn.facts["finished"].any()
    assert drawn.tokens.shape == (500, 5)


def test_max_length_counts_response_tokens_and_shorter_samples_are_trimmed():
    sure = NGram(vocab=2, order=1)
    going = sample(sure, {"W": np.array([[0.0, 900.0]])}, [[0], [0, 0]], np.random.default_rng(0), 3)
    assert going.length.tolist() == [3, 3]
    ended = sample(sure, {"W": np.array([[900.0, 0.0]])}, [[0], [0, 0]], np.random.default_rng(0), 3)
    assert ended.tokens.shape == (2, 3)
    assert ended.facts["finished"].all()
    one = sample(sure, {"W": np.array([[0.0, 900.0]])}, [[0], [0, 0]], np.random.default_rng(0), 1)
    assert one.tokens.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert one.facts["finished"].tolist() == [False, False]
    table = sample(Tabular(vocab=3), {"W": np.zeros((1, 3))}, [[0]] * 4, np.random.default_rng(0), 9)
    assert table.length.tolist() == [1] * 4
    assert table.facts["finished"].all()


def test_float32_policies_are_sampled_alike():
    policy = NGram(vocab=4)
    W = policy.init(np.random.default_rng(0))["W"]
    one, other = (sample(policy, {"W": W.astype(dtype)}, [[0]] * 300, np.random.default_rng(1), 4)
                  for dtype in (np.float32, np.float64))
    assert (one.tokens[:, 1] == other.tokens[:, 1]).mean() > 0.99


def test_sample_refuses_and_takes_nothing():
    policy, params = NGram(vocab=2), {"W": np.zeros((2, 2))}
    with message("max_length is 0; expected at least 1"):
        sample(policy, params, [[0]], np.random.default_rng(0), 0)
    with message("the prompt of row 1 is empty; expected at least one token"):
        sample(policy, params, [[0], []], np.random.default_rng(0), 2)
    assert len(sample(policy, params, [], np.random.default_rng(0), 2)) == 0


# ---- exact KL

def naive_kl(policy, params, ref_policy, ref_params, prompt, length):
    """Σ p log p/q token by token, in 60 digits"""
    every = enumerate_responses(policy, prompt, length)
    with mpmath.workdps(60):
        def logp(policy, params, tokens, mask):
            logits = policy.logits(params, tokens[None])[0][0]
            total = mpmath.mpf(0)
            for t in np.flatnonzero(mask):
                x = [mpmath.mpf(float(v)) for v in logits[t - 1]]
                total += x[tokens[t]] - mpmath.log(mpmath.fsum(map(mpmath.exp, x)))
            return total

        terms = []
        for tokens, mask in zip(every.tokens, every.mask, strict=True):
            p, q = logp(policy, params, tokens, mask), logp(ref_policy, ref_params, tokens, mask)
            terms.append(mpmath.exp(p) * (p - q))
        return float(mpmath.fsum(terms))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_kl_against_naive_sums(name, rng):
    policy = POLICIES[name]()
    for magnitude, apart in ((1.0, 1.0), (3.0, 3.0), (1.0, 1e-3), (1.0, 1e-6)):
        params = params_of(policy, rng, magnitude)
        ref = {k: p + apart * rng.normal(size=p.shape) for k, p in params.items()}
        got = exact_kl(policy, params, policy, ref, [1], 3)
        want = naive_kl(policy, params, policy, ref, [1], 3)
        # log-probs carry some 20 eps; differences of `apart` turn that into 20 eps / apart of the KL
        assert got == pytest.approx(want, rel=100 * EPS * (1 + magnitude / apart))


def test_kl_keeps_its_digits_where_policies_are_1e_8_apart():
    policy = Tabular(vocab=3)
    W = np.array([[0.0, 0.5, -1.0]])
    d = 2.0**-27 * np.array([[1.0, 0.0, 0.0]])  # 7.5e-9, and exact in float64
    p = np.exp(W) / np.exp(W).sum()
    fisher = (d**2 * p).sum() - (d * p).sum() ** 2
    found = exact_kl(policy, {"W": W}, policy, {"W": W + d}, [0], 1)
    # log-probs are rounded to 1e-16, 1e-8 of their differences; Σ p log p/q has no digit: it rounds to 1e-16, is 1e-17
    assert found == pytest.approx(fisher / 2, rel=2e-7)
    assert 0 < found < 1e-16


def test_kl_between_different_kinds_of_policies():
    rng = np.random.default_rng(4)
    one, other = NGram(vocab=4, order=3), Prefix()
    a, b = params_of(one, rng), params_of(other, rng)
    assert exact_kl(one, a, other, b, [2], 3) == pytest.approx(naive_kl(one, a, other, b, [2], 3), rel=1e-13)


def test_kl_where_one_side_gives_nothing():
    policy = Tabular(vocab=3)
    some, all_ = {"W": np.array([[0.0, 0.0, -np.inf]])}, {"W": np.zeros((1, 3))}
    assert exact_kl(policy, all_, policy, some, [0], 1) == np.inf
    assert exact_kl(policy, some, policy, all_, [0], 1) == pytest.approx(np.log(1.5), rel=8 * EPS)
    assert exact_kl(policy, some, policy, some, [0], 1) == 0


@pytest.mark.parametrize("gap", [40.0, 700.0, 800.0, 1e5])
def test_kl_where_probabilities_underflow(gap):
    """π is all on one outcome and π_ref on both, or the other way around"""
    policy = Tabular(vocab=2)
    sure, flat = {"W": np.array([[0.0, -gap]])}, {"W": np.zeros((1, 2))}
    q = np.exp(-gap)
    assert exact_kl(policy, sure, policy, flat, [0], 1) == pytest.approx(np.log(2) - q * (1 + gap), rel=8 * EPS)
    assert exact_kl(policy, flat, policy, sure, [0], 1) == pytest.approx(gap / 2 - np.log(2) + q, rel=8 * EPS)
    long = NGram(vocab=2, order=1)  # e^-800 eight times over
    assert exact_kl(long, sure, long, flat, [0], 8) == pytest.approx(np.log(2) - q * (1 + gap), rel=64 * EPS)


@given(st.lists(st.floats(-30, 30), min_size=8, max_size=8), st.lists(st.floats(-30, 30), min_size=8, max_size=8))
@settings(max_examples=100)
def test_kl_is_never_negative_and_0_for_equal_policies(x, y):
    policy = NGram(vocab=2, order=3)
    one, other = {"W": np.reshape(x, (4, 2))}, {"W": np.reshape(y, (4, 2))}
    assert exact_kl(policy, one, policy, one, [0], 3) == 0
    assert exact_kl(policy, one, policy, other, [0], 3) >= 0
    shifted = {"W": one["W"] + np.arange(4)[:, None]}  # the same policy
    assert exact_kl(policy, one, policy, shifted, [0], 3) < 1e-27  # log-probs differ by 1e-14, squared


def test_longer_responses_tell_policies_apart_better():
    rng = np.random.default_rng(5)
    policy = NGram(vocab=3)
    a, b = policy.init(rng), policy.init(rng)
    kl = [exact_kl(policy, a, policy, b, [0], n) for n in range(1, 9)]
    assert (np.diff(kl) > 0).all()
    assert np.ptp(np.diff(kl)[-2:]) < 0.1 * kl[-1]


def test_a_policy_of_logits_alone_is_enough():
    assert not any(hasattr(Prefix(), name) for name in ("logp", "token_logp", "kl", "next_logits"))
    rng = np.random.default_rng(6)
    policy = Prefix()
    params = params_of(policy, rng)
    drawn = sample(policy, params, [[0], [1, 2]], rng, 4)
    batch = dn.Preferences(drawn, np.array([[0, 1]])).with_reference(policy, params)
    value, _ = dn.value_and_grad(policy, params, batch, dn.LOSSES["dpo"](beta=1.0))
    assert value == pytest.approx(np.log(2), rel=4 * EPS)
