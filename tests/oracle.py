"""The losses once more: the papers' formulas as they are printed, naively, in mpmath. Shares nothing with the package.

A line of `ORACLE` takes the numbers of one comparison to its loss (a line marked `coupled`, those of a batch to all of
theirs); `SURROGATES` are losses of tokens. Derivatives come from dual numbers, number by number through the same
formula; `stop` is a stopped gradient. The precision starts at 400 digits and grows by half until two agree to 25. (At
50 digits log(1 + e⁻ᶻ) is 0 beyond z = 115, at 100 digits beyond 230: two that agree may both be wrong. What 400 lose
next to 1 is smaller than any float64.)

    value, grad = exact("dpo", {"beta": 0.1}, rows)     # rows: [{"logp": (w, l), "ref_logp": (w, l), ...}, ...]

A log-prob of exactly 0 has infinite odds: the limit is meant, and 0 stands for -2^-(10^400) there (`nearly`). Answers
are numbers of any size; it is for the caller to round them to infinity.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import mpmath
import numpy as np
from mpmath import mp, mpf

AGREE = mpf(10) ** -25
READINGS = ("logp", "full_logp", "token_logp", "token_entropy", "token_value", "kl", "reward")
#: facts that count as exact, or as true and false
EXACT = ("length", "full_length", "label", "mask", "present", "keep")


class Dual:
    """x + Σ dᵢ εᵢ with εᵢ εⱼ = 0: a number and its derivative in each input."""

    def __init__(self, x, d=None):
        self.x, self.d = x, d or {}

    def chain(self, x, slope):
        return Dual(x, {i: slope * d for i, d in self.d.items()})

    def __add__(self, other):
        other = dual(other)
        return Dual(self.x + other.x, merged(self.d, other.d))

    def __mul__(self, other):
        other = dual(other)
        return Dual(self.x * other.x, merged({i: d * other.x for i, d in self.d.items()},
                                             {i: self.x * d for i, d in other.d.items()}))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self.chain(-self.x, -1)

    def __sub__(self, other):
        return self + -dual(other)

    def __rsub__(self, other):
        return dual(other) + -self

    def __truediv__(self, other):
        other = dual(other)
        return self * (other.chain(1 / other.x, -1 / other.x**2) if other.d else Dual(1 / other.x))

    def __rtruediv__(self, other):
        return dual(other) / self


def merged(one, other):
    """The sum of two derivatives; what is missing is 0"""
    if not one or not other:
        return one or other
    return {**one, **{i: one[i] + d if i in one else d for i, d in other.items()}}


def dual(x):
    return x if isinstance(x, Dual) else Dual(mpf(x))  # 1/3 of an int is a float


# ---- the functions that formulas are made of

# Half of all the time would go into these two: where one input moves, the terms of all the others are asked for again.
@lru_cache(1 << 14)
def _exp(x, prec):
    return mpmath.exp(x)


@lru_cache(1 << 14)
def _log(x, prec):
    return mpmath.log(x)


def exp(x):
    e = _exp(x.x, mp.prec)
    return x.chain(e, e)


def log(x):
    return x.chain(_log(x.x, mp.prec), 1 / x.x)


def positive_part(x):
    """max(0, x), flat at the kink"""
    return x if x.x > 0 else Dual(mpf(0))


def stop(x):
    return Dual(x.x)


def sigma(z):
    return 1 / (1 + exp(-z))


def ratio(r, k):
    return r.logp[k] - r.ref_logp[k]


def mean_logp(r, k):
    return r.logp[k] / r.length[k]


def h(r):
    return ratio(r, 0) - ratio(r, 1)


def coupled(formula):
    formula.coupled = True
    return formula


def square(x):
    return x * x


def total(x):
    return sum(x, Dual(mpf(0)))


def ls(z):
    return log(sigma(z))


def _smooth(z, eps):
    return -(1 - eps) * ls(z) - eps * ls(-z)


@coupled
def _aot(batch, beta, eps):
    u = [r.logp[0] - r.logp[1] for r in batch]
    v = [r.ref_logp[0] - r.ref_logp[1] for r in batch]
    return _ranked(u, v, beta, eps)


@coupled
def _aot_unpaired(batch, beta, eps):
    return _ranked([ratio(r, 0) for r in batch], [ratio(r, 1) for r in batch], beta, eps)


def _ranked(u, v, beta, eps):
    by_u, by_v = (sorted(range(len(u)), key=lambda b: m[b].x) for m in (u, v))
    return [_smooth(beta * (u[b] - v[by_v[by_u.index(b)]]), eps) for b in range(len(u))]


def _ipo(r, tau, reduction):
    by = (1, 1) if reduction == "sum" else r.length
    return square(ratio(r, 0) / by[0] - ratio(r, 1) / by[1] - 1 / (2 * tau))


def _kl(p, not_p, q, not_q):
    """of two coins; 1 - p is handed over, as 1 - (1 - 1e-100000) would take 100,000 digits"""
    return p * log(p / q) + not_p * log(not_p / not_q)


def _sppo(r, beta, labels):
    won = (1, 0) if labels == "hard" else r.win_rate
    return square(ratio(r, 0) - (won[0] - mpf(1) / 2) / beta) + square(ratio(r, 1) - (won[1] - mpf(1) / 2) / beta)


def _discopop(r, beta, tau):
    x = beta * h(r)
    m = sigma(x / tau)
    return (1 - m) * -ls(x) + m * exp(-x)


def _f_dpo(r, beta, slope_of_f):
    return -ls(beta * (slope_of_f(exp(ratio(r, 0))) - slope_of_f(exp(ratio(r, 1)))))


def _f_dpo_alpha(r, beta, alpha, convention):
    alpha = alpha if convention == "paper" else 1 - alpha
    return _f_dpo(r, beta, lambda u: (1 - exp(-alpha * log(u))) / alpha)


def _dpop(r, beta, lam, penalty):
    drop = positive_part(-ratio(r, 0))
    return -ls(beta * (h(r) - lam * drop)) if penalty == "inside" else -ls(beta * h(r)) + lam * drop


def _ld_dpo(r, beta, alpha, reference):
    shared = min(sum(map(bool, mask)) for mask in r.mask)

    def weighted(token_logp, k):
        counted = [x for x, here in zip(token_logp[k], r.mask[k], strict=True) if here]
        return total(counted[:shared]) + alpha * total(counted[shared:])

    ours = [weighted(r.token_logp, k) for k in (0, 1)]
    theirs = r.ref_logp if reference == "full" else [weighted(r.ref_token_logp, k) for k in (0, 1)]
    return -ls(beta * ((ours[0] - theirs[0]) - (ours[1] - theirs[1])))


def _wpo(r, beta, clamp):
    weight = r.w[0] * r.w[1]
    return (Dual(mpf(1)) if clamp and weight.x > 1 else weight) * -ls(beta * h(r))


def _reward_rpo(r, beta, eta, distance):
    z, t = beta * h(r), eta * (r.reward[0] - r.reward[1])
    theirs, ours = (sigma(t), sigma(-t)), (sigma(z), sigma(-z))
    if distance == "squared":
        return square(z - t)
    return _kl(*theirs, *ours) if distance == "kl" else _kl(*ours, *theirs)


@coupled
def _beta_dpo(batch, beta, alpha, floor):
    kept = [stop(h(r)) for r in batch if r.keep]
    mean = total(kept) / max(len(kept), 1)
    rate = [beta * (1 + alpha * (mean - stop(r.m0))) for r in batch]
    rate = [x if x.x > floor else Dual(floor) for x in rate]
    return [-ls(x * h(r)) if r.keep else Dual(mpf(0)) for x, r in zip(rate, batch, strict=True)]


def _odpo(r, beta, alpha, f):
    gap = r.score[0] - r.score[1]
    return -ls(beta * h(r) - alpha * (log(gap) if f == "log" else gap))


@coupled
def _kto_pair(batch, beta, detach):
    kl = [positive_part(total(ratio(r, k) for r in batch) / len(batch)) for k in (0, 1)]
    kl = [stop(x) for x in kl] if detach else kl
    return [(1 - sigma(beta * (ratio(r, 0) - kl[1])) + 1 - sigma(beta * (kl[0] - ratio(r, 1)))) / 2 for r in batch]


def _simpo(r, beta, gamma, scale, eps, reward=lambda x: x):
    gamma = gamma * beta if scale == "ratio" else gamma
    return _smooth(beta * (reward(mean_logp(r, 0)) - reward(mean_logp(r, 1))) - gamma, eps)


def _alphapo(r, beta, gamma, alpha, scale, eps):
    return _simpo(r, beta, gamma, scale, eps, lambda x: (1 - exp(-alpha * x)) / alpha)


def _nll(batch, reduction, logp="logp", length="length"):
    """One a row."""
    if reduction == "sum":
        return [-getattr(r, logp)[0] for r in batch]
    lengths = [getattr(r, length)[0] for r in batch]
    by = lengths if reduction == "mean" else [total(lengths) / len(batch)] * len(batch)
    return [-getattr(r, logp)[0] / n for r, n in zip(batch, by, strict=True)]


def with_nll(formula):
    """formula + a multiple of the likelihood of the chosen"""
    @coupled
    def batched(batch, nll, scope="completion", **hyper):
        full = () if scope == "completion" else ("full_logp", "full_length")
        return [formula(r, x, **hyper) for r, x in zip(batch, _nll(batch, nll, *full), strict=True)]

    return batched


def nearly(x):
    return x if x.x else x - mp.ldexp(1, -10**400)


def one_minus_exp(x):
    return x.chain(-mpmath.expm1(x.x), -mpmath.exp(x.x))


def log_odds(x):
    return x - log(one_minus_exp(x))


def _orpo(r, nll, lam):
    odds = [log_odds(nearly(mean_logp(r, k))) for k in (0, 1)]
    return nll - lam * ls(odds[0] - odds[1])


def _kto(r, beta, lam_d, lam_u, z0=None):
    z0 = r.z0 if z0 is None else z0
    if r.label:
        return lam_d * (1 - sigma(beta * (ratio(r, 0) - z0)))
    return lam_u * (1 - sigma(beta * (z0 - ratio(r, 0))))


def _luce(scores, present):
    left = [x for x, here in zip(scores, present, strict=True) if here]
    return total(log(total(exp(x - left[k]) for x in left[k:])) for k in range(len(left) - 1))


def softmax(x):
    normalizer = total(exp(each) for each in x)
    return [exp(each) / normalizer for each in x]


def ratios(r, beta):
    return [beta * ratio(r, k) for k in range(len(r.logp))]


def targets(r, alpha):
    return softmax([x / alpha for x in r.score])


def _bt_rm(r, center):
    return -ls(r.reward[0] - r.reward[1] - r.margin) + center * square(r.reward[0] + r.reward[1])


ORACLE = {
    "dpo": lambda r, beta: -ls(beta * h(r)),
    "cdpo": lambda r, beta, eps: _smooth(beta * h(r), eps),
    "rdpo": lambda r, beta, eps: (-(1 - eps) * ls(beta * h(r)) + eps * ls(-beta * h(r))) / (1 - 2 * eps),
    "hinge": lambda r, beta: positive_part(1 - beta * h(r)),
    "ipo": _ipo,
    "exo": lambda r, beta, eps: _kl(sigma(beta * h(r)), sigma(-beta * h(r)), 1 - eps, eps),
    "nca": lambda r, beta: -ls(beta * ratio(r, 0)) - ls(-beta * ratio(r, 0)) / 2 - ls(-beta * ratio(r, 1)) / 2,
    "bco": lambda r, beta: -ls(beta * ratio(r, 0) - r.delta) - ls(-(beta * ratio(r, 1) - r.delta)),
    "sppo": _sppo,
    "apo_zero": lambda r, beta, plus_one: -sigma(beta * ratio(r, 0)) + sigma(beta * ratio(r, 1)) + plus_one,
    "apo_down": lambda r, beta, plus_one: sigma(beta * ratio(r, 0)) - sigma(beta * h(r)) + plus_one,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "discopop": _discopop,
    "f_dpo_forward_kl": lambda r, beta: _f_dpo(r, beta, lambda u: -1 / u),
    "f_dpo_js": lambda r, beta: _f_dpo(r, beta, lambda u: log(2 * u / (1 + u))),
    "f_dpo_alpha": _f_dpo_alpha,
    "f_dpo_chi2": lambda r, beta, mixed: _f_dpo(r, beta, (lambda u: u + log(u)) if mixed else (lambda u: u)),
    "dpop": _dpop,
    "ld_dpo": _ld_dpo,
    "ln_dpo": lambda r, beta: -ls(beta * (ratio(r, 0) / r.length[0] - ratio(r, 1) / r.length[1])),
    "r_dpo": lambda r, beta, alpha: -ls(beta * h(r) + alpha * (r.length[0] - r.length[1])),
    "wpo": _wpo,
    "rpo": with_nll(lambda r, nll, beta, alpha: -ls(beta * h(r)) + alpha * nll),
    "mpo": with_nll(lambda r, nll, beta, w_p, w_q, w_g: (w_p * -ls(beta * h(r)) + w_q * ORACLE["bco"](r, beta)
                                                         + w_g * nll)),
    "reward_rpo": _reward_rpo,
    "tdpo1": lambda r, beta: -ls(beta * (h(r) - (r.kl[1] - r.kl[0]))),
    "tdpo2": lambda r, beta, alpha: -ls(beta * (h(r) - alpha * (r.kl[1] - stop(r.kl[0])))),
    "cal_dpo": lambda r, beta, lam: -ls(h(r)) + lam * (square(ratio(r, 0) - 1 / (2 * beta))
                                                       + square(ratio(r, 1) + 1 / (2 * beta))),
    "beta_dpo": _beta_dpo,
    "odpo": _odpo,
    "kto_pair": _kto_pair,
    "simpo": _simpo,
    "alphapo": _alphapo,
    "cpo": with_nll(lambda r, nll, beta, alpha, eps: _smooth(beta * (r.logp[0] - r.logp[1]), eps) + alpha * nll),
    "orpo": with_nll(_orpo),
    "slic": with_nll(lambda r, nll, delta, lam: positive_part(delta - r.logp[0] + r.logp[1]) + lam * nll),
    "sft": coupled(lambda batch, reduction: _nll(batch, reduction)),
    "sft_mean": lambda r: -mean_logp(r, 0),
    "kto": _kto,
    "bco_unpaired": lambda r, beta: -ls((beta * ratio(r, 0) - r.delta) * (1 if r.label else -1)),
    "apo_zero_unpaired": lambda r, beta, lam_d, lam_u: _kto(r, beta, lam_d, lam_u, z0=0),
    "pl_dpo": lambda r, beta: _luce(ratios(r, beta), r.present),
    "infonca": lambda r, beta, alpha: -total(
        q * log(p) for q, p in zip(targets(r, alpha), softmax(ratios(r, beta)), strict=True)),
    "nca_listwise": lambda r, beta, alpha: -total(
        q * ls(u) + ls(-u) / len(r.logp) for q, u in zip(targets(r, alpha), ratios(r, beta), strict=True)),
    "bt_rm": _bt_rm,
    "pl_rm": lambda r: _luce(r.reward, r.present),
}


# ---- losses of tokens: rows of K responses

def clip(x, low, high):
    return Dual(mpf(low)) if x.x < low else Dual(mpf(high)) if x.x > high else x


def _rho(r, k, t):
    return exp(r.token_logp[k][t] - r.old_token_logp[k][t])


def _advantage(r, k, t):
    """one a response, or one a token"""
    return r.advantage[k][t] if isinstance(r.advantage[k], list) else r.advantage[k]


def _surrogate(rho, advantage, low, high):
    plain, held = rho * advantage, clip(rho, 1 - low, 1 + high) * advantage
    return held if held.x < plain.x else plain


def _ppo(r, k, t, eps, dual=0):
    gain = _surrogate(_rho(r, k, t), _advantage(r, k, t), eps, eps)
    floor = dual * _advantage(r, k, t)
    return -(floor if dual and _advantage(r, k, t).x < 0 and floor.x > gain.x else gain)


def _gspo(r, k, t, eps_low, eps_high):
    on = [u for u, here in enumerate(r.mask[k]) if here]
    s = exp(total(r.token_logp[k][u] - r.old_token_logp[k][u] for u in on) / len(on))
    return -_surrogate(s, _advantage(r, k, t), eps_low, eps_high)


def _kl_estimate(r, k, t, estimator):
    d = r.token_logp[k][t] - r.ref_token_logp[k][t]
    return {"k1": d, "k2": d * d / 2, "k3": exp(-d) - 1 + d}[estimator]


def _grpo(r, k, t, eps, eps_high, beta, estimator="k3"):
    gain = _surrogate(_rho(r, k, t), _advantage(r, k, t), eps, eps_high)
    return -gain + (beta * _kl_estimate(r, k, t, estimator) if beta else 0)


def _value_clip(r, k, t, eps):
    v, old, target = r.token_value[k][t], r.old_token_value[k][t], r.token_return[k][t]
    plain, held = square(v - target), square(old + clip(v - old, -eps, eps) - target)
    return (held if held.x > plain.x else plain) / 2


def of_tokens(formula, reduction=None):
    """A formula of each token, reduced as the hyper-parameter says, or always in one way"""
    @coupled
    def batched(batch, **hyper):
        kind = reduction or hyper.pop("reduction")
        length = hyper.pop("max_length", None)
        rows = [[[formula(r, k, t, **hyper) for t, here in enumerate(mask) if here] for k, mask in enumerate(r.mask)]
                for r in batch]
        if kind == "tokens":
            count = sum(len(response) for row in rows for response in row)
            return [total(total(response) for response in row) * len(batch) / max(count, 1) for row in rows]
        by = {"sequence_mean": lambda n: max(n, 1), "sequence_sum": lambda n: 1, "fixed": lambda n: length}[kind]
        return [total(total(response) / by(len(response)) for response in row) / len(row) for row in rows]

    return batched


SURROGATES = {
    "reinforce": of_tokens(lambda r, k, t: -_advantage(r, k, t) * r.token_logp[k][t]),
    "ppo_clip": of_tokens(_ppo),
    "grpo": of_tokens(_grpo),
    "dr_grpo": of_tokens(_ppo, "fixed"),
    "bnpo": of_tokens(lambda r, k, t, eps, beta: _grpo(r, k, t, eps, eps, beta), "tokens"),
    "dapo": of_tokens(lambda r, k, t, eps_low, eps_high: _grpo(r, k, t, eps_low, eps_high, 0), "tokens"),
    "gspo": of_tokens(_gspo, "sequence_mean"),
    "cispo": of_tokens(lambda r, k, t, eps_low, eps_high: -stop(clip(_rho(r, k, t), 1 - eps_low, 1 + eps_high))
                       * _advantage(r, k, t) * r.token_logp[k][t], "tokens"),
    "kl": of_tokens(_kl_estimate),
    "value_clip": of_tokens(_value_clip),
    "entropy_bonus": of_tokens(lambda r, k, t, coefficient: -coefficient * r.token_entropy[k][t]),
}
FORMULAS = ORACLE | SURROGATES


# ---- exact answers

def exact(name, hyper, rows):
    """[value of each row], {(row, reading, column): derivative of the sum of values}"""
    return _settled(name, hyper, rows)[1:]


def _settled(name, hyper, rows):
    """The digits that suffice, value, grad"""
    digits, last = 400, _at(400, name, hyper, rows)
    while digits < 12800:
        more = digits * 3 // 2
        now = _at(more, name, hyper, rows)
        if last and now and all(abs(a - b) <= AGREE * abs(b) for a, b in zip(last[2], now[2], strict=True)):
            return digits, *now[:2]
        digits, last = more, now
    raise AssertionError(f"{name}{hyper} does not settle at {rows}")


def moves(name, hyper, rows):
    """Σ over the inputs of how far each answer moves when that input moves by one ulp of its dtype: shaped like `exact`

    The larger of up and down: there may be a kink within an ulp. Lengths, labels and hyper-parameters count as exact.
    """
    digits, value, grad = _settled(name, hyper, rows)
    dvalue, dgrad = [mpf(0)] * len(value), dict.fromkeys(grad, mpf(0))
    coupled = hasattr(FORMULAS[name], "coupled")
    for b, row in enumerate(rows):
        for key, entry in row.items():
            if key in EXACT:
                continue
            for k in np.ndindex(np.shape(entry)):
                x = np.array(entry, object)[k]
                most_value, most_grad = [mpf(0)] * len(value), dict.fromkeys(grad, mpf(0))
                for sign in (-1,) if key.endswith("logp") and not x else (-1, 1):  # no log-prob is above 0
                    nudged = np.array(entry, object)
                    with mp.workdps(50):
                        nudged[k] = number(x) + sign * number(np.spacing(abs(x)))
                    changed = {**row, key: nudged.tolist()}
                    at = [*rows[:b], changed, *rows[b + 1:]] if coupled else [changed]
                    shift = 0 if coupled else b
                    v, g, _ = _at(digits, name, hyper, at)
                    for i, new in enumerate(v):
                        most_value[i + shift] = max(most_value[i + shift], abs(new - value[i + shift]))
                    for (i, *rest), new in g.items():
                        where = (i + shift, *rest)
                        most_grad[where] = max(most_grad[where], abs(new - grad[where]))
                dvalue = [a + b for a, b in zip(dvalue, most_value, strict=True)]
                dgrad = {i: a + most_grad[i] for i, a in dgrad.items()}
    return dvalue, dgrad


def _at(digits, name, hyper, rows):
    """Values, gradient, all of them in a list; None where so few digits end in log 0 or 1 / 0"""
    formula = FORMULAS[name]
    with mp.workdps(digits):
        known = {key: x if isinstance(x, (str, bool)) else number(x) for key, x in hyper.items()}
        batch = [SimpleNamespace(**{key: _said(b, key, entry) for key, entry in row.items()})
                 for b, row in enumerate(rows)]
        inputs = [(b, key, *k) for b, row in enumerate(rows) for key, entry in row.items() if key in READINGS
                  and key not in TOLD.get(name, ()) for k in np.ndindex(np.shape(entry))]
        try:
            values = formula(batch, **known) if hasattr(formula, "coupled") else [formula(r, **known) for r in batch]
        except (ZeroDivisionError, ValueError):
            return None
        total = sum(values, start=Dual(mpf(0)))
        grad = {i: mpf(total.d.get(i, 0)) for i in inputs}
        value = [mpf(v.x) for v in values]
        return value, grad, [*value, *grad.values()]


#: what one loss reads and another is told
TOLD = {"reward_rpo": ("reward",)}


def _said(b, key, entry, *k):
    """A fact or a reading as nested lists of Duals; booleans stay what they are."""
    if np.ndim(entry):
        return [_said(b, key, x, *k, i) for i, x in enumerate(entry)]
    if key in EXACT and key not in ("length", "full_length"):
        return bool(entry)
    return Dual(number(entry), {(b, key, *k): 1} if key in READINGS else None)


def number(x):
    """The exact binary value of a float of any width, or of an integer."""
    if isinstance(x, mpf):
        return x
    return _quotient(*((int(x), 1) if isinstance(x, (np.integer, np.bool_)) else x.as_integer_ratio()))


@lru_cache(1 << 12)
def _quotient(top, bottom):
    with mp.workdps(50):  # more than the 64 bits of a longdouble
        return mpf(top) / bottom
