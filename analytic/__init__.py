"""Closed forms on arrays: what training should reach, exactly. NumPy and SciPy only, and no models.

    optimum     π* = π_ref exp(r/β)/Z, log Z, J, KL and the implied reward, over finite response sets
    population  the DPO objective of a table on an exact population: value, gradient, Hessian, Newton, rates of descent
    minimizers  what other losses make of a table, given endless data
    ngram       sums over all strings of an n-gram: visits, length, KL, π*

The modules are the names: `optimum.kl` sums over responses, `ngram.kl` over strings.
"""

from . import minimizers, ngram, optimum, population

__all__ = ["minimizers", "ngram", "optimum", "population"]
