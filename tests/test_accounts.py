"""Bytes in memory, worked out by hand from 2 bytes a frozen parameter and 16 a trained one."""

import pytest

import dpo_numpy as dn
from dpo_numpy.accounts import METHODS, Model, memory

#: method, keywords, and of one billion parameters: GB of weights, GB in training
BY_HAND = [
    ("sft", {}, 2, 16),
    ("rm", {}, 2, 16),
    ("dpo", {}, 4, 18),
    ("dpo", {"reference": 0}, 2, 16),
    ("online_dpo", {}, 6, 20),
    ("online_dpo", {"reward_model": 0}, 4, 18),
    ("rloo", {}, 6, 20),
    ("grpo", {}, 6, 20),
    ("grpo", {"reward_model": 0}, 4, 18),
    ("grpo", {"reference": 0}, 4, 18),
    ("grpo", {"reference": 0, "reward_model": 0}, 2, 16),
    ("ppo", {}, 8, 36),
    ("ppo", {"value_model": 0.5e9}, 7, 28),
    ("ppo", {"reward_model": 3e9, "reference": 0}, 10, 38),
    ("rso", {}, 4, 18),
    ("iterative_dpo", {}, 4, 18),
    ("iterative_dpo", {"reference": 0, "reward_model": 0}, 2, 16),
    ("rso", {"reference": 0}, 2, 16),
    ("rso", {"reward_model": 10e9}, 20, 20),  # the judge alone is larger than what is trained
    ("best_of_n", {}, 2, 16),
    ("best_of_n", {"reward_model": 9e9}, 18, 18),
]


@pytest.mark.parametrize(("method", "sizes", "weights", "state"), BY_HAND)
def test_bytes_are_those_worked_out_by_hand(method, sizes, weights, state):
    found = dn.memory(method, 1e9, **sizes)
    assert (found.weights, found.state) == (weights * 1e9, state * 1e9)


def test_every_method_was_worked_out():
    assert {row[0] for row in BY_HAND} == set(METHODS)


def test_sixteen_bytes_are_those_of_mixed_precision_adam():
    weights, gradient, master, moments = 2, 2, 4, 4 + 4
    assert Model("policy", 1.5e9, True).state == 1.5e9 * (weights + gradient + master + moments) == 24e9
    assert Model("reference", 1.5e9, False).state == Model("policy", 1.5e9, True).weights == 3e9


def test_four_models_of_seven_billion_against_two():
    assert (memory("ppo", 7e9).weights, memory("dpo", 7e9).weights) == (56e9, 28e9)
    assert (memory("ppo", 7e9).state, memory("dpo", 7e9).state) == (252e9, 126e9)
    assert memory("dpo", 7e9, reference=0).state == 112e9


@pytest.mark.parametrize(("method", "roles"), [
    ("ppo", "policy* reference reward_model value_model*"),
    ("grpo", "policy* reference reward_model"),
    ("dpo", "policy* reference"),
    ("rm", "reward_model*"),
])
def test_which_models_are_trained(method, roles):
    phase, = memory(method, 1).phases
    assert " ".join(m.role.replace(" ", "_") + "*" * m.trained for m in phase.models) == roles


def test_phases_come_one_after_the_other():
    assert [(phase.name, phase.state) for phase in memory("rso", 1).phases] == [
        ("sample", 2), ("judge", 2), ("train", 18)]
    assert [phase.name for phase in memory("rso", 1, reward_model=0).phases] == ["sample", "train"]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: memory("a2c", 1), "method is 'a2c'; expected one of sft, rm, dpo"),
    (lambda: memory("dpo", 0), "parameters is 0; expected a finite number above 0"),
    (lambda: memory("dpo", float("nan")), "parameters is nan; expected a finite number above 0"),
    (lambda: memory("dpo", float("inf")), "parameters is inf; expected a finite number above 0"),
    (lambda: memory("dpo", 1, reference=-1), "reference is -1; expected a finite number, at least 0"),
    (lambda: memory("ppo", 1, reward_model=float("inf")), "reward_model is inf; expected a finite number, at least 0"),
    (lambda: memory("dpo", 1, reward_model=1), "reward_model is 1, and dpo has no size of its own for one"),
    (lambda: memory("rm", 1, reward_model=1), "reward_model is 1, and rm has no size of its own for one"),
    (lambda: memory("grpo", 1, value_model=1), "value_model is 1, and grpo has no size of its own for one"),
    (lambda: memory("ppo", 1, value_model=0), "value_model is 0, and ppo trains one; expected a number above 0"),
])
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


def test_its_string_is_in_gigabytes():
    assert str(memory("best_of_n", 1e9, reward_model=0)).splitlines() == [
        "best_of_n: weights 2 GB, in training 16 GB", "  sample: policy 2", "  train: policy 16 (trained)"]
