"""Preference optimization in NumPy, every derivative written by hand.

    params --policy--> logits --reading--> log π(y|x) --score--> one number per response --link--> loss

    policy.py       what a policy owes; sample, enumerate, exact KL        toy_models has the policies
    readings.py     logits to log-probs and back                           numerics.py   overflow and cancellation
    scores.py       log-ratio, mean log-prob ...                           links.py      kernels and slopes, lifts
    losses.py       LOSSES, by name                                        gradient.py   the chain rule
    surrogates.py   SURROGATES: policy gradients, token by token           advantages.py GRPO's, RLOO's, GAE
    preferences.py  Responses, Preferences                                 data          preference files, tokenizers
    estimates.py    KTO's z₀, BCO's shift, WPO's weights                   training.py   train; references that move
    rollouts.py     responses of the policy itself, judged                 trainers.py   SFT, PPO, GRPO, RSO ...
    optim.py        sgd, momentum, adam, clip                              accounts.py   models and bytes in memory
    metrics.py      what one logs                                          check.py      gradients against differences
    fused.py        readings with their gradient in one pass               parallel.py   threads over blocks of rows
    minimal.py      all of DPO on one page, importing none of the above

Names are loaded when first used, so that `import dpo_numpy` costs what `import numpy` costs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "memory": "accounts",
    "gae": "advantages", "group_advantage": "advantages", "penalized_reward": "advantages",
    "rloo_advantage": "advantages", "whiten": "advantages",
    "check_gradient": "check", "complex_step": "check", "finite_difference": "check",
    "Examples": "data", "Bytes": "data", "Words": "data", "load": "data", "to_preferences": "data",
    "head_logp": "fused", "head_logp_grad": "fused", "token_logp_grad": "fused",
    "compare": "gradient", "read": "gradient", "scores_matrix": "gradient", "value_and_grad": "gradient",
    "bco_shift": "estimates", "kl_baseline": "estimates", "wpo_weight": "estimates",
    "LOSSES": "losses", "Loss": "losses",
    "accuracy_interval": "metrics", "preference_metrics": "metrics",
    "Optimizer": "optim", "adam": "optim", "clip": "optim", "global_norm": "optim", "momentum": "optim", "sgd": "optim",
    "set_threads": "parallel", "threads": "parallel",
    "Policy": "policy", "enumerate_responses": "policy", "exact_kl": "policy", "sample": "policy",
    "Preferences": "preferences", "Responses": "preferences",
    "sequence_kl": "readings", "sequence_logp": "readings", "sequence_reward": "readings",
    "token_entropy": "readings", "token_logp": "readings", "token_value": "readings",
    "Task": "rollouts", "best_of": "rollouts", "ranked_pairs": "rollouts", "rejection_sample": "rollouts",
    "reward_model": "rollouts", "rollout": "rollouts",
    "SURROGATES": "surrogates",
    "OnlineStep": "trainers", "PPOStep": "trainers", "train_best_of_n": "trainers", "train_grpo": "trainers",
    "train_iterative_dpo": "trainers", "train_online_dpo": "trainers", "train_ppo": "trainers",
    "train_reward_model": "trainers", "train_rloo": "trainers", "train_rso": "trainers", "train_sft": "trainers",
    "identify": "conformance.identification", "verify": "conformance.verification",
    "Step": "training", "staged_reference": "training", "trailing_reference": "training", "train": "training",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .accounts import memory as memory
    from .advantages import gae as gae
    from .advantages import group_advantage as group_advantage
    from .advantages import penalized_reward as penalized_reward
    from .advantages import rloo_advantage as rloo_advantage
    from .advantages import whiten as whiten
    from .check import check_gradient as check_gradient
    from .check import complex_step as complex_step
    from .check import finite_difference as finite_difference
    from .conformance.identification import identify as identify
    from .conformance.verification import verify as verify
    from .data import Bytes as Bytes
    from .data import Examples as Examples
    from .data import Words as Words
    from .data import load as load
    from .data import to_preferences as to_preferences
    from .estimates import bco_shift as bco_shift
    from .estimates import kl_baseline as kl_baseline
    from .estimates import wpo_weight as wpo_weight
    from .fused import head_logp as head_logp
    from .fused import head_logp_grad as head_logp_grad
    from .fused import token_logp_grad as token_logp_grad
    from .gradient import compare as compare
    from .gradient import read as read
    from .gradient import scores_matrix as scores_matrix
    from .gradient import value_and_grad as value_and_grad
    from .losses import LOSSES as LOSSES
    from .losses import Loss as Loss
    from .metrics import accuracy_interval as accuracy_interval
    from .metrics import preference_metrics as preference_metrics
    from .optim import Optimizer as Optimizer
    from .optim import adam as adam
    from .optim import clip as clip
    from .optim import global_norm as global_norm
    from .optim import momentum as momentum
    from .optim import sgd as sgd
    from .parallel import set_threads as set_threads
    from .parallel import threads as threads
    from .policy import Policy as Policy
    from .policy import enumerate_responses as enumerate_responses
    from .policy import exact_kl as exact_kl
    from .policy import sample as sample
    from .preferences import Preferences as Preferences
    from .preferences import Responses as Responses
    from .readings import sequence_kl as sequence_kl
    from .readings import sequence_logp as sequence_logp
    from .readings import sequence_reward as sequence_reward
    from .readings import token_entropy as token_entropy
    from .readings import token_logp as token_logp
    from .readings import token_value as token_value
    from .rollouts import Task as Task
    from .rollouts import best_of as best_of
    from .rollouts import ranked_pairs as ranked_pairs
    from .rollouts import rejection_sample as rejection_sample
    from .rollouts import reward_model as reward_model
    from .rollouts import rollout as rollout
    from .surrogates import SURROGATES as SURROGATES
    from .trainers import OnlineStep as OnlineStep
    from .trainers import PPOStep as PPOStep
    from .trainers import train_best_of_n as train_best_of_n
    from .trainers import train_grpo as train_grpo
    from .trainers import train_iterative_dpo as train_iterative_dpo
    from .trainers import train_online_dpo as train_online_dpo
    from .trainers import train_ppo as train_ppo
    from .trainers import train_reward_model as train_reward_model
    from .trainers import train_rloo as train_rloo
    from .trainers import train_rso as train_rso
    from .trainers import train_sft as train_sft
    from .training import Step as Step
    from .training import staged_reference as staged_reference
    from .training import trailing_reference as trailing_reference
    from .training import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
