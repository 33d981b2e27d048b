"""Writes docs/optima.md: what each loss of the registry makes of one small table, given endless data.

    python docs/optima.py

The minimum is found without a formula: the registry's loss on every ordered pair of three responses, weighted by how
often it is met and labelled so, its gradient taken to three logits, and SciPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import minimize, root
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import minimizers, optimum, population

PAGE = Path(__file__).with_suffix(".md")
GONE = -2000.0  # the log-ratio that stands for no mass at all


@dataclass(frozen=True)
class World:
    """Three strings; pairs of them are drawn from the reference, independently, and judged by r."""

    ref: tuple[float, ...] = (0.2, 0.5, 0.3)
    reward: tuple[float, ...] = (1.0, 0.0, 0.4)
    strings: tuple[str, ...] = ("a$", "$", "aaa$")
    beta: float = 0.5
    flips: float = 0.0  # the share of labels that are exchanged
    bias: float = 0.0  # what the judge's reward grows by a token, beyond r

    @property
    def length(self) -> np.ndarray:
        return np.array([len(string) for string in self.strings])

    @property
    def wins(self) -> np.ndarray:
        """How often i is preferred to j, in all 1; a response that is drawn twice is labelled too."""
        judged = self.reward + self.bias * self.length
        P = expit(judged[:, None] - judged)
        return 2 * np.outer(self.ref, self.ref) * (P + self.flips * (P.T - P))

    @property
    def win_rate(self) -> np.ndarray:
        """P(y ≻ μ), μ the reference"""
        return self.wins.sum(axis=1) / (2 * np.array(self.ref))

    @property
    def best(self) -> np.ndarray:
        """π*"""
        return optimum.boltzmann(self.ref, self.reward, self.beta)

    def readings(self, logits: np.ndarray, tokens: bool = True) -> dict[str, np.ndarray]:
        """Of each string: log-prob, and, with `tokens`, those of its tokens, Σ KL(ref || π) at them and WPO's weight.

        A token's probability is the mass of the strings that go on with it among those that came so far. Everything is
        analytic in the logits, so that they may be complex.
        """
        def log_mass(x: np.ndarray, prefix: str) -> Any:
            x = x[[string.startswith(prefix) for string in self.strings]]
            return x.real.max() + np.log(np.exp(x - x.real.max()).sum())

        of_strings = {"logp": logits - log_mass(logits, ""), "reward": logits}
        if not tokens:
            return of_strings
        token_logp, kl, agreement = (np.zeros((len(self.ref), self.length.max()), logits.dtype) for _ in range(3))
        for i, string in enumerate(self.strings):
            for t, token in enumerate(string):
                nexts = sorted({other[t] for other in self.strings if other.startswith(string[:t])})
                p, q = ({v: log_mass(x, string[:t] + v) - log_mass(x, string[:t]) for v in nexts}
                        for x in (logits, np.log(self.ref)))
                token_logp[i, t] = p[token]
                kl[i, t] = sum(np.exp(q[v]) * (q[v] - p[v]) for v in nexts)
                agreement[i, t] = p[token] - np.log(sum(np.exp(2 * p[v]) for v in nexts))
        return {**of_strings, "token_logp": token_logp, "kl": kl.sum(axis=1),
                "w": np.exp(agreement.sum(axis=1) / self.length)}


WORLD = World()
ONE_TOKEN = World(strings=("a", "b", "c"))
UNIFORM = (1 / 3, 1 / 3, 1 / 3)


# ---- what the losses are shown

class Comparisons(NamedTuple):
    index: np.ndarray  # (B, K) responses
    weight: np.ndarray  # (B,)
    label: np.ndarray | None = None


def pairs(world: World) -> Comparisons:
    """Every ordered pair, the first preferred."""
    index = np.array([*np.ndindex(3, 3)])
    return Comparisons(index, world.wins[index[:, 0], index[:, 1]])


def singles(world: World) -> Comparisons:
    """Every response, as often desired as it is chosen, and undesired as it is rejected."""
    weight = np.concatenate([world.wins.sum(axis=1), world.wins.sum(axis=0)]) / 2
    return Comparisons(np.array([0, 1, 2, 0, 1, 2])[:, None], weight, np.repeat([True, False], 3))


def rankings(world: World) -> Comparisons:
    """Every order of all three, as Plackett and Luce have it."""
    index = np.array([*itertools.permutations(range(3))])
    strength = np.exp(world.reward)[index]
    return Comparisons(index, (strength / strength[:, ::-1].cumsum(axis=1)[:, ::-1]).prod(axis=1))


def together(world: World) -> Comparisons:
    """One row of all three, scored by r."""
    return Comparisons(np.array([[0, 1, 2]]), np.ones(1))


# ---- what the table says

class Row(NamedTuple):
    optimum: str
    verdict: str
    depends: str = ""
    hyper: dict[str, Any] = {}  # noqa: RUF012 - read only; beta (of ipo, tau) is the world's
    of: Callable[[World], Comparisons] = pairs
    solve: str = "smooth"  # "rough": it has kinks; "still": facts or stopped gradients follow the policy
    formula: Callable[[World], np.ndarray] | None = None  # the policy of the first column, where `analytic` has it
    where: tuple[World, dict[str, Any]] | None = None  # a world, and hyper-parameters, in which a "yes, if" holds


def fitted(world: World, wins: np.ndarray) -> np.ndarray:
    """DPO's policy, for these labels"""
    return population.policy(population.newton(wins, world.beta), world.ref)


def smoothed(world: World, eps: float = 0.1) -> np.ndarray:
    return fitted(world, (1 - eps) * world.wins + eps * world.wins.T)


def unflipped(world: World, eps: float = 0.1) -> np.ndarray:
    return fitted(world, ((1 - eps) * world.wins - eps * world.wins.T) / (1 - 2 * eps))


def f_dpo(divergence: str) -> Callable[[World], np.ndarray]:
    return lambda w: minimizers.f_dpo(w.ref, w.reward, w.beta, divergence)


def of_dpo(world: World) -> np.ndarray:
    return world.best


def of_kto(world: World) -> np.ndarray:
    return minimizers.kto(world.ref, world.ref, world.win_rate, world.beta)


BEST = "π_ref e^{r/β} / Z"
DPO_ON = "that of `dpo` on labels "
LOSERS = "`kto`, none attained: responses that win less than half their comparisons go to 0"

TABLE = {
    "dpo": Row(BEST, "yes", formula=of_dpo),
    "cdpo": Row(DPO_ON + "smoothed, P → (1-ε) P + ε (1-P); two responses: `cdpo_margin`", "no", "ε, W",
                formula=smoothed),
    "rdpo": Row(DPO_ON + "unflipped, P → (P-ε)/(1-2ε); two responses: `rdpo_margin`, and none where P > 1-ε",
                "yes, if labels were flipped with probability ε", "ε, W", formula=unflipped,
                where=(World(flips=0.1), {})),
    "hinge": Row("none in closed form; two responses: βh = sign(2p-1)", "no", "W", solve="rough"),
    "ipo": Row("`ipo`: π_ref e^{P(y ≻ μ)/τ} / Z; other pairs: `ipo_pairs`; per token: `length_normalized`", "no",
               "μ, W", formula=lambda w: minimizers.ipo(w.ref, w.win_rate, w.beta)),
    "exo": Row("none in closed form; two responses: `exo_margin`", "no", "ε, W"),
    "nca": Row("none in closed form; at β = 1 and μ = π_ref that of `sft`", "no", "μ"),
    "bco": Row("none in closed form", "no", "μ, δ", solve="still"),
    "sppo": Row("`sppo`: u = t - W₀(λ (π_ref/μ) e^t), t = (P(y ≻ μ) - ½)/β", "no", "μ",
                formula=lambda w: minimizers.sppo(w.ref, w.ref, w.win_rate, w.beta)),
    "apo_zero": Row(LOSERS, "no", "μ", formula=of_kto),
    "apo_down": Row("none in closed form; here none attained", "no", "W"),
    "dpop": Row("none in closed form; π_ref where λ is large", "no", "λ, W", solve="rough",
                formula=lambda w: np.array(w.ref)),
    "cal_dpo": Row("none in closed form", "no", "λ, W"),
    "reward_rpo": Row("π_ref e^{ηs/β} / Z of the judge's rewards s, whatever the labels", "yes, if ηs = r", "η, s",
                      formula=of_dpo, where=(WORLD, {})),
    "odpo": Row("π_ref e^{(r + αs)/β} / Z for f = identity; for f = log labels are certain, none attained", "no",
                "α, s", {"f": "identity"}, formula=lambda w: optimum.boltzmann(w.ref, 2 * np.array(w.reward), w.beta)),
    "beta_dpo": Row("π_ref e^{r/β'} / Z, β' (β' - β (1 - α m₀)) = αβ E[r_w - r_l]", "yes, if m₀ has come to rest at M",
                    "α, m₀, W", solve="still", formula=of_dpo, where=(WORLD, {})),
    "wpo": Row(BEST, "yes", solve="still", formula=of_dpo),
    "discopop": Row("none in closed form", "no", "τ, W"),
    "f_dpo_forward_kl": Row("`f_dpo`: π_ref β / (λ - r)", "no", formula=f_dpo("forward_kl")),
    "f_dpo_js": Row("`f_dpo`: π_ref / (2 e^{(λ-r)/β} - 1)", "no", formula=f_dpo("js")),
    "f_dpo_alpha": Row("`f_dpo`: π_ref (1 - α (r-λ)/β)^{-1/α}", "no", "α", formula=f_dpo("alpha")),
    "f_dpo_chi2": Row("`f_dpo`: π_ref (1 + (r-λ)/β) if that is nowhere below 0, else none in closed form;"
                      " mixed: π_ref W₀(e^{(r-λ)/β})", "no", "W, where it is", formula=f_dpo("chi2")),
    "ln_dpo": Row("`length_normalized`: π_ref e^{|y| (r/β + c)}", "yes, if all responses are one token", "|y|",
                  formula=lambda w: minimizers.length_normalized(w.ref, w.reward, w.length, w.beta),
                  where=(ONE_TOKEN, {})),
    "r_dpo": Row("`r_dpo`: π_ref e^{(r - α|y|)/β} / Z", "yes, if the labels' reward is r + α|y|", "α, |y|",
                 {"alpha": 0.1},
                 formula=lambda w: minimizers.r_dpo(w.ref, w.reward, w.length, w.beta, 0.1),
                 where=(World(bias=0.1), {"alpha": 0.1})),
    "ld_dpo": Row("none in closed form", "yes, if all responses are as long", "α, tokens, W", where=(ONE_TOKEN, {})),
    "aot": Row("none in closed form", "no", "W", solve="rough"),
    "aot_unpaired": Row("none in closed form; here none attained", "no", "W", solve="rough"),
    "kto_pair": Row("none in closed form; here none attained", "no", "μ", solve="rough"),
    "tdpo1": Row("none in closed form: β (u + D) = r + c", "yes, if all responses are one token", "tokens, W",
                 where=(ONE_TOKEN, {})),
    "tdpo2": Row("nothing is minimized; where descent comes to rest", "no", "α, tokens, W", solve="still"),
    "simpo": Row("`simpo` for γ = 0: e^{|y| (r/β + c)}; two responses and any γ: `simpo_margin`",
                 "yes, if γ = 0, π_ref is uniform and all responses are one token", "γ, |y|; not on π_ref",
                 where=(World(ref=UNIFORM, strings=ONE_TOKEN.strings), {"gamma": 0.0})),
    "alphapo": Row("`alphapo` for γ = 0: (1 - α (r/β + c))^{-|y|/α}", "no", "α, γ, |y|; not on π_ref"),
    "cpo": Row("none in closed form; at α = 0, e^{r/β} / Z", "no", "α, μ, W; not on π_ref"),
    "orpo": Row("none in closed form; two responses of one token: `orpo_margin`", "no", "λ, |y|, μ, W; not on π_ref"),
    "slic": Row("none in closed form", "no", "δ, λ, μ, W; not on π_ref", solve="rough"),
    "sft": Row("`sft`: 2 μ P(y ≻ μ)", "no", "μ; not on π_ref", formula=lambda w: minimizers.sft(w.ref, w.win_rate)),
    "sft_mean": Row("`sft`: ∝ μ P(y ≻ μ) / |y|", "no", "μ, |y|; not on π_ref",
                    formula=lambda w: minimizers.sft(w.ref, w.win_rate, w.length)),
    "rpo": Row("none in closed form", "no", "α, |y|, μ, W"),
    "mpo": Row("none in closed form", "no", "w, |y|, μ, W", solve="still"),
    "kto": Row(LOSERS + " (for λ_D = λ_U)", "no", "λ_D, λ_U, z₀, μ", of=singles, formula=of_kto),
    "bco_unpaired": Row("none in closed form", "no", "μ, δ", of=singles, solve="still"),
    "apo_zero_unpaired": Row(LOSERS + " (for λ_D = λ_U)", "no", "λ_D, λ_U, μ", of=singles, formula=of_kto),
    "pl_dpo": Row(BEST + ", of rankings after Plackett and Luce", "yes", of=rankings, formula=of_dpo),
    "infonca": Row("π_ref e^{s/(αβ)} / Z of the judge's scores s", "yes, if s/α = r", "α, s", {"alpha": 1.0}, together,
                   formula=of_dpo, where=(WORLD, {"alpha": 1.0})),
    "nca_listwise": Row("none in closed form", "yes, if s/α = r, β = 1, π_ref is uniform and rows hold all responses",
                        "α, s, rows", {"alpha": 1.0}, together, where=(World(ref=UNIFORM, beta=1.0), {"alpha": 1.0})),
    "bt_rm": Row("rewards r + c, whose π* is " + BEST, "yes", formula=of_dpo),
    "pl_rm": Row("rewards r + c of rankings after Plackett and Luce", "yes", of=rankings, formula=of_dpo),
}


# ---- the minimum, found

def build(name: str, world: World, hyper: dict[str, Any]) -> Any:
    known = {"beta": world.beta} | ({"tau": world.beta} if name == "ipo" else {})
    accepted = signature(dn.LOSSES[name]).parameters
    return dn.LOSSES[name](**{key: x for key, x in known.items() if key in accepted} | hyper)


def field(loss: Any, world: World, data: Comparisons, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """The population loss, and its gradient in the logits as training has it: facts and what is stopped are held."""
    tokens = not {"token_logp", "kl", "w"}.isdisjoint((*loss.reads, *loss.needs))
    step = 1e-30
    given = world.readings(logits, tokens)
    moved = [world.readings(logits + 1j * step * axis, tokens) for axis in np.eye(len(logits))]
    u, length, wins = given["logp"] - np.log(world.ref), world.length, world.wins
    chosen, rejected = wins.sum(axis=1), wins.sum(axis=0)
    facts = {"label": data.label, "keep": True, "z0": 0.0, "delta": world.beta * (chosen + rejected) @ u / 2,
             "m0": (chosen - rejected) @ u}
    facts |= {name: x[data.index] for name, x in {
        "ref_logp": np.log(world.ref), "length": length, "reward": np.array(world.reward),
        "score": np.array(world.reward), "w": given.get("w", u), "mask": np.arange(length.max()) < length[:, None],
        "ref_token_logp": world.readings(np.log(world.ref), tokens).get("token_logp", u)}.items()}
    value, grads = loss({name: given[name][data.index] for name in loss.reads}, weight=data.weight,
                        **{name: facts[name] for name in loss.needs if name in facts})
    slope = np.zeros(len(logits))
    for name, grad in grads.items():
        of_response = np.zeros(given[name].shape)
        np.add.at(of_response, data.index, grad)
        slope += [(of_response * at[name].imag / step).sum() for at in moved]
    return float(data.weight @ value), slope


def minimum(name: str, world: World = WORLD, hyper: dict[str, Any] | None = None) -> np.ndarray:
    """The policy of the least loss; 0 for a response whose log-prob falls without end

    Each set of responses in turn keeps the mass, the others being sent off to nothing: a bounded loss may end there.
    """
    row = TABLE[name]
    loss, data, log_ref = build(name, world, row.hyper if hyper is None else hyper), row.of(world), np.log(world.ref)
    found: list[tuple[float, np.ndarray]] = []
    sizes = (3,) if row.solve == "still" else (3, 2, 1)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in sizes)
    for kept in map(list, subsets):
        def logits(x: np.ndarray, kept: list[int] = kept) -> np.ndarray:
            full = np.where(np.isin(range(3), kept), log_ref, log_ref + GONE)
            full[kept[1:]] += x
            return full

        def f(x: np.ndarray, kept: list[int] = kept, logits: Any = logits) -> tuple[float, np.ndarray]:
            with np.errstate(all="ignore"):
                value, slope = field(loss, world, data, logits(x))
            return (value if np.isfinite(value) else np.inf), np.nan_to_num(slope[kept[1:]])

        at_ref = f(np.zeros(len(kept) - 1))[0]
        if found and at_ref > min(found)[0] + 20:  # a comparison with nothing costs more than any other can save
            continue
        with np.errstate(all="ignore"):
            value, x = solution(f, len(kept) - 1, row.solve)
        found.append((value, *logits(x)))
    best = np.array(min(found)[1:])
    return optimum.boltzmann(world.ref, best, world.beta) if loss.reads == ("reward",) else softmax(best)


def solution(f: Any, n: int, solve: str) -> tuple[float, np.ndarray]:
    """Value and place of the least f: R^n -> value, slope; or, from 0, where descent comes to rest"""
    if not n:
        return f(np.zeros(0))[0], np.zeros(0)
    if solve == "still":
        end = solve_ivp(lambda t, x: -f(x)[1], (0.0, 5000.0), np.zeros(n), method="LSODA", rtol=1e-6).y[:, -1]
        x = root(lambda x: f(x)[1], end, tol=1e-14).x
        if abs(x - end).max() > 1e-3:
            raise ArithmeticError(f"descent has not come to rest: at {end}, near {x}")
        return f(x)[0], x
    ends = [minimize(f, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
            for start in itertools.product((0.0, 2.0, -2.0), repeat=n)]
    x = min(ends, key=lambda x: f(x)[0])
    if solve == "smooth":
        polished = root(lambda x: f(x)[1], x, tol=1e-14).x
        x = polished if abs(f(polished)[1]).max() <= abs(f(x)[1]).max() else x
        return f(x)[0], x
    for size in (2.0, 0.1, 1e-3, 1e-5):
        corners = x + size * np.vstack([np.zeros(n), np.eye(n)])
        x = minimize(lambda x: f(x)[0], x, method="Nelder-Mead", options={
            "xatol": 1e-11, "fatol": 1e-16, "initial_simplex": corners, "maxiter": 2000, "maxfev": 2000}).x
    return f(x)[0], x


# ---- the page

HEAD = """# What each loss makes of a table, given endless data

A table has one logit a response and can be any policy. Given endless pairs, labelled by Bradley-Terry from rewards
r, `dpo` turns it into π\\* = π_ref e^{r/β} / Z, whichever pairs those are. What do the others turn it into? The
last column is max |π - π\\*| in one small world, where the loss of the registry itself was minimized numerically:
responses `a$`, `$` and `aaa$` (2, 1 and 4 tokens), π_ref = (0.2, 0.5, 0.3), r = (1, 0, 0.4), β = τ = ½, so that
π\\* = (0.5586, 0.1890, 0.2524); both responses of a pair are drawn from π_ref. The other hyper-parameters are the
defaults, but for α = 0.1 in `r_dpo`, α = 1 in `infonca` and `nca_listwise`, and f = identity in `odpo`. Of what
losses are told, s is the rewards r; z₀ = 0; δ, m₀ and w are those of the current policy, held; a list holds all
three responses. "→": the minimum is only tended to, as some probability falls to 0 without end.

Names in code are functions of `analytic.minimizers`, whose docstrings say for which labels and pairs they hold. P(y
≻ μ) is the probability of winning against a draw from μ, the distribution that both responses of a pair are drawn
from; W stands for how often which pairs are met; u = log π/π_ref; D is the sum of KL(π_ref || π) over a response's
tokens; W₀ is Lambert's function; λ, where it is no hyper-parameter, and c are what makes Σ π = 1. Almost all depend
on β too.

"""


def entry(name: str, pi: np.ndarray) -> str:
    row = TABLE[name]
    distance = f"{'→ ' if pi.min() < 1e-9 else ''}{abs(pi - WORLD.best).max():.4f}"
    said = (cell.replace("|", "\\|") for cell in (row.optimum, row.verdict, row.depends))
    return f"| `{name}` | {' | '.join(said)} | {distance} |"


def page() -> str:
    lines = ["| loss | population optimum | is it π\\*? | depends, besides r and π_ref, on | distance |",
             "| --- | --- | --- | --- | --- |", *(entry(name, minimum(name)) for name in dn.LOSSES)]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
