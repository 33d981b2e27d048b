"""04: what training holds, and the advantage that needs no value model."""

from __future__ import annotations

import numpy as np

from ...accounts import memory
from ...advantages import rloo_advantage
from ..exercises import Exercise

__all__ = ["EXERCISES"]


# ---- bytes

def small_value():
    ppo = 16 * (7 + 1) + 2 * (7 + 7)  # trained: policy, value model; frozen: reference, reward model
    dpo = 16 * 7 + 2 * 7
    return ppo / dpo


# ---- an advantage without a value model

def leave_one_out(rewards):
    advantages = []
    for k, own in enumerate(rewards):
        others = [reward for j, reward in enumerate(rewards) if j != k]
        advantages.append(own - sum(others) / len(others))
    return np.array(advantages)


EXERCISES = (
    Exercise(
        "models_small_value",
        "PPO of a policy with 7e9 parameters, reference and reward model as large; the value model has 1e9. "
        "How many times what DPO holds in training does it hold? A number.",
        "Two models are trained at 16 bytes a parameter, two are frozen at 2. DPO of 7e9 holds 18 bytes a parameter.",
        lambda: memory("ppo", 7e9, value_model=1e9).state / memory("dpo", 7e9).state, small_value,
        {"2 is the ratio for models of one size, and a value model of 1e9 has a seventh of its bytes": lambda: 2.0,
         "that is the ratio of the weights alone: policy and value model are trained, at 16 bytes a parameter":
            lambda: 44 / 28,
         "the reward model is of 7e9 parameters here: only the value model is small": lambda: (112 + 14 + 2 + 16) / 126,
         "the value model is trained along with the policy: 16 bytes a parameter, not 2":
            lambda: (112 + 14 + 14 + 2) / 126,
         "that is upside down: PPO's bytes go above": lambda: 126 / 156,
         "DPO holds a reference too, unless its log-probs are stored": lambda: 156 / 112},
        rtol=5e-3,
    ),
    Exercise(
        "models_leave_one_out",
        "RLOO has no value model: it draws K answers to a prompt and compares each with the others. Write "
        "leave_one_out(rewards) of K rewards. Return the K advantages, each reward less the mean of the other K - 1.",
        "The others' mean is (sum of all - own)/(K - 1).",
        rloo_advantage, leave_one_out,
        {"that is less the mean of all, the answer's own reward among them: short by the factor (K - 1)/K":
            lambda rewards: np.subtract(rewards, np.mean(rewards)),
         "that is the mean of the others less the reward: an answer that is better than the others has to gain":
            lambda rewards: -rloo_advantage(rewards),
         "the sum of the others is divided by K: they are K - 1":
            lambda rewards: np.asarray(rewards) - (np.sum(rewards) - rewards) / len(rewards),
         "that is the mean of the others: the advantage is the reward less it":
            lambda rewards: np.asarray(rewards) - rloo_advantage(rewards),
         "that is less the sum of the others: divide it by K - 1":
            lambda rewards: 2 * np.asarray(rewards) - np.sum(rewards),
         "that is also divided by the group's deviation, as in GRPO as published: RLOO leaves differences as they are":
            lambda rewards: np.subtract(rewards, np.mean(rewards)) / np.std(rewards),
         "that is less the best of the group: the baseline of an answer must not look at its own reward":
            lambda rewards: np.subtract(rewards, np.max(rewards))},
        cases=[(np.array([3.0, 0.0, 0.0]),), (np.array([1.0, 0.5, -0.5, 2.0]),)],
    ),
)
