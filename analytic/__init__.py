"""Closed forms on arrays: what training should reach, exactly. NumPy and SciPy only, and no models.

    optimum        π* = π_ref exp(r/β)/Z, log Z, J, KL and the implied reward, over finite response sets
    temperature    π* as β varies: moments, the reward-KL frontier, mixtures, other references, the wrong β
    population     the DPO objective of a table on an exact population: value, gradient, Hessian, Newton, rates
    loglinear      the same for policies that share features, and the best of their class
    minimizers     what other losses make of a table, given endless data
    flow           margins under gradient flow, and the time to reach one
    finite_data    what a sample costs: excess loss and regret
    metrics        what the optimum looks like: log-ratios of chosen and rejected, ranking accuracy
    bradley_terry  fits, information and intervals; ties; rankings (Plackett-Luce)
    vote_model     fits of single votes: covariates, ties, errors where votes hang together
    graph          the graph of the comparisons: what they connect, and what becomes of the rest
    voting         Borda, Copeland, Condorcet, Nash with and without a reference, self-play
    sampling       best of n, rejection sampling, GRPO's fixed points
    divergences    f-divergences and Rényi's
    ngram          sums over all strings of an n-gram: visits, length, KL, π*, gradients, win rates

The modules are the names: `optimum.kl` sums over responses, `ngram.kl` over strings.
"""

from . import (
    bradley_terry,
    divergences,
    finite_data,
    flow,
    graph,
    loglinear,
    metrics,
    minimizers,
    ngram,
    optimum,
    population,
    sampling,
    temperature,
    vote_model,
    voting,
)

__all__ = [
    "bradley_terry", "divergences", "finite_data", "flow", "graph", "loglinear", "metrics", "minimizers", "ngram",
    "optimum", "population", "sampling", "temperature", "vote_model", "voting",
]
