"""Exact experiments: policies of `toy_models` trained against the closed forms of `analytic`.

    check_convergence      does this training reach π*, how fast, and if not, why not
    train_exact_gradient   policy gradients, plain and natural, that are sums over all responses
"""

from ._ascent import train_exact_gradient
from ._convergence import Convergence, check_convergence

__all__ = ["Convergence", "check_convergence", "train_exact_gradient"]
