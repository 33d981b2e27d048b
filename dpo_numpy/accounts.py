"""What training holds in memory: which models, trained or frozen, and how many bytes.

    weights         2 bytes a parameter, in bfloat16 or float16
    trained model   16: 2 weights + 2 gradient + 4 master copy + 4 + 4 Adam's moments
    frozen model    2: its weights

Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1: mixed precision with Adam. Activations, caches of keys
and values, temporary buffers, other optimizers, adapters, quantization and sharding are not counted: they depend on the
batch, the lengths and the machine. Bytes are a total over all devices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Memory", "Model", "Phase", "memory"]

WEIGHT, TRAINED = 2, 16  # bytes a parameter


class Model(NamedTuple):
    """A copy of the parameters and what it is for: `role`, their number, and whether it is trained."""

    role: str
    parameters: float
    trained: bool

    @property
    def weights(self) -> float:
        """Bytes of the weights alone"""
        return WEIGHT * self.parameters

    @property
    def state(self) -> float:
        """Bytes with gradients and optimizer, if it is trained"""
        return (TRAINED if self.trained else WEIGHT) * self.parameters


class Phase(NamedTuple):
    """What is in memory at once."""

    name: str
    models: tuple[Model, ...]

    @property
    def weights(self) -> float:
        """Bytes of the weights alone, of all its models"""
        return sum(model.weights for model in self.models)

    @property
    def state(self) -> float:
        """Bytes with gradients and optimizers, of all its models"""
        return sum(model.state for model in self.models)


class Memory(NamedTuple):
    """Phases come one after the other: what a method needs is what its largest phase does. Bytes; its string has GB."""

    method: str
    phases: tuple[Phase, ...]

    @property
    def weights(self) -> float:
        """Bytes of the weights alone, in the largest phase"""
        return max(phase.weights for phase in self.phases)

    @property
    def state(self) -> float:
        """Bytes with gradients and optimizers, in the largest phase"""
        return max(phase.state for phase in self.phases)

    def __str__(self) -> str:
        lines = [f"{self.method}: weights {self.weights / 1e9:g} GB, in training {self.state / 1e9:g} GB"]
        for phase in self.phases:
            held = (f"{model.role} {model.state / 1e9:g}{' (trained)' if model.trained else ''}"
                    for model in phase.models)
            lines.append(f"  {phase.name}: {', '.join(held)}")
        return "\n".join(lines)


POLICY, REFERENCE, REWARD, VALUE = "policy", "reference", "reward model", "value model"

#: of each method its phases, and the roles in them; a star: trained
METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {"train": ("policy*",)},
    "rm": {"train": ("reward model*",)},
    "dpo": {"train": ("policy*", REFERENCE)},
    "online_dpo": {"train": ("policy*", REFERENCE, REWARD)},
    "rloo": {"train": ("policy*", REFERENCE, REWARD)},
    "grpo": {"train": ("policy*", REFERENCE, REWARD)},
    "ppo": {"train": ("policy*", REFERENCE, REWARD, "value model*")},
    "iterative_dpo": {"sample": (POLICY,), "judge": (REWARD,), "train": ("policy*", REFERENCE)},
    "rso": {"sample": (POLICY,), "judge": (REWARD,), "train": ("policy*", REFERENCE)},
    "best_of_n": {"sample": (POLICY,), "judge": (REWARD,), "train": ("policy*",)},
}


def memory(method: str, parameters: float, *, reference: float | None = None, reward_model: float | None = None,
           value_model: float | None = None) -> Memory:
    """state = Σ 16 P over trained models + Σ 2 P over frozen ones,   weights = Σ 2 P,   in bytes

    method       "sft", "rm", "dpo", "online_dpo", "iterative_dpo", "rloo", "grpo", "ppo", "rso" or "best_of_n"
    parameters   P of the policy; of "rm", whose only model it is, of the reward model
    reference, reward_model, value_model   theirs, by default as many; 0 where there is none in memory

    reference=0: for "dpo", "iterative_dpo" and "rso", its log-probs were stored beforehand; for the others, no penalty.
    reward_model=0: a rule judges. A method that takes a reward model is preceded by "rm", unless there is one.
    "iterative_dpo", "rso" and "best_of_n" sample, judge and then train on what was kept; without the last phase,
    best-of-n trains nothing.

    What tutorials compare, four models against two, is weights alone:

    >>> print(memory("ppo", 7e9))
    ppo: weights 56 GB, in training 252 GB
      train: policy 112 (trained), reference 14, reward model 14, value model 112 (trained)
    >>> print(memory("dpo", 7e9))
    dpo: weights 28 GB, in training 126 GB
      train: policy 112 (trained), reference 14
    >>> memory("dpo", 7e9, reference=0).state / 1e9
    112.0

    Elsewhere: gradients in float32 make a trained model 18 bytes a parameter, Adam's moments in 8 bits 10; trainers of
    adapters take the reference to be the policy without them, and hold it once.

    Raises `ValueError` on an unknown method, sizes that are not finite or are below 0, `parameters` of 0, and the size
    of a model that the method does not have.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if not 0 < parameters < math.inf:
        raise ValueError(f"parameters is {parameters}; expected a finite number above 0")
    phases, sizes = METHODS[method], {POLICY: parameters}
    roles = {role for roles in phases.values() for role in roles}
    for role, size in ((REFERENCE, reference), (REWARD, reward_model), (VALUE, value_model)):
        name = role.replace(" ", "_")
        if size is not None and (role not in {known.rstrip("*") for known in roles} or method == "rm"):
            raise ValueError(f"{name} is {size}, and {method} has no size of its own for one; expected None")
        if size is not None and not 0 <= size < math.inf:
            raise ValueError(f"{name} is {size}; expected a finite number, at least 0")
        sizes[role] = parameters if size is None else size
    if VALUE + "*" in roles and not sizes[VALUE]:
        raise ValueError(f"value_model is {value_model}, and {method} trains one; expected a number above 0")
    held = (Phase(name, tuple(Model(role.rstrip("*"), sizes[role.rstrip("*")], role.endswith("*"))
                              for role in roles if sizes[role.rstrip("*")])) for name, roles in phases.items())
    return Memory(method, tuple(phase for phase in held if phase.models))
