"""Does training reach π* = π_ref e^{r/β}/Z? Gradient descent on an exact population, beside what its optimum and the
curvature there predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from analytic import graph, optimum, population
from dpo_numpy.gradient import read, value_and_grad
from dpo_numpy.losses import Loss
from dpo_numpy.numerics import log_softmax
from dpo_numpy.optim import sgd
from dpo_numpy.policy import Params, Policy
from dpo_numpy.preferences import Preferences
from dpo_numpy.training import train

from ..worlds import World

__all__ = ["Convergence", "check_convergence"]

Array = NDArray[Any]

PARAMETERS = 4000  # the Hessian has their square of entries and costs a pass for each
RECORDS = 300
RUN_OFF = 20.0  # nats: where log-ratios are larger and yet nothing has settled, the loss is taken to have no minimum


@dataclass(frozen=True, eq=False)
class Convergence:
    """What a training did, beside what was predicted. Its string is a report.

    verdict    "converged", or what kept it from π*: "too few steps", "step too large", "not realisable",
               "disconnected", "another optimum", "no minimum"; or "undecided", where the loss's minimum was not found;
               `reason` says it in a sentence with the numbers
    step       (S,) the steps recorded, the reference as step 0
    kl         (S,) KL(π_θ || π*) in nats, the mean over prompts; π among the world's responses
    distance   (S,) what the caller measured instead; KL by default
    factor     of the error at each step: `predicted` from the Hessian at the minimum, `measured` from the last records;
               nan where there is no minimum, or too little was left to measure
    lr, limit  the step size, and that from which descent diverges at the minimum; nan where there is none
    optimum    (prompts, K) π*, 0 where a prompt has fewer than K responses; `policy` is where training ended, `minimum`
               where this loss has its least value, `best` the policy of this class that is nearest to π* in KL(π ||
               π*), so of the highest J = E r - β KL(π || π_ref)
    components of each response (N,): responses that no chain of comparisons connects have different numbers
    """

    verdict: str
    reason: str
    step: Array
    kl: Array
    distance: Array
    predicted: float
    measured: float
    lr: float
    limit: float
    optimum: Array
    policy: Array
    minimum: Array
    best: Array
    components: Array
    loss: float
    params: Params

    @property
    def converged(self) -> bool:
        """KL(π || π*) came down as far as it was to"""
        return self.verdict == "converged"

    def __str__(self) -> str:
        return "\n".join([
            f"{self.verdict}: {self.reason}",
            f"KL(π || π*)   {self.kl[0]:.3g} at the reference, {self.kl[-1]:.3g} after {self.step[-1]} steps of "
            f"{self.lr:.4g}",
            f"error a step  x {self.measured:.6f} measured, x {self.predicted:.6f} predicted; "
            f"diverges from lr {self.limit:.4g}",
        ])


def check_convergence(policy: Policy, world: World, loss: Loss, beta: float, reference: Params, *,
                      lr: float | None = None, steps: int | None = None, mu: ArrayLike | None = None, flip: float = 0.0,
                      distance: Callable[[Params], float] | None = None, tolerance: float = 1e-8,
                      most: int = 20_000) -> Convergence:
    """Train `policy` from `reference` on every pair of the world, each with its exact probability; say how it ended.

    π* is that of the world's rewards at β, among the world's responses: of a language model, given that the response is
    one of them. The rate of descent follows from the Hessian H of the loss at its minimum, exact to rounding by complex
    steps through the hand-written gradient: in each direction the error is multiplied by 1 - lr λ a step, λ > 0 an
    eigenvalue of H, and descent diverges from lr = 2/λ_max.

    reference  the parameters of π_ref, from which training starts
    lr         by default 1/λ_max, the larger of the reference's and the minimum's
    steps      by default those predicted to bring KL(π || π*) to `tolerance` nats and half as many more, `most` at most
    mu, flip   which pairs are met and how many labels are flipped, as in `World.population`
    distance   what to record beside the KL at each record, a function of the parameters: for sums over all strings, say

    Raises `ValueError` on a loss that is told more than the population knows (`label`, `z0`), without lr on a loss that
    has no curvature at the reference (`hinge`, `apo_zero`), on a policy of more than 4,000 parameters, and on lr, β,
    steps or a tolerance that are not above 0.

    >>> import dpo_numpy as dn
    >>> from toy_models import Tabular, bandit
    >>> found = check_convergence(Tabular(vocab=3), bandit([[1.0, 0.0, -1.0]]), dn.LOSSES["dpo"](beta=0.5), 0.5,
    ...                           {"W": np.zeros((1, 3))})
    >>> found.verdict, found.policy.round(4).tolist()
    ('converged', [[0.8668, 0.1173, 0.0159]])
    """
    for name, value in (("beta", beta), ("lr", lr), ("steps", steps), ("tolerance", tolerance), ("most", most)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; expected a finite number above 0")
    size = sum(p.size for p in reference.values())
    if size > PARAMETERS:
        raise ValueError(f"policy has {size:,} parameters; expected at most {PARAMETERS:,}: each takes a pass")
    pairs = world.population(mu, flip).with_reference(policy, reference, *dict.fromkeys(["logp", *loss.reads]))
    table, objective = _Table.of(policy, world), _Objective(policy, reference, pairs, loss)
    target = optimum.boltzmann(table.policy(reference), table.filled(world.reward), beta)

    begin = objective.free(reference)
    end, settled = _minimum(objective, table, begin, tolerance)
    steepest = float(np.linalg.eigvalsh(objective.hessian(begin))[-1])
    if lr is None and not steepest > 1e-12:
        raise ValueError(f"lr is None, and loss {loss} has no curvature at the reference to tell it; expected one")
    rate = population.linear_rate(_seen(objective.hessian(end))[1]) if settled else None
    lr = 1 / max(steepest, 0.0 if rate is None else rate.fastest) if lr is None else float(lr)
    nan = float("nan")
    predicted, limit = (nan, nan) if rate is None else (rate.at(lr), rate.limit)
    start = table.kl(reference, target)
    steps = _enough(start, tolerance, predicted, most) if steps is None else int(steps)

    minimum = table.policy(objective.params(end)) if settled else None
    best = table.policy(objective.params(_nearest(objective, table, target, [end, begin], tolerance)))
    path = _descend(objective, lr, steps, lambda params: (
        table.kl(params, target),
        nan if minimum is None else table.kl(params, minimum),
        nan if distance is None else distance(params),
    ))
    kl, left, own = path.measured.T
    components = graph.components(_wins(pairs))
    verdict, reason = _verdict(
        path, lr, 2 / steepest if steepest > 1e-12 else float("inf"), limit, tolerance, components, table,
        far=None if minimum is None else float(optimum.kl(minimum, target).mean()),
        nearest=float(optimum.kl(best, target).mean()),
        lowest=float(objective(end)[0]),
        farthest=table.farthest(objective.params(end), reference),
        needed=_enough(start, tolerance, predicted, 10**12),
    )
    minimum = np.full_like(target, nan) if minimum is None else minimum
    return Convergence(
        verdict, reason, path.step, kl, kl if distance is None else own, predicted, _slope(path.step, left), lr, limit,
        target, table.policy(path.params), minimum, best, components, path.value, path.params,
    )


def _verdict(path: _Path, lr: float, first_limit: float, limit: float, tolerance: float, components: Array,
             table: _Table, far: float | None, nearest: float, lowest: float, farthest: float,
             needed: int) -> tuple[str, str]:
    """far, nearest: KL(π || π*) of the loss's minimum and of the class's nearest policy. lowest, farthest: the loss and
    the largest |log π/π_ref| where the search for that minimum ended.
    """
    kl, steps = float(path.measured[-1, 0]), int(path.step[-1])
    if path.burst or (path.value > path.first and lr >= np.fmin(limit, first_limit)):
        at_minimum = "" if far is None else f", {limit:.4g} at the minimum"
        return "step too large", f"lr is {lr:.4g}; descent diverges from {first_limit:.4g} at the reference{at_minimum}"
    if kl <= tolerance:
        return "converged", f"KL(π || π*) is {kl:.3g} nats after {steps} steps"
    if far is None and not farthest < RUN_OFF:
        return "no minimum", f"the loss falls without end, to {path.value:.6g} after {steps} steps"
    if far is None:
        return "undecided", (
            f"the loss's minimum was not found: the search for it ended at {lowest:.6g}, on an edge or in a valley too "
            "narrow"
        )
    if far <= tolerance and lr >= limit:
        return "step too large", f"lr is {lr:.4g}; descent diverges from {limit:.4g} at π*"
    if far <= tolerance:
        return "too few steps", f"KL(π || π*) is {kl:.3g} nats after {steps} steps; {needed:,} would do"
    for rows, present in zip(table.rows, table.present, strict=True):
        parts = components[rows[present]]
        if len(set(parts.tolist())) > 1:
            groups = " and ".join(str(rows[present][parts == part].tolist()) for part in np.unique(parts))
            return "disconnected", (
                f"responses {groups} are never compared: the loss leaves open what is between them, and its minimum "
                f"reached from here is {far:.3g} nats from π*"
            )
    if nearest > tolerance:
        return "not realisable", (
            f"the nearest policy of this class is KL(π || π*) = {nearest:.3g} nats away, the loss's minimum {far:.3g}"
        )
    return "another optimum", f"π* is within reach, but this loss is least {far:.3g} nats from it"


# ---- the world's responses, a row a prompt

class _Table(NamedTuple):
    of_policy: Policy
    world: World
    rows: Array  # (prompts, K) which response; where there is none, any
    present: Array  # (prompts, K)

    @classmethod
    def of(cls, policy: Policy, world: World) -> _Table:
        _, at = np.unique(world.prompt, return_inverse=True)
        count = np.bincount(at)
        present = np.arange(count.max()) < count[:, None]
        rows = np.zeros(present.shape, int)
        rows[present] = np.argsort(at, kind="stable")
        return cls(policy, world, rows, present)

    def filled(self, x: Array, absent: float = 0.0) -> Array:
        return np.where(self.present, x[self.rows], absent)

    def read(self, params: Params) -> tuple[Array, Callable[[Any], Params]]:
        """log π(y) among the prompt's responses (prompts, K), and the pullback of the log-probs as they are (N,)."""
        values, back = read(self.of_policy, params, self.world.responses, np.arange(len(self.world.reward)), ["logp"])
        return log_softmax(self.filled(values["logp"], -np.inf)), back

    def policy(self, params: Params) -> Array:
        return np.exp(self.read(params)[0])

    def kl(self, params: Params, target: Array) -> float:
        return float(optimum.kl(self.policy(params), target).mean())

    def farthest(self, params: Params, reference: Params) -> float:
        """max |log π/π_ref|"""
        log_pi, log_ref = (self.read(x)[0][self.present] for x in (params, reference))
        return float(abs(log_pi - log_ref).max())


def _wins(pairs: Preferences) -> Array:
    wins = np.zeros((len(pairs.responses),) * 2)
    np.add.at(wins, tuple(pairs.index.T), pairs.weight)
    return wins


# ---- the loss as a function of a vector, the finite parameters: -inf is a response that there is not, and stays

class _Objective(NamedTuple):
    policy: Policy
    like: Params
    pairs: Preferences
    loss: Loss

    def free(self, params: Params) -> Array:
        return np.concatenate([params[name].ravel()[np.isfinite(p).ravel()] for name, p in self.like.items()])

    def params(self, x: Array) -> Params:
        whole = np.concatenate([p.ravel() for p in self.like.values()]).astype(x.dtype)
        whole[np.isfinite(whole)] = x
        ends = np.cumsum([p.size for p in self.like.values()])[:-1]
        parts = zip(self.like.items(), np.split(whole, ends), strict=True)
        return {name: part.reshape(p.shape) for (name, p), part in parts}

    def __call__(self, x: Array) -> tuple[Any, Array]:
        value, grad = value_and_grad(self.policy, self.params(x), self.pairs, self.loss)
        return value, self.free(grad)

    def hessian(self, x: Array) -> Array:
        """Complex steps through the hand-written gradient: exact to rounding."""
        H = np.stack([self(x + 1e-40j * e)[1].imag for e in np.eye(len(x))]) / 1e-40
        return (H + H.T) / 2


def _minimum(objective: _Objective, table: _Table, x: Array, tolerance: float) -> tuple[Array, bool]:
    """L-BFGS, then Newton steps in the directions that the loss sees, until these are rounding; and whether that is the
    minimum. If the loss falls without end, each step moves some log-prob by about a nat.

    Where parameters are many, the loss may be a valley too narrow and crooked for such steps, which lead away from it;
    but then all that is left along it may be less than `tolerance` asks for.
    """
    with np.errstate(all="ignore"):
        x = minimize(objective, x, jac=True, method="L-BFGS-B", options={"maxfun": 2000, "gtol": 1e-9, "ftol": 0.0}).x
        lowest, stray = (np.inf, x, x), 0
        for _ in range(30):
            (_, slope), H = objective(x), objective.hessian(x)
            if not np.isfinite(H).all():
                break
            along, curvature = _seen(H)
            if not curvature.size:
                break
            step = along @ np.linalg.solve(curvature, along.T @ slope)
            if np.linalg.norm(step) <= 1e-11 * (1 + np.linalg.norm(x)):
                return x - step, True
            size = float(np.linalg.norm(slope))
            stray = 0 if size < lowest[0] else stray + 1
            if stray > 3:
                break
            lowest = min(lowest, (size, x, step), key=lambda at: at[0])
            x = x - step
        size, x, step = lowest
        if size == np.inf:
            return x, False
        log_pi = table.read(objective.params(x - 1e-40j * step))[0]
    move = np.where(table.present, log_pi.imag / 1e-40, 0.0)
    kl = (np.exp(log_pi.real) * move**2).sum(axis=1).mean() / 2  # of the step, to second order
    return x, bool(abs(move).max() <= 1e-3 and kl <= tolerance / 10)


def _seen(H: Array) -> tuple[Array, Array]:
    """The directions in which H curves upwards by more than rounding, and H in their coordinates: a diagonal"""
    curvature, along = np.linalg.eigh(H)
    up = curvature > 1e-9 * abs(curvature).max()
    return along[:, up], np.diag(curvature[up])


def _log(p: Array) -> Array:
    return np.log(p, out=np.zeros_like(p), where=p > 0)


def _nearest(objective: _Objective, table: _Table, target: Array, starts: list[Array], tolerance: float) -> Array:
    """argmin over the class of KL(π || π*), from each start in turn:   ∂/∂log π(y) = π(y) (log π(y)/π*(y) - KL)"""
    def distance(x: Array) -> tuple[float, Array]:
        log_pi, back = table.read(objective.params(x))
        pi = np.exp(log_pi)
        apart = _log(pi) - _log(target)
        kl = (pi * apart).sum(axis=1, keepdims=True)
        d = np.zeros(len(table.world.reward))
        d[table.rows[table.present]] = (pi * (apart - kl) / len(pi))[table.present]
        return float(kl.mean()), objective.free(back({"logp": d}))

    found = []
    for start in starts:
        found.append(minimize(distance, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-12}))
        if found[-1].fun <= tolerance:
            break
    best: Array = min(found, key=lambda end: float(end.fun)).x
    return best


# ---- descent

class _Path(NamedTuple):
    step: Array
    measured: Array  # (S, ...)
    params: Params
    first: float
    value: float
    burst: bool


def _descend(objective: _Objective, lr: float, steps: int, measure: Callable[[Params], tuple[float, ...]]) -> _Path:
    """Plain gradient descent; the first ten steps are recorded, and then about RECORDS of them."""
    policy, params, pairs, loss = objective
    at, measured, values, burst = [0], [measure(params)], [], False
    for step, now in enumerate(train(policy, params, repeat(pairs, steps), loss, sgd(lr)), 1):
        values.append(now.value)
        burst = not np.isfinite(now.value) or any((~(p < np.inf)).any() for p in now.params.values())
        if burst:
            break
        params = now.params
        if step <= 10 or step % max(1, steps // RECORDS) == 0 or step == steps:
            at.append(step)
            measured.append(measure(params))
    return _Path(np.array(at), np.array(measured), params, values[0], values[-1], burst)


def _enough(start: float, tolerance: float, factor: float, most: int) -> int:
    """Steps until an error whose square is `start` has the square `tolerance`, and half as many more"""
    if not (0 < factor < 1 and start > tolerance):
        return min(most, 1000)
    return min(most, 50 + ceil(0.75 * log(tolerance / start) / log(factor)))


def _slope(step: Array, left: Array) -> float:
    """The factor of the error a step, over the last twenty records above rounding: KL goes as its square"""
    late = np.flatnonzero((left > 1e-24) & (left < 1e-3 * left[0]))[-20:]
    return float(np.exp(np.polyfit(step[late], np.log(left[late]) / 2, 1)[0])) if len(late) > 2 else float("nan")
