"""Every loss is a sum of terms `coefficient * link(score(readings))`; `LOSSES` names them.

    loss = LOSSES["dpo"](beta=0.1)
    value, grad = loss(logp, ref_logp)            # (B, 2), (B, 2) -> (B,), (B, 2)

Column 0 is the chosen response, column 1 the rejected. `grad` is the gradient of Σ_b weight_b value_b in what the loss
reads, `weight` being 1 where it is not told. Notation in the formulas: ℓ = log π(y|x) in nats, summed over the |y|
response tokens that count (EOS included); a, b = log π/π_ref of the chosen and the rejected; h = a - b.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import links
from .links import Link, chosen, each, margin, pair, ranking, sorted_columns, sorted_margins
from .parallel import over_blocks
from .scores import Score, Values, full_log_prob, log_prob, log_ratio, mean, reward, sequential_kl, shared_length

__all__ = ["LOSSES", "Loss"]

Array = NDArray[Any]


#: what a loss may be told; other facts are one a comparison, () or (B,) or (B, 1)
OF_RESPONSES = ("ref_logp", "length", "full_length", "present", "reward", "score", "w", "win_rate")  # (B, K)
OF_TOKENS = ("token_logp", "ref_token_logp", "old_token_logp", "token_entropy", "token_value", "old_token_value",
             "token_return", "advantage", "mask")  # (B, K, T)
READ = ("logp", "full_logp", "kl")  # (B, K)
UNLESS_TOLD = {"present": True, "margin": 0.0}


#: numbers of a reading that are walked at once: what is made of them stays in a core's cache; with fewer, threads would
#: mostly wait for one another between calls that are short
BLOCK = 1 << 16


class Term(NamedTuple):
    coefficient: float
    score: Score
    link: Link


class Loss:
    """A sum of terms; adds up and scales: `dpo(0.1) + 0.2 * sft_mean()`. A term times 0 is none, be it infinite.

    reads   : what it differentiates (`logp`, `kl` ...)
    needs   : what it is told and does not differentiate (`ref_logp`, `length`, `label`, `z0` ...)
    coupled : whether a comparison's value depends on the rest of the batch, so that parts do not add up to the whole
    """

    def __init__(self, name: str, terms: tuple[Term, ...]) -> None:
        self.name, self.terms = name, terms
        self.reads: tuple[str, ...] = tuple(dict.fromkeys(name for term in terms for name in term.score.reads))
        self.needs: tuple[str, ...] = tuple(dict.fromkeys(
            name for term in terms for name in (*term.score.needs, *term.link.needs)))
        self.coupled = any(term.link.coupled for term in terms)
        self._of_tokens = bool(self.reads) and self.reads[0] in OF_TOKENS
        self._columns = next((term.link.columns for term in terms if term.link.columns), None)

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

        logp     (..., B, K) log-probs in nats (rewards, for a reward model's loss; (..., B, K, T) of tokens);
                 for a loss of several readings a dict by name, and so are its gradients
        ref_logp (..., B, K) the reference's
        length   (..., B, K) response tokens that count
        weight   (B,), 1 each where it is not given

        Facts are cast to the dtype of the readings (integers count as float64), so float32 stays float32. NaN
        propagates.

        Raises `ValueError` on a missing fact or reading, and on shapes that do not fit.
        """
        given = logp if isinstance(logp, Mapping) else {self.reads[0]: logp}
        readings = self._readings(given)
        first = readings[self.reads[0]]
        told = {**UNLESS_TOLD, "ref_logp": ref_logp, "length": length, **facts}
        known = {name: self._fact(name, told.get(name), first) for name in self.needs}
        rows = self._rows(first)[-2:-1]
        if weight is None:
            weights = np.empty(rows, first.real.dtype)
            weights.fill(1)
        else:
            weights = np.asarray(weight, first.real.dtype)
        if weights.shape != rows:
            raise ValueError(f"weight has shape {weights.shape}; expected {rows}")
        value, grads = self._evaluate(readings, weights, known)
        return value, grads if given is logp else grads[self.reads[0]]

    def _evaluate(self, readings: Values, weight: Array, facts: Values) -> tuple[Array, dict[str, Array]]:
        """`__call__` once all is checked and cast: readings and `weight` of one dtype, facts as `_fact` leaves them

        Many rows are walked in blocks that stay in a core's cache, on several threads.
        """
        first = readings[self.reads[0]]
        *lead, B, _ = self._rows(first)
        step = max(BLOCK * B // max(first.size, 1), 1)
        whole = self.coupled or B <= step
        if whole and [term.coefficient for term in self.terms] == [1]:  # sums of one would take a fifth of dpo's time
            [(_, score, link)] = self.terms
            s, back = score.fn(readings, facts)
            value, ds = link.fn(s, weight, facts)
            return value, back(ds)
        value, grads = np.empty((*lead, B), first.dtype), {name: np.empty_like(x) for name, x in readings.items()}
        if whole:
            self._fill(value, grads, readings, weight, facts)
            return value, grads

        def visit(rows: slice) -> None:
            self._fill(value[..., rows], _of_rows(grads, rows), _of_rows(readings, rows), weight[rows],
                       _of_rows(facts, rows))

        over_blocks(visit, B, step)
        return value, grads

    def _fill(self, value: Array, grads: dict[str, Array], readings: Values, weight: Array, facts: Values) -> None:
        """`value` and `grads` become the sum of the terms"""
        terms = [term for term in self.terms if term.coefficient]
        for out in (value, *grads.values()) if not terms else ():
            out.fill(0)
        for number, (coefficient, score, link) in enumerate(terms):
            s, back = score.fn(readings, facts)
            of_term, ds = link.fn(s, weight, facts)
            slopes = back(ds)
            for out, x in (value, of_term), *((grad, slopes.get(name, 0)) for name, grad in grads.items()):
                scaled: Any = x if coefficient == 1 else coefficient * x
                if number:
                    out += scaled
                else:
                    np.add(scaled, 0, out=out)  # never -0

    def _rows(self, first: Array) -> tuple[int, ...]:
        """(..., B, K)"""
        return first.shape[:-1] if self._of_tokens else first.shape

    def _readings(self, given: Mapping[str, ArrayLike]) -> dict[str, Array]:
        x: dict[str, Array] = {}
        for name in self.reads:
            if name not in given:
                raise ValueError(
                    f"{self.name} reads {', '.join(self.reads)}; {name} was not given: pass a dict of arrays by name"
                )
            x[name] = np.asarray(given[name])
        shape = x[self.reads[0]].shape
        axes = 3 if self._of_tokens else 2
        for name, values in x.items():
            if len(shape) < axes or self._columns not in (None, shape[1 - axes]) or values.shape != shape:
                expected = ", ".join(("...", "B", str(self._columns or "K"), *("T",) * self._of_tokens))
                raise ValueError(f"{name} has shape {values.shape}; {self.name} expected ({expected})")
        dtype = _dtype(*[values.dtype for values in x.values()])
        return {name: values.astype(dtype, copy=False) for name, values in x.items()}

    def _fact(self, name: str, value: ArrayLike | None, first: Array) -> Array:
        """In the dtype of the readings; (..., B, K) if it belongs to responses, else broadcast against (..., B)."""
        if value is None:
            hint = {"ref_logp": ": call batch.with_reference(policy, params)",
                    "ref_token_logp": ": call batch.with_reference(policy, params, 'token_logp')"}.get(name, "")
            raise ValueError(f"{self.name} needs {name}, which was not given{hint}")
        fact, rows = np.asarray(value), self._rows(first)
        of_comparisons = name not in OF_RESPONSES and name not in OF_TOKENS
        if of_comparisons and fact.shape[-1:] == (1,):
            fact = fact[..., 0]
        if name == "advantage" and fact.ndim == 2:  # (B, K), one a response: told by ndim, as K may be T
            fact = fact[..., None]
        shape = rows[:-1] if of_comparisons else first.shape if name in OF_TOKENS else rows
        if fact.shape != shape:
            try:
                # (B,) would fit in the wrong direction where B = K
                fits = np.broadcast_shapes(fact.shape, shape) == shape and (of_comparisons or fact.ndim != 1)
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{name} has shape {np.shape(value)}, which does not fit the log-probs' {first.shape}")
            fact = fact if of_comparisons else np.broadcast_to(fact, shape)
        return fact if fact.dtype == bool else fact.astype(np.promote_types(first.real.dtype, np.float32), copy=False)


@functools.cache
def _dtype(*given: np.dtype[Any]) -> np.dtype[Any]:
    """That of the readings together; float64 for numbers that are not floats, or short ones"""
    dtype = np.result_type(*given, np.float16)
    return dtype if dtype.kind in "fc" and dtype.itemsize > 2 else np.dtype(np.float64)


def _of_rows(arrays: Values, rows: slice) -> dict[str, Array]:
    """Those rows of readings, gradients or facts; a fact of comparisons may be one for all"""
    return {name: x[..., rows, :, :] if name in OF_TOKENS else
            x[..., rows, :] if name in OF_RESPONSES or name in READ else
            x[..., rows] if x.ndim and x.shape[-1] > 1 else x for name, x in arrays.items()}


#: name -> factory: hyper-parameters -> a `Loss` of pairs, rankings, single responses or rewards
LOSSES: dict[str, Callable[..., Loss]] = {}


def named(factory: Callable[..., Loss]) -> Callable[..., Loss]:
    """Enter a factory into `LOSSES` under its own name."""
    LOSSES[factory.__name__] = factory
    return factory


def term(name: str, score: Score, link: Link, **hyper: Any) -> Loss:
    return mixture(name, Loss(name, (Term(1.0, score, link),)), **hyper)


def mixture(name: str, loss: Loss, **hyper: Any) -> Loss:
    """The same terms under a name of their own."""
    shown = (f"{key}={value if isinstance(value, (str, bool)) else f'{value:g}'}" for key, value in hyper.items())
    return Loss(f"{name}({', '.join(shown)})", loss.terms)


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
def rdpo(beta: float = 0.1, eps: float = 0.1) -> Loss:
    """L = [-(1-ε) log σ(βh) + ε log σ(-βh)] / (1-2ε) = -log σ(βh) - cβh,   ∂L/∂h = -β (σ(-βh) + c),   c = ε/(1-2ε)

    Robust DPO: if each label was flipped with probability ε, its mean over the flips is the DPO loss of the true label.
    The price: unbounded below. Where the labels agree more often than 1-ε it has no minimum. `rdpo(eps=0)` is `dpo`.

    Ray Chowdhury et al. 2024, arXiv:2403.00409. 0 <= ε < 1/2.

    Elsewhere: `loss_type="robust"` with `label_smoothing` in TRL and Liger; TRL lets ε = 1/2, which divides by 0, and
    larger ones, which flip the sign, pass with a warning.

    >>> value, grad = rdpo(beta=1.0, eps=0.25)([[-1.0, -2.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([-0.186738]), array([[-0.768941,  0.768941]]))
    """
    link = margin(links.robust, beta=positive("beta", beta), eps=within("eps", eps, 0, 0.5))
    return term("rdpo", log_ratio, link, beta=beta, eps=eps)


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
def exo(beta: float = 0.1, eps: float = 1e-3) -> Loss:
    """L = KL(σ(z) || 1-ε) = σ(z) log σ(z)/(1-ε) + σ(-z) log σ(-z)/ε,   ∂L/∂h = β σ(z) σ(-z) (z - log((1-ε)/ε)),
    z = βh

    Efficient exact optimization, for pairs: the reverse KL from what the implicit rewards say of the pair to a label
    that is wrong with probability ε. Not convex: at confident mistakes the slope vanishes. The finite minimum is that
    of `cdpo`.

    Ji et al. 2024, arXiv:2402.00856, eq. 16. 0 < ε < 1/2.

    Elsewhere: `exo_pair` and `label_smoothing` in TRL and Liger; TRL <= 0.28 turned ε = 0 into 1e-3. The authors' code
    has log-targets (0, -10), not normalized: the gradient of ε = 4.54e-5, a value lower by -log(1-ε).

    >>> value, grad = exo(beta=1.0, eps=0.25)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([0.143841]), array([[-0.274653,  0.274653]]))
    """
    link = margin(links.exo, beta=positive("beta", beta), eps=between("eps", eps, 0, 0.5))
    return term("exo", log_ratio, link, beta=beta, eps=eps)


@named
def nca(beta: float = 0.1) -> Loss:
    """L = -log σ(βa) - ½ log σ(-βa) - ½ log σ(-βb),   ∂L/∂a = β (½ σ(βa) - σ(-βa)),   ∂L/∂b = ½ β σ(βb)

    Noise contrastive alignment of a pair: each response is classified by itself, so that the chosen one cannot fall
    along with the rejected; the pull on it ends at βa = log 2.

    Chen et al. 2024, arXiv:2402.05369, for K = 2 and a certain label (`nca_listwise` for more).

    Elsewhere: `nca_pair` in TRL and Liger, the same.

    >>> value, grad = nca(beta=1.0)([[-1.0 + np.log(2.0), -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([1.301345]), array([[0.  , 0.25]]))
    """
    return term("nca", log_ratio, pair(links.nca, beta=positive("beta", beta)), beta=beta)


@named
def bco(beta: float = 0.1) -> Loss:
    """L = -log σ(βa - δ) - log σ(-(βb - δ)),   ∂L/∂a = -β σ(-(βa - δ)),   ∂L/∂b = +β σ(βb - δ)

    Binary classifier optimization of a pair. The shift δ is a fact, a number or one a row, in units of reward (β
    inside); no gradient flows into it. The paper's is half the sum of the mean rewards of chosen and rejected:
    `estimates.bco_shift`.

    Jung et al. 2024, arXiv:2404.04656, eq. 8, δ of eq. 7 (of the ACL version): there a moving average.

    Elsewhere: `bco_pair`: a running mean until TRL 0.28, δ = 0 in TRL >= 0.29 and Liger.

    >>> value, grad = bco(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]], delta=0.0)
    >>> value.round(6), grad
    (array([1.386294]), array([[-0.5,  0.5]]))
    """
    return term("bco", log_ratio, pair(links.bco, "delta", beta=positive("beta", beta)), beta=beta)


@named
def sppo(beta: float = 0.001, labels: str = "hard") -> Loss:
    """L = (a - (P_w - ½)/β)² + (b - (P_l - ½)/β)²,   ∂L/∂a = 2 (a - (P_w - ½)/β),   ∂L/∂b = 2 (b - (P_l - ½)/β)

    Self-play preference optimization: log-ratios are regressed on win rates. With hard labels P_w = 1 and P_l = 0;
    `labels="soft"` is told `win_rate` (B, 2), the probability that each beats a response of the policy that sampled it.
    β is the paper's 1/η.

    Wu et al. 2024, arXiv:2405.00675, eq. 4.7 and algorithm 1.

    Elsewhere: `sppo_hard` in TRL and Liger, the same sum; the authors' code is half of it: `0.5 * sppo(...)`.

    >>> value, grad = sppo(beta=0.5)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value, grad
    (array([2.]), array([[-2.,  2.]]))
    """
    beta = positive("beta", beta)
    soft = one_of("labels", labels, "hard", "soft") == "soft"
    link = pair(links.win_rates, "win_rate", beta=beta) if soft else pair(links.squares, target=0.5 / beta)
    return term("sppo", log_ratio, link, beta=beta, labels=labels)


@named
def apo_zero(beta: float = 0.1, plus_one: bool = False) -> Loss:
    """L = -σ(βa) + σ(βb),   ∂L/∂a = -β σ(βa) σ(-βa),   ∂L/∂b = +β σ(βb) σ(-βb)

    Anchored preference optimization: chosen up, rejected down, each by itself; for a model worse than the chosen data.
    `plus_one` adds the constant 1.

    D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.

    Elsewhere: TRL and Liger log 1 - σ(βa) + σ(βb).

    >>> value, grad = apo_zero(beta=1.0)([[-1.0, -2.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([-0.231059]), array([[-0.25    ,  0.196612]]))
    """
    link = pair(links.apo_zero, beta=positive("beta", beta), plus_one=yes_or_no("plus_one", plus_one))
    return term("apo_zero", log_ratio, link, beta=beta, plus_one=plus_one)


@named
def apo_down(beta: float = 0.1, plus_one: bool = False) -> Loss:
    """L = σ(βa) - σ(βh),   ∂L/∂a = β (σ(βa) σ(-βa) - σ(βh) σ(-βh)),   ∂L/∂b = +β σ(βh) σ(-βh)

    Anchored preference optimization for a model better than the chosen data: the chosen goes down, the rejected further
    down. The two terms of ∂L/∂a cancel as b -> 0; they are computed as one product. `plus_one` adds the constant 1.

    D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8.

    Elsewhere: TRL and Liger log σ(βa) + 1 - σ(βh).

    >>> value, grad = apo_down(beta=1.0)([[-1.0, -2.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([-0.231059]), array([[0.053388, 0.196612]]))
    """
    link = pair(links.apo_down, beta=positive("beta", beta), plus_one=yes_or_no("plus_one", plus_one))
    return term("apo_down", log_ratio, link, beta=beta, plus_one=plus_one)


@named
def dpop(beta: float = 0.1, lam: float = 50.0, penalty: str = "inside") -> Loss:
    """L = -log σ(β (h - λ max(0, -a))),   ∂L/∂a = -βσ(-z) (1 + λ [a < 0]),   ∂L/∂b = +βσ(-z),   z the argument of σ

    DPO-Positive: pays for a chosen response that falls below the reference. `dpop(lam=0)` is `dpo`. With
    `penalty="outside"`, L = -log σ(βh) + λ max(0, -a).

    Pal et al. 2024 (Smaug), arXiv:2402.13228, eq. 3: the penalty stands inside σ and is multiplied by β. λ >= 0.

    Elsewhere: mlx-lm-lora adds it outside σ, without β, as does a recipe that went round (abacusai/smaug#2).

    >>> dpop(beta=0.1, lam=50.0)([[-3.1, -3.2]], [[-3.0, -3.2]])[1].round(6)
    array([[-3.186513,  0.062481]])
    """
    lam = within("lam", lam, 0, math.inf)
    if one_of("penalty", penalty, "inside", "outside") == "inside":
        loss = term("dpop", log_ratio, pair(links.dpop, beta=positive("beta", beta), lam=lam))
    else:
        loss = dpo(beta) + lam * term("fallen", log_ratio, chosen(links.fallen))
    return mixture("dpop", loss, beta=beta, lam=lam, penalty=penalty)


@named
def cal_dpo(beta: float = 0.1, lam: float = 1.0) -> Loss:
    """L = -log σ(h) + λ [(a - 1/(2β))² + (b + 1/(2β))²],   ∂L/∂a = -σ(-h) + 2λ (a - 1/(2β)),
    ∂L/∂b = σ(-h) + 2λ (b + 1/(2β))

    Calibrated DPO: the log-ratios themselves, not only their difference, are held to the scale of the rewards ±1/2.
    β is in the targets alone: `dpo(beta=1) + lam * sppo(beta)`.

    Xiao et al. 2024, arXiv:2412.14516, algorithm 1, where λ = 1. λ >= 0.

    Elsewhere: the authors' code has λ = 1/2.

    >>> cal_dpo(beta=0.5)([[-1.0, -1.0]], [[-1.0, -1.0]])
    (array([2.69314718]), array([[-2.5,  2.5]]))
    """
    calibration = within("lam", lam, 0, math.inf) * sppo(beta)
    return mixture("cal_dpo", dpo(beta=1.0) + calibration, beta=beta, lam=lam)


@named
def reward_rpo(beta: float = 0.1, eta: float = 1.0, distance: str = "kl") -> Loss:
    """L = KL(σ(t) || σ(z)),   ∂L/∂h = β (σ(z) - σ(t)),   z = βh, t = η (reward_w - reward_l)

    Reward-aware preference optimization: the implicit rewards' difference is drawn to a judge's, told as `reward`
    (B, 2). `distance="reverse_kl"` is KL(σ(z) || σ(t)), slope β σ(z) σ(-z) (z - t); `"squared"` is (z - t)². In all
    three the least is 0, at z = t.

    Nemotron-4 340B technical report 2024, arXiv:2406.11704, section 3.3.2; Sun et al. 2025, arXiv:2502.00203.

    Elsewhere: NeMo-Aligner's `rpo_bwd_kl` is "kl", `rpo_fwd_kl` "reverse_kl", `rpo_sq` "squared". `rpo` is another
    loss.

    >>> value, grad = reward_rpo(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]], reward=[[np.log(3.0), 0.0]])
    >>> value.round(6), grad
    (array([0.130812]), array([[-0.25,  0.25]]))
    """
    one_of("distance", distance, "kl", "reverse_kl", "squared")
    link = margin(links.reward_distance, "reward", beta=positive("beta", beta), eta=positive("eta", eta),
                  distance=distance)
    return term("reward_rpo", log_ratio, link, beta=beta, eta=eta, distance=distance)


@named
def odpo(beta: float = 0.1, alpha: float = 1.0, f: str = "log") -> Loss:
    """L = -log σ(βh - α f(score_w - score_l)),   ∂L/∂h = -β σ(-z)

    DPO with an offset: the more a judge's `score` (B, 2) prefers the chosen, the larger the margin asked for. f is the
    logarithm (the chosen's score must then be above the rejected's) or, with `f="identity"`, none. `odpo(alpha=0)` is
    `dpo`.

    Amini et al. 2024, arXiv:2402.10571. α >= 0.

    >>> value, grad = odpo(beta=1.0, f="identity")([[-1.0, -1.0]], [[-1.0, -1.0]], score=[[2.0, 1.0]])
    >>> value.round(6), grad.round(6)
    (array([1.313262]), array([[-0.731059,  0.731059]]))
    """
    link = margin(links.gaps, "score", beta=positive("beta", beta), alpha=within("alpha", alpha, 0, math.inf),
                  f=one_of("f", f, "log", "identity"))
    return term("odpo", log_ratio, link, beta=beta, alpha=alpha, f=f)


@named
def beta_dpo(beta: float = 0.1, alpha: float = 0.6, floor: float = 1e-3) -> Loss:
    """L = -log σ(β'h),   ∂L/∂h = -β' σ(-β'h),   β' = max(floor, β (1 + α (M - M₀)))

    DPO with a β of the batch: M is the mean of h over the pairs kept, by weight; no gradient flows into it. Facts:
    `m0`, the running mean of h over all pairs (the caller keeps it; the authors' with a momentum of 0.9, and the batch
    itself already in it), and `keep` (B,), true for the pairs that the paper's filter lets pass (it draws them, so that
    is not done here); the others have value and gradient 0. `beta_dpo(alpha=0)` is `dpo`.

    Wu et al. 2024, arXiv:2407.08639; `floor` is that of the authors' code. α, floor >= 0.

    Elsewhere: the authors' code trains with β' and logs rewards with β (junkangwu/beta-DPO#1).

    >>> value, grad = beta_dpo(beta=1.0)([[-1.0, -2.0]], [[-1.0, -1.0]], m0=1.0, keep=[True])
    >>> value.round(6), grad.round(6)
    (array([0.313262]), array([[-0.268941,  0.268941]]))
    """
    link = links.dynamic(positive("beta", beta), within("alpha", alpha, 0, math.inf),
                         within("floor", floor, 0, math.inf))
    return term("beta_dpo", log_ratio, link, beta=beta, alpha=alpha, floor=floor)


@named
def wpo(beta: float = 0.1, clamp: bool = True) -> Loss:
    """L = -v log σ(βh),   ∂L/∂h = -v β σ(-βh),   v = min(1, w_w w_l)

    Weighted preference optimization: responses that the policy would hardly give now count less. `w` (B, 2) is a fact,
    w = exp mean_t [log pₜ - log Σᵥ pᵥ²] of the current policy (`estimates.wpo_weight`); no gradient flows into it.
    Without `clamp`, v = w_w w_l, as it is printed; the clamp is that of the authors' code.

    Zhou et al. 2024, arXiv:2406.11827, eq. 1, its w eq. 2.

    Elsewhere: TRL <= 0.28 clamps, and loses the last token of each response in the mean; TRL >= 0.29 does not clamp
    (`use_weighting`).

    >>> value, grad = wpo(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]], w=[[0.5, 0.5]])
    >>> value.round(6), grad
    (array([0.173287]), array([[-0.125,  0.125]]))
    """
    link = margin(links.weighted, "w", beta=positive("beta", beta), clamp=yes_or_no("clamp", clamp))
    return term("wpo", log_ratio, link, beta=beta, clamp=clamp)


@named
def discopop(beta: float = 0.05, tau: float = 0.05) -> Loss:
    """L = -(1-m) log σ(x) + m e⁻ˣ,   ∂L/∂h = β ((1-m) [m (e⁻ˣ + log σ(x))/τ - σ(-x)] - m e⁻ˣ),   m = σ(x/τ), x = βh

    The log-ratio modulated loss that a language model discovered: logistic where the pair is wrong, exponential where
    it is right. Not convex: with a small τ it has a hollow around x = 0.

    Lu et al. 2024, arXiv:2406.08414, eq. 5. β, τ > 0.

    Elsewhere: `discopop_tau` in TRL and Liger, the same. An older version in the authors' code modulates by σ of h
    itself: τ = β.

    >>> value, grad = discopop(beta=1.0, tau=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad.round(6)
    (array([0.846574]), array([[-0.673287,  0.673287]]))
    """
    link = margin(links.discopop, beta=positive("beta", beta), tau=positive("tau", tau))
    return term("discopop", log_ratio, link, beta=beta, tau=tau)


@named
def f_dpo_forward_kl(beta: float = 0.1) -> Loss:
    """L = -log σ(z),   ∂L/∂a = -β σ(-z) e⁻ᵃ,   ∂L/∂b = +β σ(-z) e⁻ᵇ,   z = β (f'(u_w) - f'(u_l)) = β (e⁻ᵇ - e⁻ᵃ),
    f' = -1/u

    DPO of the objective E r - β D_f(π || π_ref) with the forward KL, f(u) = -log u, u = π/π_ref. Its optimum is
    π_ref β / (λ - r). Constants of f' cancel in the pair.

    Wang et al. 2023, arXiv:2309.16240.

    Elsewhere: TRL's `f_divergence_type="forward_kl"` has no guard: in float32 it overflows from log-ratios of -88 on.

    >>> value, grad = f_dpo_forward_kl(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad
    (array([0.693147]), array([[-0.5,  0.5]]))
    """
    link = pair(links.powers, beta=positive("beta", beta), alphas=(1.0,))
    return term("f_dpo_forward_kl", log_ratio, link, beta=beta)


@named
def f_dpo_js(beta: float = 0.1) -> Loss:
    """L = -log σ(z),   ∂L/∂a = -β σ(-z) σ(-a),   ∂L/∂b = +β σ(-z) σ(-b),   z = β (f'(u_w) - f'(u_l)),
    f' = log(2u/(1+u))

    DPO with (twice) the Jensen-Shannon divergence: f'(u) = log σ(log u) + log 2, so that z = β (log σ(a) - log σ(b)).

    Wang et al. 2023, arXiv:2309.16240.

    >>> value, grad = f_dpo_js(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad
    (array([0.693147]), array([[-0.25,  0.25]]))
    """
    return term("f_dpo_js", log_ratio, pair(links.js, beta=positive("beta", beta)), beta=beta)


@named
def f_dpo_alpha(beta: float = 0.1, alpha: float = 0.5, convention: str = "paper") -> Loss:
    """L = -log σ(z),   ∂L/∂a = -β σ(-z) e^-αa,   ∂L/∂b = +β σ(-z) e^-αb,   z = β (e^-αb - e^-αa)/α, f' = (1 - u^-α)/α

    DPO with an α-divergence: α -> 0 is the reverse KL and so `dpo`, α = 1 the forward KL, α = -1 that of χ². With
    `convention="order"`, f' = (u^(α-1) - 1)/(α - 1): what the paper calls 1 - α.

    Wang et al. 2023, arXiv:2309.16240, for 0 < α < 1; any finite α is taken here.

    Elsewhere: TRL <= 0.28 follows the paper, TRL >= 0.29 the order, under the same name and with the help text of the
    former.

    >>> f_dpo_alpha(beta=1.0, alpha=0.5)([[-1.0, -2.0]], [[-1.0, -1.0]])[0].round(6)
    array([0.241557])
    >>> f_dpo_alpha(beta=1.0, alpha=0.5, convention="order")([[-1.0, -2.0]], [[-1.0, -1.0]])[0].round(6)
    array([0.241557])
    """
    order = one_of("convention", convention, "paper", "order") == "order"
    exponent = 1 - finite("alpha", alpha) if order else finite("alpha", alpha)
    link = pair(links.powers, beta=positive("beta", beta), alphas=(exponent,))
    return term("f_dpo_alpha", log_ratio, link, beta=beta, alpha=alpha, convention=convention)


@named
def f_dpo_chi2(beta: float = 0.1, mixed: bool = False) -> Loss:
    """L = -log σ(z),   ∂L/∂a = -β σ(-z) eᵃ,   ∂L/∂b = +β σ(-z) eᵇ,   z = β (eᵃ - eᵇ), f' = u - 1

    DPO with half the χ² divergence. f'(0) is finite: where the optimum of the objective is clipped at π = 0, its reward
    cannot be read off π. `mixed` adds the reverse KL, f' = u - 1 + log u, and one to each eˣ: that one is χPO's.

    Wang et al. 2023, arXiv:2309.16240; Huang et al. 2024 (χPO), arXiv:2407.13399, who also clip z: not done here.

    >>> value, grad = f_dpo_chi2(beta=1.0, mixed=True)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value.round(6), grad
    (array([0.693147]), array([[-1.,  1.]]))
    """
    alphas = (-1.0, 0.0) if yes_or_no("mixed", mixed) else (-1.0,)
    link = pair(links.powers, beta=positive("beta", beta), alphas=alphas)
    return term("f_dpo_chi2", log_ratio, link, beta=beta, mixed=mixed)


@named
def ln_dpo(beta: float = 5.0) -> Loss:
    """L = -log σ(β (a/|y_w| - b/|y_l|)),   ∂L/∂a = -β σ(-z)/|y_w|,   ∂L/∂b = +β σ(-z)/|y_l|

    Length-normalized DPO: log-ratios per token. Its optimum is π_ref exp(|y| (r/β + c)), not π*.

    Lambert et al. 2024 (Tülu 3), arXiv:2411.15124, eq. 6, whose β is 5.

    Elsewhere: `sigmoid_norm` in TRL, `dpo_norm` in open-instruct, `preference_average_log_probs` in NeMo; some
    tutorials average log-probs and call it DPO.

    >>> value, grad = ln_dpo(beta=2.0)([[-4.0, -6.0]], [[-8.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([0.126928]), array([[-0.059601,  0.039734]]))
    """
    return term("ln_dpo", mean(log_ratio), margin(links.logistic, beta=positive("beta", beta)), beta=beta)


@named
def r_dpo(beta: float = 0.1, alpha: float = 0.1) -> Loss:
    """L = -log σ(βh + α (|y_w| - |y_l|)),   ∂L/∂h = -β σ(-z)

    Length-regularized DPO. Its optimum is π_ref exp((r - α |y|)/β): a positive α makes responses shorter. (Already a
    longer chosen response counts as explained.) α in units of reward a token, finite, may be negative; 0 is `dpo`.

    Park et al. 2024, arXiv:2403.19159, eq. 9.

    Elsewhere: a survey prints the opposite sign, whose optimum makes responses longer.

    >>> value, grad = r_dpo(beta=1.0, alpha=0.5)([[-4.0, -6.0]], [[-4.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([1.313262]), array([[-0.731059,  0.731059]]))
    """
    link = margin(links.length_margin, "length", beta=positive("beta", beta), alpha=finite("alpha", alpha))
    return term("r_dpo", log_ratio, link, beta=beta, alpha=alpha)


@named
def ld_dpo(beta: float = 0.1, alpha: float = 0.5, reference: str = "weighted") -> Loss:
    """L = -log σ(β (â - b̂)),   ∂L/∂ℓₜ = ∓β σ(-z) cₜ,   â = Σₜ cₜ (ℓₜ - ℓₜ of the reference),   cₜ = 1 to t = p, then α

    Length-desensitized DPO: what the longer response says beyond the length p of the shorter counts α. Reads
    `token_logp` (B, 2, T) and is told `mask` (B, 2, T) and `ref_token_logp` (B, 2, T). `reference="full"` weighs the
    policy's tokens only and is told `ref_logp` (B, 2): then the loss at policy = reference is not log 2, and with
    lengths 40 and 10 at 4.6 nats a token it is 0.00101 at α = 1/2. `ld_dpo(alpha=1)` is `dpo`. 0 <= α <= 1.

    Liu et al. 2024, arXiv:2409.06411; whether its reference is weighted too is read both ways.

    Elsewhere: policy only in TRL <= 0.28, which moreover counts the prompt among the first p tokens, and in
    LLaMA-Factory; both in TRL >= 0.29 (`ld_alpha`).

    >>> loss = ld_dpo(beta=1.0, alpha=0.5)
    >>> value, grad = loss([[[0.0, -1.0, -1.0], [0.0, -2.0, 0.0]]], ref_token_logp=np.zeros((1, 2, 3)) - 1,
    ...                    mask=[[[False, True, True], [False, True, False]]])
    >>> value.round(6), grad.round(6).tolist()
    (array([0.313262]), [[[0.0, -0.268941, -0.134471], [0.0, 0.268941, 0.0]]])
    """
    both = one_of("reference", reference, "weighted", "full") == "weighted"
    score = shared_length(share("alpha", alpha), both)
    link = margin(links.logistic, beta=positive("beta", beta))
    return term("ld_dpo", score, link, beta=beta, alpha=alpha, reference=reference)


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
def aot_unpaired(beta: float = 0.1, eps: float = 0.0) -> Loss:
    """L = mean over ranks k of φ(a₍ₖ₎ - b₍ₖ₎),   φ(h) = -(1-ε) log σ(βh) - ε log σ(-βh)

    Alignment via optimal transport, unpaired: the log-ratios of the chosen and those of the rejected, each sorted over
    the batch, so that who was compared with whom does not matter. A row's value belongs to its chosen response. Depends
    on the batch, and treats weights and ties, as `aot` does. At B = 1 it is `cdpo`.

    Melnyk et al. 2024, arXiv:2406.05882.

    Elsewhere: TRL's `aot_pair` meant this one until 0.27.

    >>> value, grad = aot_unpaired(beta=1.0)([[-1.0, -2.0], [-3.0, -4.0]], [[-1.0, -4.0], [-3.0, -4.0]])
    >>> value.round(6), grad.round(6)  # 0, 0 meet 0, 2
    (array([0.693147, 2.126928]), array([[-0.5     ,  0.880797], [-0.880797,  0.5     ]]))
    """
    link = sorted_columns(links.logistic, beta=positive("beta", beta), eps=within("eps", eps, 0, 0.5))
    return term("aot_unpaired", log_ratio, link, beta=beta, eps=eps)


@named
def kto_pair(beta: float = 0.1, detach: bool = False) -> Loss:
    """L = ½ [1 - σ(β (a - K_l))] + ½ [1 - σ(β (K_w - b))],   K_w = max(0, mean of a over the batch), K_l = that of b

    The KTO loss of pairs that trainers offered before KTO had a trainer of its own. The means are by weight, and
    gradients *do* flow through them, to every row; `detach` stops them. Depends on the batch, as `aot` does.

    After Ethayarajh et al. 2024, arXiv:2402.01306.

    Elsewhere: `kto_pair` of TRL <= 0.9, LLaMA-Factory and SPPO's code list both halves and average them.

    >>> value, grad = kto_pair(beta=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]])
    >>> value, grad
    (array([0.5]), array([[-0.125,  0.125]]))
    """
    link = links.kto_pair(positive("beta", beta), yes_or_no("detach", detach))
    return term("kto_pair", log_ratio, link, beta=beta, detach=detach)


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
def simpo(beta: float = 2.0, gamma: float = 1.0, scale: str = "absolute", eps: float = 0.0) -> Loss:
    """L = -(1-ε) log σ(z) - ε log σ(-z),   ∂L/∂ℓ_w = -g/|y_w|,   ∂L/∂ℓ_l = +g/|y_l|,   g = β ((1-ε) σ(-z) - ε σ(z)),
    z = β (ℓ_w/|y_w| - ℓ_l/|y_l|) - γ

    Simple preference optimization: mean log-probs, no reference, a target margin γ. `scale="ratio"`: `gamma` is γ/β.

    Meng et al. 2024, arXiv:2405.14734, eq. 6: γ itself is subtracted, ε = 0.

    Elsewhere: the authors' code, HALOs, open-instruct and the RLHF book are told the ratio; TRL's CPOTrainer smooths by
    ε, Liger's module adds α NLL by default.

    >>> value, grad = simpo(beta=2.0, gamma=0.5)([[-4.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([0.974077]), array([[-0.31123 ,  0.207486]]))
    """
    link = margin(links.logistic, beta=positive("beta", beta), offset=_offset(beta, gamma, scale),
                  eps=within("eps", eps, 0, 0.5))
    return term("simpo", mean(log_prob), link, beta=beta, gamma=gamma, scale=scale, eps=eps)


@named
def alphapo(beta: float = 2.5, gamma: float = 0.1, alpha: float = 0.25, scale: str = "absolute",
            eps: float = 0.0) -> Loss:
    """L = -(1-ε) log σ(z) - ε log σ(-z),   ∂L/∂ℓ_w = -g p̄_w^-α/|y_w|,   ∂L/∂ℓ_l = +g p̄_l^-α/|y_l|,   g as in `simpo`,
    z = β (p̄_l^-α - p̄_w^-α)/α - γ,   p̄ = exp(ℓ/|y|)

    SimPO with the reward (1 - p̄^-α)/α in place of log p̄, its limit as α -> 0: `alphapo(alpha=0)` is `simpo`. Any
    finite α; unlikely responses count for more where it is positive.

    Gupta et al. 2025, arXiv:2501.03884; the defaults are those of its table 3 for Mistral. γ, `scale` and ε as in
    `simpo`.

    Elsewhere: TRL's CPOTrainer (`alpha` != 0) forms p̄ first, and so 0^-α where it underflows.

    >>> value, grad = alphapo(beta=2.0, gamma=0.0, alpha=1.0)([[-4.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([0.693147]), array([[-0.67957 ,  0.453047]]))
    """
    link = pair(links.powers, beta=positive("beta", beta), alphas=(finite("alpha", alpha),),
                offset=_offset(beta, gamma, scale), eps=within("eps", eps, 0, 0.5))
    return term("alphapo", mean(log_prob), link, beta=beta, gamma=gamma, alpha=alpha, scale=scale, eps=eps)


def _offset(beta: float, gamma: float, scale: str) -> float:
    ratio = one_of("scale", scale, "absolute", "ratio") == "ratio"
    return finite("gamma", gamma) * (float(beta) if ratio else 1.0)


@named
def cpo(beta: float = 0.1, alpha: float = 1.0, eps: float = 0.0, nll: str = "sum") -> Loss:
    """L = -(1-ε) log σ(z) - ε log σ(-z) + α NLL(y_w),   ∂L/∂ℓ = ∓β ((1-ε) σ(-z) - ε σ(z)) and that of α NLL,
    z = β (ℓ_w - ℓ_l)

    Contrastive preference optimization: DPO with a uniform reference, and the likelihood of the chosen response. `nll`:
    its `reduction` in `sft`.

    Xu et al. 2024, arXiv:2401.08417, eq. 5: the likelihood is of the whole response, α = 1, ε = 0. α >= 0.

    Elsewhere: the authors' code averages the likelihood per token, TRL over the tokens of the batch (`cpo_alpha`);
    Liger averaged log-probs until linkedin/Liger-Kernel#510.

    >>> value, grad = cpo(beta=1.0)([[-1.0, -1.0]])
    >>> value.round(6), grad
    (array([1.693147]), array([[-1.5,  0.5]]))
    """
    link = margin(links.logistic, beta=positive("beta", beta), eps=within("eps", eps, 0, 0.5))
    contrast = term("contrast", log_prob, link)
    return mixture("cpo", contrast + _scaled("alpha", alpha, "nll", nll), beta=beta, alpha=alpha, eps=eps, nll=nll)


@named
def orpo(lam: float = 0.1, nll: str = "mean", scope: str = "completion") -> Loss:
    """L = NLL(y_w) - λ log σ(z),   z = log odds_w - log odds_l,   odds = p̄/(1-p̄),   p̄ = exp(ℓ/|y|);
    ∂/∂ℓ_w of -log σ(z) is -σ(-z)/((1-p̄_w) |y_w|),   ∂/∂ℓ_l is +σ(-z)/((1-p̄_l) |y_l|)

    Odds ratio preference optimization. No reference. Log-probs reach 0, where odds are infinite: value and slopes are
    the limits, so that a chosen response that is certain has odds term 0 and a finite slope; where both are, z is 0.
    `nll`: the `reduction` in `sft`. `scope="prompt_and_completion"` takes the likelihood of the prompt too: it reads
    `full_logp`, log π(x, y), with the fact `full_length`.

    Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7. λ >= 0.

    Elsewhere: λ is called `beta` (TRL, Liger), `alpha`, `orpo_alpha`, `pref_beta`; the authors' code, TRL and axolotl
    take the NLL of prompt and completion; 1 - p̄ is computed in five ways, of which `log(1 - exp(x))` and clamps lose it
    near 1.

    >>> value, grad = orpo(lam=1.0)([[-4.0, -6.0]], length=[[4, 6]])
    >>> value.round(6), grad.round(6)
    (array([1.693147]), array([[-0.447747,  0.131831]]))
    """
    of_prompt = one_of("scope", scope, "completion", "prompt_and_completion") == "prompt_and_completion"
    odds = term("odds", mean(log_prob), pair(links.odds_ratio))
    likelihood = _nll("nll", nll, full=of_prompt)
    return mixture("orpo", likelihood + within("lam", lam, 0, math.inf) * odds, lam=lam, nll=nll, scope=scope)


@named
def slic(delta: float = 1.0, lam: float = 1.0, nll: str = "sum") -> Loss:
    """L = max(0, δ - ℓ_w + ℓ_l) + λ NLL(y_w),   ∂L/∂ℓ = ∓1 where ℓ_w - ℓ_l < δ, and that of λ NLL

    Sequence likelihood calibration from human feedback: a margin of δ nats between log-probs, without a reference.
    `nll`: the `reduction` in `sft`.

    Zhao et al. 2023, arXiv:2305.10425, eq. 4, which regularizes on the likelihood of the fine-tuning target; here that
    is the chosen response. δ >= 0, λ >= 0.

    Elsewhere: HALOs do so too; "hinge" or "slic" in TRL, Liger and torchtune is `hinge`, with a reference.

    >>> slic(delta=1.0, lam=0.5)([[-2.0, -2.5]])
    (array([1.5]), array([[-1.5,  1. ]]))
    """
    link = margin(links.hinge, beta=1.0, delta=within("delta", delta, 0, math.inf))
    rank = term("rank", log_prob, link)
    return mixture("slic", rank + _scaled("lam", lam, "nll", nll), delta=delta, lam=lam, nll=nll)


@named
def sft(reduction: str = "sum") -> Loss:
    """L = -ℓ_w,   ∂L/∂ℓ_w = -1: the negative log-likelihood of the chosen response, summed over its tokens

    For K = 1 that of the response itself, whatever its label. `reduction="mean"` divides by |y_w|: `sft_mean`;
    `"tokens"` by the batch's mean of |y_w|, so that the mean over rows is the batch's sum over the batch's count of
    tokens; that one depends on the batch.

    Elsewhere: TRL and Liger divide by the batch's count of tokens, LLaMA-Factory and OpenRLHF by each response's, NeMo
    by none.

    >>> sft()([[-2.1, -4.5]])
    (array([2.1]), array([[-1.,  0.]]))
    >>> sft("tokens")([[-2.0, -4.5], [-6.0, -5.0]], length=[[4, 9], [12, 9]])[0]
    array([0.25, 0.75])
    """
    return mixture("sft", _nll("reduction", reduction), reduction=reduction)


@named
def sft_mean() -> Loss:
    """L = -ℓ_w/|y_w|,   ∂L/∂ℓ_w = -1/|y_w|: the negative log-likelihood per token of each chosen response

    A mean of means. Elsewhere: TRL and Liger divide the batch's sum by the batch's count of tokens: `sft("tokens")`.

    >>> sft_mean()([[-2.0, -4.5]], length=[[4, 9]])
    (array([0.5]), array([[-0.25,  0.  ]]))
    """
    return mixture("sft_mean", _nll("reduction", "mean"))


def _nll(name: str, reduction: str, full: bool = False) -> Loss:
    """The likelihood of the chosen response, or of prompt and response."""
    one_of(name, reduction, "sum", "mean", "tokens")
    score, length = (full_log_prob, "full_length") if full else (log_prob, "length")
    if reduction == "tokens":
        return term("nll", score, links.batch_mean(length))
    return term("nll", mean(score, length) if reduction == "mean" else score, chosen(links.negative))


def _scaled(weight: str, value: float, name: str, reduction: str) -> Loss:
    return within(weight, value, 0, math.inf) * _nll(name, reduction)


# ---- mixtures

@named
def rpo(beta: float = 0.1, alpha: float = 1.0, nll: str = "mean") -> Loss:
    """L = -log σ(βh) + α NLL(y_w): `dpo(beta) + alpha * sft_mean()`

    Iterative reasoning preference optimization: DPO and the chosen response's likelihood, per token. `nll`: the
    `reduction` in `sft`. `rpo(alpha=0)` is `dpo`.

    Pang et al. 2024, arXiv:2404.19733, eq. 1 of its third version. α >= 0.

    Elsewhere: `rpo_alpha` in TRL <= 0.28, per token of the batch, and without the tokens whose id is 0; `pref_ftx` in
    LLaMA-Factory. "RPO" also names NVIDIA's reward-aware loss (`reward_rpo`) and the regularized preference
    optimization of Liu et al.

    >>> value, grad = rpo(beta=1.0, alpha=0.5)([[-2.0, -2.0]], [[-2.0, -2.0]], length=[[2, 3]])
    >>> value.round(6), grad
    (array([1.193147]), array([[-0.75,  0.5 ]]))
    """
    return mixture("rpo", dpo(beta) + _scaled("alpha", alpha, "nll", nll), beta=beta, alpha=alpha, nll=nll)


@named
def mpo(beta: float = 0.1, w_p: float = 0.8, w_q: float = 0.2, w_g: float = 1.0, nll: str = "mean") -> Loss:
    """L = w_p L_dpo + w_q L_bco + w_g NLL(y_w): `w_p * dpo(beta) + w_q * bco(beta) + w_g * sft_mean()`

    Mixed preference optimization: which response is better, how good each is, and how to write the better one. The
    shift δ of BCO is a fact, see `bco`. `nll`: the `reduction` in `sft`.

    Wang et al. 2024, arXiv:2411.10442, section 3; its δ is a moving average of earlier rewards. Weights >= 0.

    Elsewhere: `loss_type=["sigmoid", "bco_pair", "sft"]` with `loss_weights` in TRL.

    >>> value, grad = mpo(beta=1.0)([[-2.0, -2.0]], [[-2.0, -2.0]], length=[[2, 3]], delta=0.0)
    >>> value.round(6), grad
    (array([1.831777]), array([[-1. ,  0.5]]))
    """
    preference, quality = within("w_p", w_p, 0, math.inf) * dpo(beta), within("w_q", w_q, 0, math.inf) * bco(beta)
    mixed = preference + quality + _scaled("w_g", w_g, "nll", nll)
    return mixture("mpo", mixed, beta=beta, w_p=w_p, w_q=w_q, w_g=w_g, nll=nll)


# ---- unpaired

@named
def kto(beta: float = 0.1, lam_d: float = 1.0, lam_u: float = 1.0) -> Loss:
    """L = λ_D (1 - σ(β (r - z₀))) where desired,   λ_U (1 - σ(β (z₀ - r))) where not;   ∂L/∂r = ∓λβ σ(z) σ(-z)

    Kahneman-Tversky optimization of single responses, r the log-ratio: K = 1, `label` (B,) true where desired. The
    reference point z₀ is a fact, a number or one a row, in nats and >= 0; no gradient flows into it. Its usual estimate
    is max(0, mean log-ratio of mismatched prompt and response). At policy = reference and z₀ = 0 the loss is λ/2.

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8 (7 in the first version): λ_y - v is λ (1 - σ).

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


@named
def bco_unpaired(beta: float = 0.1) -> Loss:
    """L = -log σ(βr - δ) where desired,   -log σ(-(βr - δ)) where not;   ∂L/∂r = ∓β σ(∓(βr - δ))

    Binary classifier optimization of single responses, r the log-ratio: K = 1, `label` (B,) true where desired. The
    shift δ is a fact in units of reward; no gradient flows into it (`estimates.bco_shift`). The density ratios of the
    paper's first version, which weigh undesired examples by how like the desired prompts theirs are, are `weight`.

    Jung et al. 2024, arXiv:2404.04656.

    Elsewhere: TRL's BCOTrainer takes δ as a running mean over all rewards pooled, the current batch among them.

    >>> value, grad = bco_unpaired(beta=1.0)([[-1.0], [-1.0]], [[-1.0], [-1.0]], label=[True, False], delta=0.0)
    >>> value.round(6), grad.ravel()
    (array([0.693147, 0.693147]), array([-0.5,  0.5]))
    """
    return term("bco_unpaired", log_ratio, each(links.classify, "delta", beta=positive("beta", beta)), beta=beta)


@named
def apo_zero_unpaired(beta: float = 0.1, lam_d: float = 1.0, lam_u: float = 1.0) -> Loss:
    """L = λ_D (1 - σ(βr)) where desired,   λ_U σ(βr) where not;   ∂L/∂r = ∓λβ σ(βr) σ(-βr)

    Anchored preference optimization of single responses: `kto` at z₀ = 0.

    After D'Oosterlinck et al. 2024, arXiv:2408.06266. `label` and weights as in `kto`.

    Elsewhere: `apo_zero_unpaired` of TRL's KTOTrainer, where it comes from (huggingface/trl#1952), the same.

    >>> apo_zero_unpaired(beta=0.4)([[-1.0], [-1.0]], [[-1.0], [-1.0]], label=[True, False])
    (array([0.5, 0.5]), array([[-0.1], [ 0.1]]))
    """
    for name, lam in (("lam_d", lam_d), ("lam_u", lam_u)):
        within(name, lam, 0, math.inf)
    link = each(links.kto_at_zero, beta=positive("beta", beta), lam_d=lam_d, lam_u=lam_u)
    return term("apo_zero_unpaired", log_ratio, link, beta=beta, lam_d=lam_d, lam_u=lam_u)


# ---- rankings

@named
def pl_dpo(beta: float = 0.1) -> Loss:
    """L = Σₖ [log Σ_{j≥k} exp(βaⱼ) - βaₖ],   ∂L/∂aⱼ = β (Σ_{k≤j} pⱼ⁽ᵏ⁾ - 1),   p⁽ᵏ⁾ = softmax of βa from the kth on

    DPO on rankings of K responses, best first, a the log-ratios: each is chosen among those that are left, after
    Plackett and Luce. Shorter rankings: the fact `present` (B, K), true for a row's first responses; by default all.
    At K = 2 it is `dpo`. From full rankings of a Plackett-Luce annotator its optimum is π*.

    Rafailov et al. 2023, arXiv:2305.18290, appendix A.3, eq. 20.

    Elsewhere: hardly implemented; K-way losses elsewhere are one softmax (`infonca`).

    >>> value, grad = pl_dpo(beta=1.0)([[-1.0, -1.0, -1.0]], [[-1.0, -1.0, -1.0]])
    >>> value.round(6), grad.round(6)  # log 3! orders
    (array([1.791759]), array([[-0.666667, -0.166667,  0.833333]]))
    """
    return term("pl_dpo", log_ratio, ranking(links.plackett_luce, "present", beta=positive("beta", beta)), beta=beta)


@named
def infonca(beta: float = 0.01, alpha: float = 0.01) -> Loss:
    """L = -Σᵢ qᵢ log pᵢ,   ∂L/∂aᵢ = β (pᵢ - qᵢ),   p = softmax(βa), q = softmax(score/α) over the K responses

    InfoNCA: the implicit rewards of K responses are classified against a judge's `score` (B, K), told, of temperature
    α. With two responses and α -> 0 it is `dpo`.

    Chen et al. 2024, arXiv:2402.05369. α, β > 0.

    Elsewhere: the authors' code divides by its `temperature_alpha`, which a comment there calls 1/α.

    >>> value, grad = infonca(beta=1.0, alpha=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]], score=[[np.log(3.0), 0.0]])
    >>> value.round(6), grad
    (array([0.693147]), array([[-0.25,  0.25]]))
    """
    link = ranking(links.infonca, "score", beta=positive("beta", beta), alpha=positive("alpha", alpha))
    return term("infonca", log_ratio, link, beta=beta, alpha=alpha)


@named
def nca_listwise(beta: float = 0.01, alpha: float = 0.01) -> Loss:
    """L = -Σᵢ [qᵢ log σ(βaᵢ) + log σ(-βaᵢ)/K],   ∂L/∂aᵢ = β (σ(βaᵢ)/K - qᵢ σ(-βaᵢ)),   q = softmax(score/α)

    NCA of K responses: each is classified by itself against noise. With two responses and α -> 0 it is `nca`.

    Chen et al. 2024, arXiv:2402.05369. `score`, α and β as in `infonca`.

    >>> value, grad = nca_listwise(beta=1.0, alpha=1.0)([[-1.0, -1.0]], [[-1.0, -1.0]], score=[[np.log(3.0), 0.0]])
    >>> value.round(6), grad.round(6)
    (array([1.386294]), array([[-0.125,  0.125]]))
    """
    link = ranking(links.nca_listwise, "score", beta=positive("beta", beta), alpha=positive("alpha", alpha))
    return term("nca_listwise", log_ratio, link, beta=beta, alpha=alpha)


# ---- reward models: they read rewards

@named
def bt_rm(center: float = 0.0) -> Loss:
    """L = -log σ(r_w - r_l - m) + c (r_w + r_l)²,   ∂L/∂r = ∓σ(-z) + 2c (r_w + r_l), - for the chosen

    A reward model's likelihood of pairs, after Bradley and Terry. It reads `reward` (..., B, 2). The fact `margin` m, a
    number or one a row, is 0 where it is not told; c = `center` >= 0 holds the rewards' sum near 0, which the first
    term leaves free.

    Bradley & Terry 1952; Touvron et al. 2023 (Llama 2), arXiv:2307.09288, eq. 2 (margin); Eisenstein et al. 2023,
    arXiv:2312.09244, eq. 2 (centering).

    Elsewhere: `center_rewards_coefficient` in TRL's RewardTrainer; without margin in LLaMA-Factory, HALOs, NeMo.

    >>> bt_rm()([[0.0, 0.0]])
    (array([0.69314718]), array([[-0.5,  0.5]]))
    >>> bt_rm(center=0.5)([[1.0, 1.0]], margin=0.0)[1]
    array([[1.5, 2.5]])
    """
    compare = term("compare", reward, margin(links.shifted, "margin"))
    centered = term("center", reward, pair(links.square_sum))
    return mixture("bt_rm", compare + within("center", center, 0, math.inf) * centered, center=center)


@named
def pl_rm() -> Loss:
    """L = Σₖ [log Σ_{j≥k} exp rⱼ - rₖ],   ∂L/∂rⱼ = Σ_{k≤j} pⱼ⁽ᵏ⁾ - 1,   p⁽ᵏ⁾ = softmax of r from the kth on

    A reward model's likelihood of rankings, best first, after Plackett and Luce; reads `reward` (..., B, K). `present`
    as in `pl_dpo`; at K = 2 it is `bt_rm`.

    Luce 1959; Plackett 1975.

    >>> pl_rm()([[0.0, 0.0]])
    (array([0.69314718]), array([[-0.5,  0.5]]))
    """
    return term("pl_rm", reward, ranking(links.plackett_luce, "present", beta=1.0))


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


def between(name: str, value: float, low: float, high: float) -> float:
    if not low < finite(name, value) < high:
        raise ValueError(f"{name} is {value!r}; expected above {low:g} and below {high:g}")
    return float(value)


def share(name: str, value: float) -> float:
    if not 0 <= finite(name, value) <= 1:
        raise ValueError(f"{name} is {value!r}; expected a number from 0 to 1")
    return float(value)


def yes_or_no(name: str, value: bool) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def one_of(name: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")
    return value
