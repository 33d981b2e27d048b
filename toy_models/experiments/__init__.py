"""Exact experiments: policies of `toy_models` trained against the closed forms of `analytic`.

    check_convergence      does this training reach π*, how fast, and if not, why not
    train_exact_gradient   policy gradients, plain and natural, that are sums over all responses
    sweep                  a function over a grid: seeds for each cell, processes, clusters, a file to resume from
    bands                  of such rows: medians, and how sure they are

`EXPERIMENTS` maps names to modules that each assert one claim, in the order in which one teaches them. Each offers

    Config                     what can be set, frozen; its docstring says what each field is
    run(config) -> result      everything measured, arrays by name; the same config makes the same arrays
    claims(result)             sentence -> Claim(holds, number, expected)
    plot(result, ax=None)      the picture; returns the axes
    PANELS                     where one picture is not enough: plot, and others like it
    REPLICATED                 where chance enters: names of arrays with a row for each of `Config.replicates`

`dpo-numpy run` lists them, `Measured(name, ...)` is one as a function of its settings, for `sweep`.
"""

from types import ModuleType

from . import (
    beta_two_knobs,
    beyond_the_data,
    bug_by_variant,
    certain_labels,
    comparison_graph,
    distribution_shift,
    five_roads,
    frontier,
    human_votes,
    length,
    length_of_labels,
    longer_wins,
    negative_gradient,
    noise,
    over_optimization,
    predict_three_pairs,
    root_n,
    whose_preferences,
    winning_not_likelier,
    wrong_class,
    z_cancels,
)
from ._ascent import train_exact_gradient
from ._claims import Claim, Skipped
from ._convergence import Convergence, check_convergence
from ._sweep import Band, Measured, bands, sweep

__all__ = ["EXPERIMENTS", "Band", "Claim", "Convergence", "Measured", "Skipped", "bands", "check_convergence", "sweep",
           "train_exact_gradient"]

#: name -> module, in the order in which one teaches them
EXPERIMENTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (
        z_cancels,
        frontier,
        five_roads,
        predict_three_pairs,
        beta_two_knobs,
        comparison_graph,
        root_n,
        certain_labels,
        noise,
        winning_not_likelier,
        negative_gradient,
        length,
        length_of_labels,
        wrong_class,
        distribution_shift,
        beyond_the_data,
        over_optimization,
        whose_preferences,
        bug_by_variant,
        longer_wins,
        human_votes,
    )
}
