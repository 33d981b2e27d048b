"""Exact experiments: policies of `toy_models` trained against the closed forms of `analytic`.

    check_convergence      does this training reach π*, how fast, and if not, why not
    train_exact_gradient   policy gradients, plain and natural, that are sums over all responses

`EXPERIMENTS` maps names to modules that each assert one claim, in the order in which one teaches them. Each offers

    Config                     what can be set, frozen; its docstring says what each field is
    run(config) -> result      everything measured, arrays by name; the same config makes the same arrays
    claims(result)             sentence -> Claim(holds, number, expected)
    plot(result, ax=None)      the picture; returns the axes
    PANELS                     where one picture is not enough: plot, and others like it
    REPLICATED                 where chance enters: names of arrays with a row for each of `Config.replicates`

and `dpo-numpy run` lists them.
"""

from types import ModuleType

from . import five_roads
from ._ascent import train_exact_gradient
from ._claims import Claim, Skipped
from ._convergence import Convergence, check_convergence

__all__ = ["EXPERIMENTS", "Claim", "Convergence", "Skipped", "check_convergence", "train_exact_gradient"]

EXPERIMENTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (
        five_roads,
    )
}
