"""Exact experiments: policies of `toy_models` trained against the closed forms of `analytic`.

    check_convergence   does this training reach π*, how fast, and if not, why not
"""

from ._convergence import Convergence, check_convergence

__all__ = ["Convergence", "check_convergence"]
