"""Every loss is a sum of terms `coefficient * link(score(readings))`; `LOSSES` names them.

    loss = LOSSES["dpo"](beta=0.1)
    value, grad = loss(logp, ref_logp)            # (B, 2), (B, 2) -> (B,), (B, 2)

Column 0 is the chosen response, column 1 the rejected. `grad` is the gradient of Σ_b weight_b value_b in what the loss
reads, `weight` being 1 where it is not told. Notation in the formulas: ℓ = log π(y|x) in nats, summed over the |y|
response tokens that count (EOS included); a, b = log π/π_ref of the chosen and the rejected; h = a - b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import links
from .links import Link, chosen, each, margin, pair, sorted_margins
from .scores import Score, log_prob, log_ratio, mean, sequential_kl

__all__ = ["LOSSES", "Loss"]

Array = NDArray[Any]


class Term(NamedTuple):
    coefficient: float
    score: Score
    link: Link


class Loss:
    """A sum of terms; adds up and scales: `dpo(0.1) + 0.2 * sft_mean()`.

    reads : what it differentiates (`logp`, `kl` ...)
    needs : what it is told and does not differentiate (`ref_logp`, `length`, `label`, `z0` ...)
    """

    def __init__(self, name: str, terms: tuple[Term, ...]) -> None:
        self.name, self.terms = name, terms
        self.reads: tuple[str, ...] = tuple(dict.fromkeys(name for term in terms for name in term.score.reads))
        self.needs: tuple[str, ...] = tuple(dict.fromkeys(
            name for term in terms for name in (*term.score.needs, *term.link.needs)))

    def __repr__(self) -> str:
        return self.name

    def __add__(self, other: Loss) -> Loss:
        if not isinstance(other, Loss):
            return NotImplemented
        return Loss(f"{self.name} + {other.name}", self.terms + other.terms)

    def __mul__(self, factor: float) -> Loss:
        scaled = tuple(term._replace(coefficient=factor * term.coefficient) for term in self.terms)
        name = f"({self.name})" if len(self.terms) > 1 else self.name
        return Loss(f"{factor:g} * {name}", scaled)

    __rmul__ = __mul__

    def __call__(
        self,
        logp: ArrayLike | Mapping[str, ArrayLike],
        ref_logp: ArrayLike | None = None,
        length: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        **facts: ArrayLike,
    ) -> tuple[Array, Any]:
        """value (..., B) a comparison, and the gradient of Σ_b weight_b value_b, shaped like what is read.

        logp     (..., B, K) log-probs in nats; for a loss of several readings a dict by name, and so are its gradients
        ref_logp (..., B, K) the reference's
        length   (..., B, K) response tokens that count
        weight   (B,), 1 each where it is not given

        Facts are cast to the dtype of the readings (integers count as float64), so float32 stays float32. NaN
        propagates.

        Raises `ValueError` on a missing fact or reading, and on shapes that do not fit.
        """
        named = isinstance(logp, Mapping)
        readings = self._readings(logp if isinstance(logp, Mapping) else {self.reads[0]: logp})
        first = readings[self.reads[0]]
        told = {"ref_logp": ref_logp, "length": length, **facts}
        known = {name: self._fact(name, told.get(name), first) for name in self.needs}
        weights = (
            np.ones(first.shape[-2:-1], first.real.dtype) if weight is None else np.asarray(weight, first.real.dtype)
        )
        if weights.shape != first.shape[-2:-1]:
            raise ValueError(f"weight has shape {weights.shape}; expected {first.shape[-2:-1]}")
        total: Any = 0
        grads = {name: np.zeros_like(x) for name, x in readings.items()}
        for coefficient, score, link in self.terms:
            s, back = score.fn(readings, known)
            value, ds = link.fn(s, weights, known)
            total = total + coefficient * value
            for name, d in back(ds).items():
                grads[name] += coefficient * d
        return total, grads if named else grads[self.reads[0]]

    def _readings(self, given: Mapping[str, ArrayLike]) -> dict[str, Array]:
        missing = [name for name in self.reads if name not in given]
        if missing:
            raise ValueError(
                f"{self.name} reads {', '.join(self.reads)}; {missing[0]} was not given: pass a dict of arrays by name"
            )
        x = {name: np.asarray(given[name]) for name in self.reads}
        dtype = np.result_type(*x.values(), np.float16)
        dtype = dtype if dtype.kind in "fc" and dtype.itemsize > 2 else np.dtype(np.float64)
        columns = next((term.link.columns for term in self.terms if term.link.columns), None)
        for name, values in x.items():
            if values.ndim < 2 or (columns and values.shape[-1] != columns) or values.shape != x[self.reads[0]].shape:
                raise ValueError(f"{name} has shape {values.shape}; {self.name} expected (..., B, {columns or 'K'})")
        return {name: values.astype(dtype, copy=False) for name, values in x.items()}

    def _fact(self, name: str, value: ArrayLike | None, like: Array) -> Array:
        if value is None:
            hint = ": call batch.with_reference(policy, params)" if name == "ref_logp" else ""
            raise ValueError(f"{self.name} needs {name}, which was not given{hint}")
        fact = np.asarray(value)
        of_responses = name in ("ref_logp", "length")  # (B,) would fit in the wrong direction where B = K
        shape = like.shape if of_responses or fact.ndim > 1 else like.shape[:-1]
        try:
            fits = np.broadcast_shapes(fact.shape, shape) == shape and not (of_responses and fact.ndim == 1)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{name} has shape {fact.shape}, which does not fit the log-probs' {like.shape}")
        return fact if fact.dtype == bool else fact.astype(np.promote_types(like.real.dtype, np.float32), copy=False)


LOSSES: dict[str, Callable[..., Loss]] = {}


def named(factory: Callable[..., Loss]) -> Callable[..., Loss]:
    """Enter a factory into `LOSSES` under its own name."""
    LOSSES[factory.__name__] = factory
    return factory


def term(name: str, score: Score, link: Link, **hyper: Any) -> Loss:
    shown = ", ".join(f"{key}={value if isinstance(value, str) else f'{value:g}'}" for key, value in hyper.items())
    return Loss(f"{name}({shown})", (Term(1.0, score, link),))


# ---- pairs, against a reference

@named
def dpo(beta: float = 0.1) -> Loss:
    """L = -log σ(β h),   ∂L/∂a = -β σ(-βh),   ∂L/∂b = +β σ(-βh)

    Direct preference optimization: logistic regression on the difference of log-ratios. The weight σ(-βh) is the
    probability that the implicit rewards β·log-ratio give to the wrong order. At policy = reference the loss is log 2,
    the slopes ∓β/2.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7 (loss) and the gradient of section 4. `logp` and `ref_logp` are in
    nats, (..., B, 2).

    Elsewhere: some average log-probs over tokens where the paper sums them; TRL >= 0.29 accepts `label_smoothing` and
    ignores it for this loss (ours is `cdpo`).

    >>> value, grad = dpo(beta=0.1)([[-2.1, -4.5]], [[-3.0, -3.2]])
    >>> value.round(6), grad.round(6)
    (array([0.589185]), array([[-0.044522,  0.044522]]))
    """
    return term("dpo", log_ratio, margin(links.logistic, beta=positive("beta", beta)), beta=beta)


@named
def cdpo(beta: float = 0.1, eps: float = 0.1) -> Loss:
    """L = -(1-ε) log σ(βh) - ε log σ(-βh),   ∂L/∂h = β (ε σ(βh) - (1-ε) σ(-βh))

    Conservative DPO: a label is wrong with probability ε. Unlike DPO it has a finite minimum, at βh = log((1-ε)/ε).
    `cdpo(eps=0)` is `dpo`.

    Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO" (ericmitchell.ai/cdpo.pdf).
    0 <= ε < 1/2.

    Elsewhere: `label_smoothing` of `loss_type="sigmoid"` in TRL <= 0.28 and of the original DPO code.

    >>> value, grad = cdpo(beta=1.0, eps=0.25)([[-1.0, -1.0 - np.log(3.0)]], [[-1.0, -1.0]])
    >>> bool(abs(grad).max() < 1e-15)
    True
    """
    link = margin(links.logistic, beta=positive("beta", beta), eps=within("eps", eps, 0, 0.5))
    return term("cdpo", log_ratio, link, beta=beta, eps=eps)


@named
def ipo(tau: float = 0.1, reduction: str = "sum") -> Loss:
    """L = (h - 1/(2τ))²,   ∂L/∂h = 2 (h - 1/(2τ))

    Identity preference optimization: the margin is regressed on a finite target, so certain labels cannot drive it to
    infinity. At policy = reference the loss is 1/(4τ²). `reduction="mean"` takes each log-ratio per token, a/|y_w| -
    b/|y_l|.

    Azar et al. 2023, arXiv:2310.12036, eq. 17; π there is the probability of the whole response, hence the sum.

    Elsewhere: TRL's DPOTrainer, HALOs and LLaMA-Factory take the mean and call τ `beta`; the original DPO code and
    OpenRLHF sum.

    >>> ipo(tau=0.1)([[-2.1, -4.5]], [[-3.0, -3.2]])[0].round(6)
    array([7.84])
    """
    score = mean(log_ratio) if one_of("reduction", reduction, "sum", "mean") == "mean" else log_ratio
    link = margin(links.squared, target=1 / (2 * positive("tau", tau)))
    return term("ipo", score, link, tau=tau, reduction=reduction)


@named
def hinge(beta: float = 0.1) -> Loss:
    """L = max(0, 1 - βh),   ∂L/∂h = -β where βh < 1, else 0

    The SLiC loss normalized by a reference, as used by RSO; at the kink, βh = 1, the slope is 0.

    Zhao et al. 2023, arXiv:2305.10425; Liu et al. 2023, arXiv:2309.06657.

    Elsewhere: SLiC itself has no reference and a margin δ on log-probs.

    >>> hinge(beta=0.1)([[-2.1, -4.5]], [[-3.0, -3.2]])[0].round(6)
    array([0.78])
    """
    return term("hinge", log_ratio, margin(links.hinge, beta=positive("beta", beta)), beta=beta)


@named
def dpop(beta: float = 0.1, lam: float = 50.0) -> Loss:
    """L = -log σ(β (h - λ max(0, -a))),   ∂L/∂a = -βσ(-z) (1 + λ [a < 0]),   ∂L/∂b = +βσ(-z),   z the argument of σ

    DPO-Positive: pays for a chosen response that falls below the reference. `dpop(lam=0)` is `dpo`.

    Pal et al. 2024 (Smaug), arXiv:2402.13228, eq. 3: the penalty stands inside σ and is multiplied by β. λ >= 0.

    Elsewhere: mlx-lm-lora adds it outside σ, without β.

    >>> dpop(beta=0.1, lam=50.0)([[-3.1, -3.2]], [[-3.0, -3.2]])[1].round(6)
    array([[-3.186513,  0.062481]])
    """
    link = pair(links.dpop, beta=positive("beta", beta), lam=within("lam", lam, 0, math.inf))
    return term("dpop", log_ratio, link, beta=beta, lam=lam)


@named
def aot(beta: float = 0.1, eps: float = 0.0) -> Loss:
    """L = mean over ranks k of φ(u₍ₖ₎ - v₍ₖ₎),   φ(h) = -(1-ε) log σ(βh) - ε log σ(-βh)

    Alignment via optimal transport, paired: u = ℓ_w - ℓ_l of the policy and v of the reference, each sorted over the
    batch, so that the distribution of margins is compared and not each pair. A row's value belongs to its u; its slope
    flows to the row of that u. The loss depends on what else is in the batch, so parts do *not* add up to the whole;
    weights count mass, ties leave value and gradient's total unchanged. At B = 1 it is `cdpo`.

    Melnyk et al. 2024, arXiv:2406.05882.

    Elsewhere: TRL's `aot_pair` meant the unpaired variant until 0.27.

    >>> value, grad = aot(beta=1.0)([[-1.0, -2.0], [-1.0, -4.0]], [[-1.0, -4.0], [-1.0, -2.0]])
    >>> value.round(6)  # the margins 1, 3 meet the reference's 1, 3
    array([0.693147, 0.693147])
    """
    link = sorted_margins(links.logistic, beta=positive("beta", beta), eps=within("eps", eps, 0, 0.5))
    return term("aot", log_prob, link, beta=beta, eps=eps)


@named
def tdpo1(beta: float = 0.1) -> Loss:
    """L = -log σ(β (h - (D_l - D_w))),   D = Σₜ KL(π_ref || π) along the response

    Token-level DPO, first version. Gradients flow through both sequential KLs: ∂L/∂D_w = -βσ(-z), ∂L/∂D_l = +βσ(-z).

    Zeng et al. 2024, arXiv:2404.11999. Reads `logp` and `kl`: pass a dict of both, or use
    `batch.with_reference(policy, params, "logp", "kl")`.

    >>> value, grad = tdpo1(beta=1.0)({"logp": [[-1.0, -1.0]], "kl": [[0.5, 0.5]]}, ref_logp=[[-1.0, -1.0]])
    >>> value.round(6), grad["kl"]
    (array([0.693147]), array([[-0.5,  0.5]]))
    """
    return term("tdpo1", sequential_kl(1.0, stop=False), margin(links.logistic, beta=positive("beta", beta)), beta=beta)


@named
def tdpo2(beta: float = 0.1, alpha: float = 0.5) -> Loss:
    """L = -log σ(β (h - α (D_l - sg D_w))),   D = Σₜ KL(π_ref || π) along the response, sg a stopped gradient

    Token-level DPO, second version: ∂L/∂D_l = +αβσ(-z), and *nothing* flows into D_w: ∂L/∂D_w = 0 although the value
    depends on it. A finite difference of the value does not see that; freeze D_w first.

    Zeng et al. 2024, arXiv:2404.11999. Readings as in `tdpo1`.

    Elsewhere: the authors' code logs β (a + D_w) as the chosen reward.

    >>> value, grad = tdpo2(beta=1.0, alpha=0.5)({"logp": [[-1.0, -1.0]], "kl": [[0.5, 0.5]]}, ref_logp=[[-1.0, -1.0]])
    >>> value.round(6), grad["kl"]
    (array([0.693147]), array([[0.  , 0.25]]))
    """
    alpha = within("alpha", alpha, 0, math.inf)
    link = margin(links.logistic, beta=positive("beta", beta))
    return term("tdpo2", sequential_kl(alpha, stop=True), link, beta=beta, alpha=alpha)


# ---- without a reference

@named
def simpo(beta: float = 2.0, gamma: float = 1.0) -> Loss:
    """L = -log σ(β (ℓ_w/|y_w| - ℓ_l/|y_l|) - γ),   ∂L/∂ℓ_w = -βσ(-z)/|y_w|,   ∂L/∂ℓ_l = +βσ(-z)/|y_l|

    Simple preference optimization: mean log-probs, no reference, a target margin γ.

    Meng et al. 2024, arXiv:2405.14734, eq. 6: γ itself is subtracted.

    Elsewhere: the authors' code, HALOs and open-instruct are told the ratio γ/β.

    >>> value, grad = simpo(beta=2.0, gamma=0.5)([[-4.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([0.974077]), array([[-0.31123 ,  0.207486]]))
    """
    link = margin(links.logistic, beta=positive("beta", beta), offset=finite("gamma", gamma))
    return term("simpo", mean(log_prob), link, beta=beta, gamma=gamma)


@named
def sft() -> Loss:
    """L = -ℓ_w,   ∂L/∂ℓ_w = -1: the negative log-likelihood of the chosen response, summed over its tokens

    For K = 1 that of the response itself, whatever its label.

    >>> sft()([[-2.1, -4.5]])
    (array([2.1]), array([[-1.,  0.]]))
    """
    return term("sft", log_prob, chosen(links.negative))


@named
def sft_mean() -> Loss:
    """L = -ℓ_w/|y_w|,   ∂L/∂ℓ_w = -1/|y_w|: the negative log-likelihood per token of each chosen response

    A mean of means. Elsewhere: TRL and Liger divide the batch's sum by the batch's count of tokens.

    >>> sft_mean()([[-2.0, -4.5]], length=[[4, 9]])
    (array([0.5]), array([[-0.25,  0.  ]]))
    """
    return term("sft_mean", mean(log_prob), chosen(links.negative))


# ---- mixtures

@named
def rpo(beta: float = 0.1, alpha: float = 1.0) -> Loss:
    """L = -log σ(βh) - α ℓ_w/|y_w|: DPO and the chosen response's likelihood per token

    Pang et al. 2024 (Iterative reasoning preference optimization), arXiv:2404.19733. `rpo(alpha=0)` is `dpo`.

    Elsewhere: "RPO" also names NVIDIA's reward-aware loss and the regularized preference optimization of Liu et al.

    >>> rpo(beta=0.1, alpha=1.0)
    dpo(beta=0.1) + 1 * sft_mean()
    """
    return dpo(beta) + within("alpha", alpha, 0, math.inf) * sft_mean()


# ---- unpaired

@named
def kto(beta: float = 0.1, lam_d: float = 1.0, lam_u: float = 1.0) -> Loss:
    """L = λ_D (1 - σ(β (r - z₀))) where desired,   λ_U (1 - σ(β (z₀ - r))) where not;   ∂L/∂r = ∓λβ σ(z) σ(-z)

    Kahneman-Tversky optimization of single responses, r the log-ratio: K = 1, `label` (B,) true where desired. The
    reference point z₀ is a fact, a number or one a row, in nats and >= 0; no gradient flows into it. Its usual estimate
    is max(0, mean log-ratio of mismatched prompt and response). At policy = reference and z₀ = 0 the loss is λ/2.

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8 (without the constant λ_y).

    Elsewhere: estimates of z₀ differ, from rotated batches to none at all; some trainers average desired and undesired
    apart.

    >>> kto(beta=0.1)([[-2.0], [-3.0]], ref_logp=[[-2.0], [-3.0]], label=[True, False], z0=0.0)[1]
    array([[-0.025],
           [ 0.025]])
    """
    for name, lam in (("lam_d", lam_d), ("lam_u", lam_u)):
        within(name, lam, 0, math.inf)
    link = each(links.kto, "z0", beta=positive("beta", beta), lam_d=lam_d, lam_u=lam_u)
    return term("kto", log_ratio, link, beta=beta, lam_d=lam_d, lam_u=lam_u)


# ---- domains of hyper-parameters

def finite(name: str, value: float) -> float:
    if not (isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def positive(name: str, value: float) -> float:
    if finite(name, value) <= 0:
        raise ValueError(f"{name} is {value!r}; expected a finite number above 0")
    return float(value)


def within(name: str, value: float, low: float, high: float) -> float:
    if not low <= finite(name, value) < high:
        raise ValueError(
            f"{name} is {value!r}; expected at least {low:g}" + (f" and below {high:g}" if math.isfinite(high) else "")
        )
    return float(value)


def one_of(name: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")
    return value
