"""`dpo-numpy demo`: DPO in four screens, each with its evidence, and a figure for each in the output folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..figures import CHOSEN, OPTIMUM, POLICY, REFERENCE, REJECTED, styled

if TYPE_CHECKING:
    from toy_models import NGram
    from toy_models.experiments import Convergence

    from ..losses import Loss
    from ..policy import Params
    from ..preferences import Preferences

Array = NDArray[Any]

BETA = 0.1
LR = 0.3  # of the support-desk run
COLORS = {"chosen": CHOSEN, "rejected": REJECTED, "reference": REFERENCE, "optimum": OPTIMUM, "policy": POLICY}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="DPO in four screens: one pair, the gradient checked, convergence to the optimum, three predictions",
        description="Prints the tutorial pair taken apart, checks a whole training step's hand-written gradient, "
        "trains a bigram to the Boltzmann-optimal policy and predicts three preference pairs before training on them. "
        "Writes a figure of each.",
    )
    parser.add_argument(
        "--output_dir", "--output-dir", type=Path, default=Path("demo"), help="folder for the figures (default: demo)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import matplotlib

    matplotlib.use("Agg")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ValueError(f"output_dir is {args.output_dir}, a file; expected a folder")
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output_dir {args.output_dir} cannot be made: {error.strerror}") from error
    for number, (title, part) in enumerate(PARTS.items(), 1):
        print(f"\n{number}  {title}\n")
        lines, figure, name = styled(part)()
        print("\n".join(f"   {line}".rstrip() for line in lines))
        path = args.output_dir / f"{number}_{name}.png"
        try:
            styled(figure.savefig)(path)
        except OSError as error:
            raise ValueError(f"output_dir: {path} cannot be written: {error.strerror}") from error
        print(f"\n   figure: {path}")
    print()
    return 0


# ---- 1: the tutorial pair

def one_pair() -> tuple[list[str], Any, str]:
    from ..losses import LOSSES
    from ..numerics import sigmoid

    logp, ref_logp = np.array([[-2.1, -4.5]]), np.array([[-3.0, -3.2]])
    value, grad = LOSSES["dpo"](beta=BETA)(logp, ref_logp)
    ratio = (logp - ref_logp)[0]
    h = ratio[0] - ratio[1]
    lines = ["                policy   reference   log-ratio   implicit reward = β log-ratio"]
    lines += [f"{name:<10} {logp[0, k]:10.2f} {ref_logp[0, k]:11.2f} {ratio[k]:+11.2f} {BETA * ratio[k]:+11.3f}"
              for k, name in enumerate(("chosen", "rejected"))]
    lines += [
        "",
        f"margin   βh = {BETA} x ({ratio[0]:+.2f} - ({ratio[1]:+.2f})) = {BETA * h:.2f}",
        f"loss     -log σ({BETA * h:.2f}) = {value[0]:.6f}          (log 2 = 0.693147 where policy = reference)",
        f"weight   σ(-{BETA * h:.2f}) = {sigmoid(-BETA * h):.6f}              the implicit reward's probability "
        "of the wrong order",
        f"gradient ∂/∂ log π(chosen) = -β x weight = {grad[0, 0]:+.6f}   descent pushes the chosen up,",
        f"         ∂/∂ log π(rejected) = +β x weight = {grad[0, 1]:+.6f}   the rejected down, equally hard",
    ]
    return lines, _pair_figure(h), "pair"


def _pair_figure(h: float) -> Any:
    import matplotlib.pyplot as plt

    from ..links import logistic

    margins = np.linspace(-60, 60, 241)
    value, slope = logistic(margins, BETA)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, curve, at, label in (
        (axes[0], value, logistic(np.array(h), BETA)[0], "loss  $-\\log\\sigma(\\beta h)$"),
        (axes[1], -slope / BETA, -logistic(np.array(h), BETA)[1] / BETA, "weight  $\\sigma(-\\beta h)$"),
    ):
        axis.plot(margins, curve, color=COLORS["policy"])
        axis.plot(h, at, "o", color="black")
        axis.annotate(f"the pair: {at:.4f}", (h, at), (12, 10), textcoords="offset points")
        axis.axvline(0, color="0.85", zorder=0)
        axis.set(xlabel="h = difference of the log-ratios (nats)", title=label)
    return figure


# ---- 2: the gradient of a whole step

class Direction(NamedTuple):
    name: str
    parameters: int
    error: float
    units: float


def gradient_checks(directions: int = 20) -> list[Direction]:
    """The worst of some random directions: relative error, and error in units of rounding each entry of the gradient
    once.
    """
    from ..check import check_gradient, complex_step, finite_difference
    from ..gradient import value_and_grad
    from ..losses import LOSSES

    policy, params, batch, rng = _away_from_the_reference()
    found = []
    for loss in (LOSSES["dpo"](beta=BETA), LOSSES["simpo"](), LOSSES["rpo"](beta=BETA)):
        _, grad = value_and_grad(policy, params, batch, loss)
        for name, method in (("longdouble differences", finite_difference), ("complex steps", complex_step)):
            f = partial(_value, policy, batch, loss)
            checks = [check_gradient(f, params, grad, rng, method) for _ in range(directions)]
            error = max(abs(check.claimed - check.measured) / abs(check.measured) for check in checks)
            found.append(
                Direction(f"{loss.name:<46} {name}", grad["W"].size, error, max(check.units for check in checks))
            )
    return found


def _value(policy: NGram, batch: Preferences, loss: Loss, params: Params) -> Any:
    from ..gradient import value_and_grad

    return value_and_grad(policy, params, batch, loss)[0]


def _away_from_the_reference() -> tuple[NGram, Params, Preferences, np.random.Generator]:
    policy, pairs = support_desk()
    reference, rng = policy.fit(pairs.responses), np.random.default_rng(0)
    return (
        policy,
        {"W": reference["W"] + rng.normal(size=reference["W"].shape)},
        pairs.with_reference(policy, reference),
        rng,
    )


def gradients() -> tuple[list[str], Any, str]:
    import matplotlib.pyplot as plt

    found = gradient_checks()
    lines = [
        f"a training step: byte bigram, {found[0].parameters:,} parameters, 24 pairs; the worst of 20 random "
        "directions",
        "",
        f"{'loss':<46} {'against':<22} relative error   units of rounding",
    ]
    lines += [f"{name:<69} {error:14.1e} {units:19.2f}" for name, _, error, units in found]
    steps, errors = _step_sizes()
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for name, color in (
        ("two-point difference, float64", "0.6"),
        ("four-point difference, longdouble", COLORS["chosen"]),
        ("complex step, float64", COLORS["optimum"]),
    ):
        axis.loglog(steps, errors[name], "o-", ms=3, color=color, label=name)
    axis.axhline(np.finfo(float).eps, color="0.8", zorder=0)
    axis.annotate(
        "one rounding of a float64",
        (steps[0], np.finfo(float).eps),
        (2, 4),
        textcoords="offset points",
        color="0.4",
        ha="right",
    )
    axis.set(
        xlabel="step",
        ylabel="relative difference from the hand-written gradient",
        title="The gradient of a DPO step, three ways to doubt it",
    )
    axis.legend()
    return lines, figure, "gradient"


def _step_sizes() -> tuple[Array, dict[str, Array]]:
    from ..check import complex_step, finite_difference
    from ..gradient import value_and_grad
    from ..losses import LOSSES

    policy, params, batch, rng = _away_from_the_reference()
    d, loss = rng.normal(size=params["W"].shape), LOSSES["dpo"](beta=BETA)
    d /= np.linalg.norm(d)
    f, direction = partial(_value, policy, batch, loss), {"W": d}

    def two_point(step: float) -> float:
        up, down = (f({"W": params["W"] + sign * step * d}) for sign in (1, -1))
        return float(up - down) / (2 * step)

    exact = float((value_and_grad(policy, params, batch, loss)[1]["W"] * d).sum())
    steps = np.logspace(0, -12, 25)
    ways: dict[str, Callable[[float], float]] = {
        "two-point difference, float64": two_point,
        "four-point difference, longdouble": lambda step: float(finite_difference(f, params, direction, step)),
        "complex step, float64": lambda step: float(complex_step(f, params, direction, step)),
    }
    floor = np.finfo(float).eps / 8  # where they agree to the last bit, a log axis needs a place to show it
    return steps, {
        name: np.array([max(abs(way(step) / exact - 1), floor) for step in steps]) for name, way in ways.items()
    }


# ---- 3: convergence to the Boltzmann-optimal policy

class Bigram(NamedTuple):
    found: Convergence
    kl: Array  # (S,) KL(π_θ || π*) over all strings, nats, at found.step
    ref: Array  # next-token tables
    policy: Array
    optimum: Array
    floor: float  # the least loss there is: the annotators' own uncertainty


def convergence(steps: int = 1500, lr: float = 2.0, beta: float = 0.5) -> Bigram:
    """Gradient descent on the exact population of pairs of the 15 strings of at most 3 letters over {a, b}; KL over
    *all* strings.
    """
    from analytic import ngram, population
    from toy_models import NGram, strings
    from toy_models.experiments import check_convergence

    from ..losses import LOSSES
    from ..numerics import log_softmax

    ref = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])  # rows: begin, a, b; columns: end, a, b
    # a sum over tokens, so that π* is a bigram too
    reward = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])
    optimum, _ = ngram.optimum(ref, reward, beta)
    world = strings(vocab=3, max_length=4, reward=lambda y: sum(reward[c, v] for c, v in zip([0, *y], y, strict=False)))

    def table(params: Params) -> Array:
        return np.asarray(np.exp(log_softmax(params["W"])))

    found = check_convergence(
        NGram(vocab=3), world, LOSSES["dpo"](beta=beta), beta, {"W": np.log(ref)}, lr=lr, steps=steps,
        distance=lambda params: ngram.kl(table(params), optimum),
    )
    floor = float(population.entropy(population.bradley_terry_wins(world.reward)))
    return Bigram(found, found.distance, ref, table(found.params), optimum, floor)


def converge() -> tuple[list[str], Any, str]:
    import matplotlib.pyplot as plt

    run = convergence()
    strings = {
        "": [0],
        "a": [1, 0],
        "b": [2, 0],
        "aa": [1, 1, 0],
        "ab": [1, 2, 0],
        "ba": [2, 1, 0],
        "abab": [1, 2, 1, 2, 0],
    }
    tables = {"reference": run.ref, "policy": run.policy, "optimum": run.optimum}
    p = {name: [float(np.prod([table[c, v] for c, v in zip([0, *y], y, strict=False)])) for y in strings.values()]
         for name, table in tables.items()}
    found, at = run.found, run.found.step
    shown = [int(np.argmin(at < step)) for step in (1, 10, 100, 300, 600, 1000)]
    lines = [
        "a bigram over {a, b} and the end of the string; pairs of the 15 strings of at most 3 letters, labelled by a",
        "Bradley-Terry annotator, each pair with its exact probability; plain gradient descent on the DPO loss",
        "",
        "step               " + "".join(f"{at[k]:>10}" for k in shown),
        "KL(π_θ || π*)      "
        + "".join(f"{run.kl[k]:10.1e}" for k in shown)
        + f"     last {run.kl[-1]:.1e} nats, over *all* strings",
        f"error a step       x {found.measured:.5f} measured, x {found.predicted:.5f} predicted from the Hessian at π*",
        f"loss               {found.loss:.12f}, the annotators' own uncertainty is {run.floor:.12f}",
        f"verdict            {found.verdict}; a step of {found.lr:g} is stable, one of {found.limit:.1f} would not be",
        "",
        "string     π_ref      π_θ      π* = π_ref exp(r/β)/Z",
    ]
    lines += [
        f"{name or '(empty)':<8} {p['reference'][k]:8.5f} {p['policy'][k]:9.5f} {p['optimum'][k]:9.5f}"
        + ("    longer than any string it was trained on" if len(name) > 3 else "")
        for k, name in enumerate(strings)
    ]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.semilogy(at, run.kl, color=COLORS["policy"], label=r"KL($\pi_\theta$ || $\pi^*$), all strings")
    anchor = int(np.argmin(abs(at - 400)))
    line = run.kl[anchor] * found.predicted ** (2 * (at - at[anchor]))
    seen = (at >= 150) & (line > run.kl.min())
    left.semilogy(at[seen], 3 * line[seen], "--", color=COLORS["optimum"], label="predicted slope")
    left.set(xlabel="step of gradient descent", ylabel="nats", title="DPO converges to the Boltzmann-optimal policy")
    left.legend()
    for k, (name, label) in enumerate(
        (("reference", r"$\pi_{ref}$"), ("policy", r"$\pi_\theta$"), ("optimum", r"$\pi^*$"))
    ):
        right.bar(np.arange(len(strings)) + 0.27 * (k - 1), p[name], 0.25, color=COLORS[name], label=label)
    right.set_xticks(range(len(strings)), [name or "(empty)" for name in strings])
    right.set(title="Probability of a string")
    right.legend()
    return lines, figure, "convergence"


# ---- 4: predict three pairs

def support_desk() -> tuple[NGram, Preferences]:
    """The bundled support-desk preferences in bytes, and a bigram of the contexts that occur in them."""
    from toy_models import NGram

    from ..data import Bytes
    from ..preferences import Preferences

    rows, encode = _support_desk_rows(), Bytes().encode
    pairs = Preferences.of(
        [[0]] * len(rows), *([[*encode(row[column]), 0] for row in rows] for column in ("chosen", "rejected"))
    )
    return NGram.seen(Bytes.vocab, 2, pairs.responses), pairs


def _support_desk_rows() -> list[dict[str, str]]:
    text = (files("toy_models") / "data" / "support_desk.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Prediction(NamedTuple):
    first_order: Array  # (B, 2) change of the log-probs per unit of learning rate
    steps: tuple[int, ...]
    change: Array  # (len(steps), B, 2) what training did, nats


def predictions(steps: tuple[int, ...] = (1, 10, 100, 1000), lr: float = LR) -> Prediction:
    """Train on all 24 pairs; the first-order change of log π(y) is -lr <∂ log π(y)/∂W, ∂L/∂W>, before any step is
    made.
    """
    from ..gradient import read, scores_matrix, value_and_grad
    from ..losses import LOSSES
    from ..optim import sgd
    from ..training import train

    policy, pairs = support_desk()
    reference = policy.fit(pairs.responses)
    batch, loss, every = pairs.with_reference(policy, reference), LOSSES["dpo"](beta=BETA), pairs.index.ravel()
    _, grad = value_and_grad(policy, reference, batch, loss)
    first_order = -scores_matrix(policy, reference, pairs.responses, every) @ grad["W"].ravel()

    def logp(params: Params) -> Array:
        return read(policy, params, pairs.responses, every, ["logp"])[0]["logp"].reshape(-1, 2)

    def changes() -> Iterator[Array]:
        for step, now in enumerate(train(policy, reference, repeat(batch, max(steps)), loss, sgd(lr)), 1):
            if step in steps:
                yield logp(now.params) - logp(reference)

    return Prediction(first_order.reshape(-1, 2), steps, np.stack(list(changes())))


def predict() -> tuple[list[str], Any, str]:
    import matplotlib.pyplot as plt

    dense = predictions(tuple(sorted({1, 10, 100, 1000, *np.unique(np.logspace(0, 3, 40).astype(int)).tolist()})))
    some = [dense.steps.index(step) for step in (1, 10, 100, 1000)]
    found, rows = Prediction(dense.first_order, (1, 10, 100, 1000), dense.change[some]), _support_desk_rows()
    right = np.sign(found.first_order) == np.sign(found.change)
    up = found.change[..., 0] > 0
    lines = [
        "a byte bigram, fitted to 24 pairs of support-desk answers and trained on them by DPO: will log π rise "
        "(+) or fall (-)?",
        "Predicted before the first step, from inner products of gradients; beside it what training did, in nats",
        "",
        f"{'':<36} predicted" + "".join(f"{f'step {step}':>12}" for step in found.steps),
    ]
    for b in THREE:
        for k, name in enumerate(("chosen", "rejected")):
            sign = "+" if found.first_order[b, k] > 0 else "-"
            cells = (
                f"{found.change[t, b, k]:+9.2f} {'ok' if right[t, b, k] else 'NO'}" for t in range(len(found.steps))
            )
            lines.append(
                f"{rows[b]['prompt'] if k == 0 else '':<26} {name:<9} {sign:^9} "
                + "".join(f"{cell:>12}" for cell in cells)
            )
    lines += [
        "",
        "all 24 pairs" + " " * 34 + "".join(f"{f'step {step}':>12}" for step in found.steps),
        f"{'sign predicted right: chosen':<46}" + "".join(f"{share:12.0%}" for share in right[..., 0].mean(axis=1)),
        f"{'                      rejected':<46}" + "".join(f"{share:12.0%}" for share in right[..., 1].mean(axis=1)),
        f"{'chosen log-prob above the reference':<46}" + "".join(f"{share:12.0%}" for share in up.mean(axis=1)),
        f"{'chosen ranked above rejected':<46}"
        + "".join(f"{share:12.0%}" for share in (found.change[..., 0] > found.change[..., 1]).mean(axis=1)),
        "",
        "The gradient tells the first steps. Later most chosen answers fall too: only the gap is trained.",
    ]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True)
    for axis, b in zip(axes, THREE, strict=True):
        for k, name in enumerate(("chosen", "rejected")):
            axis.plot(dense.steps, dense.change[:, b, k], color=COLORS[name], label=name)
            axis.plot(dense.steps, LR * np.array(dense.steps) * dense.first_order[b, k], ":", color=COLORS[name])
        axis.axhline(0, color="0.85", zorder=0)
        axis.set(xscale="log", ylim=(-25, 15), title=rows[b]["prompt"], xlabel="step")
    axes[0].set_ylabel("change of log π (nats)")
    axes[0].plot([], [], ":", color="0.3", label="predicted, first order")
    axes[0].legend(loc="lower left")
    return lines, figure, "predictions"


THREE = (1, 3, 15)
PARTS = {"One pair taken apart": one_pair, "The hand-written gradient, doubted": gradients,
         "Training converges to π* = π_ref exp(r/β)/Z": converge, "Three predictions, then the run": predict}
