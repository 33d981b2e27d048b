"""Exact experiments: policies of `toy_models` trained against the closed forms of `analytic`.

    check_convergence      does this training reach π*, how fast, and if not, why not
    train_exact_gradient   policy gradients, plain and natural, that are sums over all responses

Modules that each assert one result, with `Config`, `run`, `claims` and `plot`:

    five_roads             reward models, policy gradients, PPO, GRPO, RSO and DPO end at one policy
"""

from ._ascent import train_exact_gradient
from ._convergence import Convergence, check_convergence

__all__ = ["Convergence", "check_convergence", "train_exact_gradient"]
