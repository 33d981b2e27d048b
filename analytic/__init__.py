"""Closed forms on arrays: what training should reach, exactly. numpy and scipy, no models.

    optimum     π* = π_ref exp(r/β)/Z, log Z, J, KL over finite response sets
    population  the DPO objective of a table on an exact population: value, gradient, Hessian, Newton, rates of descent
    ngram       sums over all strings of an n-gram: visits, length, KL, π*
"""

from . import ngram, optimum, population

__all__ = ["ngram", "optimum", "population"]
