"""The measure on comparisons: what it accepts, and that parts add up to the whole."""

import itertools
import re
import warnings

import numpy as np
import pytest
from policies import POLICIES, Prefix, params_of

import dpo_numpy as dn
from dpo_numpy.preferences import Preferences, Reference, Responses, pad
from toy_models import NGram

EPS = np.finfo(np.float64).eps
DPO = dn.LOSSES["dpo"](beta=1.0)


def responses(n=3, width=3):
    """[0, 1, 2], [0, 1, 2] ...: two response tokens each"""
    tokens = np.tile(np.arange(width), (n, 1))
    return Responses(tokens, tokens > 0)


def three():
    return Preferences.of([[0], [0], [3, 0]], [[1, 0], [2, 1, 0], [1, 1, 0]], [[2, 0], [0], [3, 0]],
                          weight=[0.2, 0.5, 0.05])


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


# ---- Responses: what they refuse

@pytest.mark.parametrize(("tokens", "mask", "text"), [
    ([0, 1], [False, True], "tokens has shape (2,); expected (N, T)"),
    ([[[0, 1]]], [[[False, True]]], "tokens has shape (1, 1, 2); expected (N, T)"),
    ([[0.0, 1.0]], [[False, True]], "tokens has dtype float64; expected integers"),
    ([[False, True]], [[False, True]], "tokens has dtype bool; expected integers"),
    ([[0, 1]], [[False, True, True]], "mask has shape (1, 3); expected that of tokens, (1, 2)"),
    ([[0, 1]], [False, True], "mask has shape (2,); expected that of tokens, (1, 2)"),
    ([[0, 1]], [[0, 1]], "mask has dtype int64; expected bool"),
    ([[0, 1], [0, -100]], [[False, True]] * 2, "tokens has the negative id -100 in row 1; pad with any valid id"),
    ([[0, 1], [0, 1]], [[False, True], [True, True]], "mask counts the first token of row 1, which nothing before it"),
    ([[0, 1], [0, 1], [0, 1]], [[False, True], [False, True], [False, False]], "mask has no response token in row 2"),
    (np.zeros((2, 0), int), np.zeros((2, 0), bool), "mask has no response token in row 0"),
])
def test_responses_refuse(tokens, mask, text):
    with message(text):
        Responses(np.array(tokens), np.array(mask))


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (3, 3, 1)])
def test_responses_refuse_facts_that_do_not_fit(shape):
    with message(f"ref_logp has shape {shape}; expected (3,) or (3, 3)"):
        responses().with_facts(ref_logp=np.zeros(shape))


def test_responses_hold_any_integers_and_no_rows_at_all():
    for dtype in (np.int8, np.int32, np.uint64):
        r = Responses(np.array([[0, 5]], dtype), np.array([[False, True]]))
        assert r.tokens.dtype == dtype
    assert len(Responses(np.zeros((0, 3), int), np.zeros((0, 3), bool))) == 0


# ---- Responses: what is derived from them

def test_length_counts_the_mask_and_width_reaches_its_last_token():
    r = Responses(np.zeros((3, 6), int), np.array([[0, 1, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]], bool))
    assert r.length.tolist() == [2, 2, 1]
    assert r.width.tolist() == [3, 5, 6]


def test_take_trims_padding_and_facts_of_tokens_alike():
    r = pad([([0], [1, 2, 3, 4, 5]), ([0], [1, 2]), ([0, 3], [4])])
    told = r.with_facts(one=np.arange(3), each=np.arange(18).reshape(3, 6))
    part = told.take(np.array([2, 1]))
    assert part.tokens.tolist() == [[0, 3, 4], [0, 1, 2]]
    assert part.mask.tolist() == [[False, False, True], [False, True, True]]
    assert part.facts["one"].tolist() == [2, 1]
    assert part.facts["each"].tolist() == [[12, 13, 14], [6, 7, 8]]
    assert part.width.tolist() == [3, 3]
    assert told.take(np.array([0])).tokens.shape == (1, 6)


def test_take_keeps_the_reference():
    policy = NGram(vocab=3)
    batch = Preferences.of([[0]], [[1, 0]], [[2, 0]]).with_reference(policy, {"W": np.zeros((3, 3))}, "logp", "kl")
    assert batch.responses.take(np.array([0])).reference is batch.responses.reference


def test_a_memo_is_kept_for_the_same_rows_and_for_no_others():
    r, built = responses(), []
    assert r.memo("x", lambda: built.append(1) or "first") == "first"
    assert r.memo("x", lambda: built.append(1) or "second") == "first"
    assert r.with_facts(a=np.zeros(3)).memo("x", lambda: "third") == "first"  # the same tokens
    assert r.take(np.array([0, 1, 2])).memo("x", lambda: "fourth") == "fourth"
    assert responses().memo("x", lambda: "fifth") == "fifth"
    assert r.memo("y", lambda: "sixth") == "sixth"
    assert len(built) == 1


def test_two_policies_do_not_share_counts():
    r = pad([([0], [1, 2, 1, 0]), ([0], [2, 1, 0])])
    for policy in (NGram(3, order=1), NGram(3, order=2), NGram(3, order=3), NGram(4, order=2)):
        params = policy.init(np.random.default_rng(0))
        plain, _ = dn.sequence_logp(policy.logits(params, r.tokens)[0], r.tokens, r.mask)
        np.testing.assert_allclose(policy.logp(params, r, np.arange(2))[0], plain, rtol=8 * EPS)


# ---- Preferences: what they refuse

@pytest.mark.parametrize(("index", "text"), [
    ([0, 1], "index has shape (2,) and dtype int64; expected (B, K) integers"),
    ([[0.0, 1.0]], "index has shape (1, 2) and dtype float64; expected (B, K) integers"),
    (np.zeros((0, 2), int), "index has shape (0, 2); expected at least one comparison of one response"),
    (np.zeros((2, 0), int), "index has shape (2, 0); expected at least one comparison of one response"),
    ([[0, 1], [0, 3]], "index row 1 is [0, 3]; expected rows of the 3 responses, and -1 only after the last"),
    ([[0, 1], [0, -2]], "index row 1 is [0, -2]"),
    ([[-1, 0]], "index row 0 is [-1, 0]"),
    ([[-1]], "index row 0 is [-1]"),
    ([[0, 1, 2], [0, -1, 2]], "index row 1 is [0, -1, 2]"),
])
def test_preferences_refuse_an_index(index, text):
    with message(text):
        Preferences(responses(), np.array(index))


@pytest.mark.parametrize(("weight", "text"), [
    ([1.0], "weight has shape (1,) and dtype float64; expected (2,) numbers"),
    ([[1.0, 1.0]], "weight has shape (1, 2) and dtype float64; expected (2,) numbers"),
    ([True, False], "weight has shape (2,) and dtype bool; expected (2,) numbers"),
    ([0.0, -0.5], "weight is -0.5 in row 1; expected a finite number, at least 0"),
    ([np.nan, 1.0], "weight is nan in row 0; expected a finite number, at least 0"),
    ([1.0, np.inf], "weight is inf in row 1; expected a finite number, at least 0"),
])
def test_preferences_refuse_a_weight(weight, text):
    with message(text):
        Preferences(responses(), np.array([[0, 1], [1, 2]]), np.array(weight))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3), (1,)])
def test_preferences_refuse_a_fact(shape):
    with message(f"z0 has shape {shape}; expected (), (2,) or (2, 2)"):
        Preferences(responses(), np.array([[0, 1], [1, 2]])).with_facts(z0=np.zeros(shape))


@pytest.mark.parametrize(("given", "text"), [
    (([[0]],), "got 1 prompts and columns of [] responses; expected as many"),
    (([[0]], [[1]], [[1], [2]]), "got 1 prompts and columns of [1, 2] responses; expected as many"),
    (([[0], []], [[1], [1]], [[2], [2]]), "the prompt of row 1 is empty; expected at least one token"),
    (([[0], [0]], [[1], [1]], [[2], []]), "response 1 of row 1 is empty; expected at least its end-of-string token"),
    (([[0]], [[1.5]], [[2]]), "hold tokens of dtype float64; expected integers"),
    (([[0]], [[2**70]], [[2]]), "hold tokens of dtype object; expected integers"),
    ((["a"], ["b"], ["c"]), "hold tokens of dtype <U1; expected integers"),
    (([[0]], [[-1]], [[2]]), "tokens has the negative id -1 in row 0"),
    (([[0]], [None], [[2]]), "index row 0 is [-1, 0]"),
    (([], [], []), "index has shape (0, 2); expected at least one comparison"),
])
def test_of_refuses(given, text):
    with message(text):
        Preferences.of(*given)


def test_of_warns_of_responses_compared_with_themselves_once_and_names_the_rows():
    columns = [[1, 0]] * 8, [[2, 0], *[[1, 0]] * 6, [2, 0]]
    with pytest.warns(UserWarning, match=re.escape("in 6 of 8 comparisons (rows 1, 2, 3, 4, 5 ...)")) as seen:
        batch = Preferences.of([[0]] * 8, *columns)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the rows of a slice are not the caller's
        batch.slice(np.array([1, 2])).scaled(2.0).with_facts(z0=0.0)
        Preferences.of([[0], [1]], [[1, 0], [2, 0]], [[2, 0], None], [None, None])  # what is absent is not compared
    with pytest.warns(UserWarning, match=re.escape("in 1 of 1 comparisons (rows 0)")):
        Preferences.of([[0]], [[1]], [[2]], [[1]])


# ---- Preferences: what they hold

def test_of_keeps_each_distinct_response_once():
    batch = Preferences.of([[0], [0], [1]], [[1, 0], [2, 0], [1, 0]], [[2, 0], [1, 0], [2, 0]])
    assert batch.index.tolist() == [[0, 1], [1, 0], [2, 3]]  # the same response to another prompt is another
    assert batch.responses.tokens.tolist() == [[0, 1, 0], [0, 2, 0], [1, 1, 0], [1, 2, 0]]
    assert batch.responses.mask.tolist() == [[False, True, True]] * 4
    np.testing.assert_array_equal(batch.weight, [1 / 3] * 3)


def test_of_tells_a_prompt_from_the_beginning_of_a_response():
    batch = Preferences.of([[0, 1]], [[2]], [[3]])
    other = Preferences.of([[0]], [[1, 2]], [[1, 3]])
    assert batch.responses.tokens.tolist() == other.responses.tokens.tolist()
    assert batch.responses.length.tolist() == [1, 1]
    assert other.responses.length.tolist() == [2, 2]
    both = Preferences.of([[0, 1], [0]], [[2], [1, 2]], [[3], [1, 3]])
    assert both.index.tolist() == [[0, 1], [2, 3]]


def test_of_takes_arrays_rankings_labels_weights_and_facts():
    ranking = Preferences.of(np.array([[0], [1]]), np.array([[1, 0], [2, 0]]), [[2, 0], None], weight=[2, 3])
    assert ranking.index.tolist() == [[0, 1], [2, -1]]
    assert ranking.weight.tolist() == [2, 3]
    unpaired = Preferences.of([[0], [0]], [[1], [2]], label=[True, False], z0=0.5, score=[[1.0], [2.0]])
    assert unpaired.index.shape == (2, 1)
    assert unpaired.fact("label").tolist() == [True, False]
    assert unpaired.fact("z0").shape == ()
    assert unpaired.fact("score").tolist() == [[1.0], [2.0]]
    assert unpaired.fact("nothing") is None


def test_facts_of_responses_follow_the_index():
    batch = Preferences.of([[0], [0]], [[1, 0], [2, 2, 0]], [[2, 2, 0], None])
    told = Preferences(batch.responses.with_facts(one=np.array([10, 20]), each=np.arange(8).reshape(2, 4) + 5),
                       batch.index, facts={"row": np.array([1.0, 2.0]), "all": 3.0})
    assert told.fact("one").tolist() == [[10, 20], [20, 1]]  # nothing of the last row where there is no response
    assert told.fact("each").tolist() == [[[5, 6, 7, 8], [9, 10, 11, 12]], [[9, 10, 11, 12], [1, 1, 1, 1]]]
    assert told.fact("length").tolist() == [[2, 3], [3, 1]]
    assert told.fact("present").tolist() == [[True, True], [True, False]]
    part = told.slice(np.array([1]))
    assert part.fact("one").tolist() == [[20, 1]]
    assert part.fact("row").tolist() == [2.0]
    assert part.fact("all") == 3.0
    assert told.with_facts(length=np.full((2, 2), 9)).fact("length").tolist() == [[9, 9], [9, 9]]  # told, so believed


# ---- parts and the whole

def test_slices_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    policy = Prefix()
    params = params_of(policy, rng)
    batch = three().with_reference(policy, params_of(policy, rng))
    value, grad = dn.value_and_grad(policy, params, batch, DPO)
    parts = [dn.value_and_grad(policy, params, batch.slice(np.array(rows)), DPO) for rows in ([2], [0, 1])]
    assert sum(v for v, _ in parts) == pytest.approx(value, rel=4 * EPS)
    for name in grad:
        total = sum(abs(g[name]) for _, g in parts)
        assert (abs(sum(g[name] for _, g in parts) - grad[name]) <= 8 * EPS * total).all()
    assert batch.slice(np.array([False, True, True])).weight.tolist() == [0.5, 0.05]


def test_an_epoch_holds_every_comparison_once_and_keeps_weights_in_proportion():
    batch = three()
    parts = list(batch.epoch(2, np.random.default_rng(0)))
    assert [len(part) for part in parts] == [2, 1]
    rows = np.concatenate([part.index for part in parts])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, batch.index.tolist()))
    weight = {}
    for part in parts:
        weight.update(zip(map(tuple, part.index.tolist()), part.weight * len(part) / 3, strict=True))
    for row, w in zip(batch.index.tolist(), batch.weight, strict=True):
        assert weight[tuple(row)] == pytest.approx(w, rel=4 * EPS)
    assert [len(part) for part in batch.epoch(10, np.random.default_rng(0))] == [3]


def test_batches_go_on_epoch_after_epoch_in_a_new_order_that_the_generator_decides():
    batch = Preferences.of([[0]] * 8, [[1, i] for i in range(8)], [[2, i] for i in range(8)])

    def first(seed):
        every = batch.batches(4, np.random.default_rng(seed))
        return [part.index[:, 0].tolist() for part in itertools.islice(every, 6)]

    assert first(1) == first(1)
    assert first(1) != first(2)
    epochs = [first(1)[i] + first(1)[i + 1] for i in (0, 2, 4)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(batch.index[:, 0].tolist())] * 3
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("size", [0, -1])
def test_batches_refuse_a_size(size):
    for make in (three().epoch, three().batches):
        with message(f"size is {size}; expected at least 1"):
            next(make(size, np.random.default_rng(0)))


def test_all_batches_of_two_average_to_the_whole_and_renormalized_ones_do_not():
    rng = np.random.default_rng(1)
    policy = NGram(vocab=4)
    params = policy.init(rng)
    batch = three().with_reference(policy, policy.init(rng))
    whole, whole_grad = dn.value_and_grad(policy, params, batch, DPO)
    fair, scaled = [], []
    for pair in itertools.combinations(range(3), 2):
        part = batch.slice(np.array(pair))
        fair.append(dn.value_and_grad(policy, params, part.scaled(3 / 2), DPO))
        scaled.append(dn.value_and_grad(policy, params, part.scaled(batch.weight.sum() / part.weight.sum()), DPO)[0])
    assert np.mean([v for v, _ in fair]) == pytest.approx(whole, rel=4 * EPS)
    np.testing.assert_allclose(np.mean([g["W"] for _, g in fair], axis=0), whole_grad["W"], atol=4 * EPS)
    assert abs(np.mean(scaled) - whole) > 0.01 * whole
    # and what `epoch` yields is the former: batches of 2 out of 3, met over many orders
    for seed in range(20):
        part = next(batch.epoch(2, np.random.default_rng(seed)))
        rows = [batch.index.tolist().index(row) for row in part.index.tolist()]
        np.testing.assert_array_equal(part.weight, batch.weight[rows] * (3 / 2))


# ---- the reference

@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_reference_does_not_move_with_the_parameters_it_was_made_from(name):
    rng = np.random.default_rng(2)
    policy = POLICIES[name]()
    params = params_of(policy, rng)
    batch = Preferences.of([[0], [0]], [[1], [2]], [[0], [1]])
    batch = batch.with_reference(policy, params, "logp", "token_logp", "kl")
    before = {k: np.array(batch.fact(k)) for k in ("ref_logp", "ref_token_logp")}
    loss = dn.LOSSES["tdpo1"](beta=1.0)
    same = dn.value_and_grad(policy, {k: p.copy() for k, p in params.items()}, batch, loss)[0]
    assert same == pytest.approx(np.log(2), rel=8 * EPS)  # policy = reference
    elsewhere = {k: p + rng.normal(size=p.shape) for k, p in params.items()}
    there = dn.value_and_grad(policy, elsewhere, batch, loss)[0]
    for p in params.values():
        p += 7 * rng.normal(size=p.shape)  # in place
    assert dn.value_and_grad(policy, elsewhere, batch, loss)[0] == there
    for k, value in before.items():
        np.testing.assert_array_equal(batch.fact(k), value)


def test_with_reference_tells_logp_unless_told_what_to_tell_and_keeps_the_rest():
    policy, params = NGram(vocab=3), {"W": np.zeros((3, 3))}
    batch = Preferences.of([[0]], [[1, 0]], [[2, 2, 0]], weight=[0.3], z0=1.0)
    told = batch.with_reference(policy, params)
    assert sorted(told.responses.facts) == ["ref_logp"]
    assert told.responses.reference is None
    np.testing.assert_allclose(told.fact("ref_logp"), -np.log(3) * np.array([[2, 3]]), rtol=4 * EPS)
    assert told.weight.tolist() == [0.3]
    assert told.fact("z0") == 1.0
    tokens = told.with_reference(policy, params, "token_logp")
    assert sorted(tokens.responses.facts) == ["ref_logp", "ref_token_logp"]
    assert tokens.fact("ref_token_logp").shape == (1, 2, 4)
    only = batch.with_reference(policy, params, "kl")
    assert sorted(only.responses.facts) == []
    assert only.responses.reference.policy is policy
    with message("no reading is called 'logps'; expected one of logp, full_logp, token_logp, token_entropy, "
                 "token_value, reward, kl"):
        batch.with_reference(policy, params, "logps")


def test_a_reference_is_a_copy():
    params = {"W": np.zeros((2, 2))}
    reference = Reference.of(NGram(vocab=2), params)
    params["W"] += 1
    assert reference.params["W"].tolist() == [[0, 0], [0, 0]]


def test_pad():
    r = pad([([0], [1]), ([2, 3], [4, 5])], dtype=np.int32)
    assert r.tokens.dtype == np.int32
    assert r.tokens.tolist() == [[0, 1, 0, 0], [2, 3, 4, 5]]
    assert r.mask.tolist() == [[False, True, False, False], [False, False, True, True]]
    assert len(pad([])) == 0


def test_what_was_derived_from_is_not_written_to():
    """Else what is kept of it would be of another batch"""
    tokens, mask, index = np.array([[0, 1, 2], [0, 2, 1]]), np.array([[False, True, True]] * 2), np.array([[0, 1]])
    pairs = Preferences(Responses(tokens, mask), index)
    pairs.distinct()
    for x in (pairs.index, pairs.responses.tokens, pairs.responses.mask):
        with pytest.raises(ValueError, match="read-only"):
            x[0] = x[0, ::-1]
    assert tokens.flags.writeable and mask.flags.writeable and index.flags.writeable
