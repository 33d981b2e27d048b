"""A small experiment: a noisy mean, a claim that can be made to fail, to be undecided, to break."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from toy_models.experiments import Skipped
from toy_models.experiments._claims import Claim, above, near
from toy_models.experiments._config import require, streams
from toy_models.experiments._figure import axes


@dataclass(frozen=True)
class Config:
    """A mean

    beta              its scale
    n                 draws
    kind              of noise
    betas             a list
    fast              a switch
    trouble           what goes wrong
    seed, replicates  of the draws
    """

    beta: float = 1.0
    n: int = 16
    kind: str = "normal"
    betas: tuple[float, ...] = (1.0, 2.0)
    fast: bool = False
    trouble: str = ""
    seed: int = 0
    replicates: int = 3

    def __post_init__(self):
        require(self, positive=("beta", "betas"), least={"n": 1, "replicates": 1},
                choices={"kind": ("normal", "uniform")})


def run(config=None):
    config = config or Config()
    if config.trouble == "no data":
        raise Skipped("DPO_NUMPY_DATA names no folder")
    if config.trouble == "no optimum":
        raise ArithmeticError("there is no optimum")
    x = np.array([config.beta * getattr(rng, config.kind)(size=config.n).mean()
                  for rng in streams(config.seed, config.replicates)])
    return {"mean": x, "beta": np.array(config.beta), "betas": np.array(config.betas),
            "grid": np.arange(6.0).reshape(2, 3), "name": np.array(["a", "b, c"]), "trouble": np.array(config.trouble)}


def claims(result):
    if result["trouble"] == "no claims":
        raise KeyError("mean")
    found = np.nan if result["trouble"] == "undecided" else float(abs(result["mean"]).max())
    return {"the mean is small <&>: largest": near(found, 0, 1.0), "β is positive: β": above(result["beta"], 0),
            **({"nothing holds: 1": Claim(False, 1.0, "< 0")} if result["trouble"] == "fails" else {})}


def plot(result, ax=None):
    ax = axes(ax)
    ax.plot(result["mean"], "o")
    return ax


def table(result):
    return f"beta {float(result['beta']):g} <table>"


PANELS = (plot, plot, plot)
REPLICATED = ("mean",)


def modules():
    """toy, its single-panel sibling without chance, without a table"""
    toy, plain = ModuleType("toy_models.experiments.toy"), ModuleType("toy_models.experiments.plain")
    toy.__doc__ = "A mean of few\ndraws is small.\n\nMore is said below."
    plain.__doc__ = "Nothing is drawn <here>."
    toy.__dict__.update(Config=Config, run=run, claims=claims, plot=plot, table=table, PANELS=PANELS,
                        REPLICATED=REPLICATED)

    @dataclass(frozen=True)
    class Plain:
        """One

        x   a number
        """

        x: float = 2.0

    plain.__dict__.update(Config=Plain, run=lambda config: {"square": np.array(config.x**2)},
                          claims=lambda result: {"4: square": near(result["square"], 4, 0)}, plot=plain_plot)
    return {"toy": toy, "plain": plain}


def plain_plot(result, ax=None):
    ax = axes(ax)
    ax.plot([0, result["square"]])
    return ax
