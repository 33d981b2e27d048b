"""The losses once more: the papers' formulas as they are printed, naively, in mpmath. Shares nothing with the package.

A line of `ORACLE` takes the numbers of one comparison to its loss (a line marked `coupled`, those of a batch to all of
theirs). Derivatives come from dual numbers, number by number through the same formula; `stop` is a stopped gradient.
The precision starts at 400 digits and doubles until two agree to 25. (At 50 digits log(1 + e⁻ᶻ) is 0 beyond z = 115, at
100 digits beyond 230: two that agree may both be wrong. What 400 lose next to 1 is smaller than any float64.)

    value, grad = exact("dpo", {"beta": 0.1}, rows)     # rows: [{"logp": (w, l), "ref_logp": (w, l), ...}, ...]
"""

from __future__ import annotations

from types import SimpleNamespace

import mpmath
import numpy as np
from mpmath import mp, mpf

AGREE = mpf(10) ** -25
READINGS = ("logp", "token_logp", "kl", "entropy")


class Dual:
    """x + Σ dᵢ εᵢ with εᵢ εⱼ = 0: a number and its derivative in each input."""

    def __init__(self, x, d=None):
        self.x, self.d = x, d or {}

    def chain(self, x, slope):
        return Dual(x, {i: slope * di for i, di in self.d.items()})

    def __add__(self, other):
        other = dual(other)
        return Dual(self.x + other.x, {i: self.d.get(i, 0) + other.d.get(i, 0) for i in {**self.d, **other.d}})

    def __mul__(self, other):
        other = dual(other)
        return Dual(self.x * other.x,
                    {i: self.d.get(i, 0) * other.x + self.x * other.d.get(i, 0) for i in {**self.d, **other.d}})

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self.chain(-self.x, -1)

    def __sub__(self, other):
        return self + -dual(other)

    def __rsub__(self, other):
        return dual(other) + -self

    def __truediv__(self, other):
        other = dual(other)
        return self * other.chain(1 / other.x, -1 / other.x**2)

    def __rtruediv__(self, other):
        return dual(other) / self


def dual(x):
    return x if isinstance(x, Dual) else Dual(x)


# ---- the functions that formulas are made of

def exp(x):
    e = mpmath.exp(x.x)
    return x.chain(e, e)


def log(x):
    return x.chain(mpmath.log(x.x), 1 / x.x)


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


@coupled
def _aot(batch, beta, eps):
    u = [r.logp[0] - r.logp[1] for r in batch]
    v = [r.ref_logp[0] - r.ref_logp[1] for r in batch]
    by_u, by_v = (sorted(range(len(batch)), key=lambda b: m[b].x) for m in (u, v))
    return [_smooth(beta * (u[b] - v[by_v[by_u.index(b)]]), eps) for b in range(len(batch))]


def _smooth(z, eps):
    return -(1 - eps) * log(sigma(z)) - eps * log(sigma(-z))


def _ipo(r, tau, reduction):
    by = (1, 1) if reduction == "sum" else r.length
    return square(ratio(r, 0) / by[0] - ratio(r, 1) / by[1] - 1 / (2 * tau))


def square(x):
    return x * x


def _kto(r, beta, lam_d, lam_u):
    if r.label:
        return lam_d * (1 - sigma(beta * (ratio(r, 0) - r.z0)))
    return lam_u * (1 - sigma(beta * (r.z0 - ratio(r, 0))))


ORACLE = {
    "dpo": lambda r, beta: -log(sigma(beta * h(r))),
    "cdpo": lambda r, beta, eps: _smooth(beta * h(r), eps),
    "ipo": _ipo,
    "hinge": lambda r, beta: positive_part(1 - beta * h(r)),
    "dpop": lambda r, beta, lam: -log(sigma(beta * (h(r) - lam * positive_part(-ratio(r, 0))))),
    "aot": _aot,
    "tdpo1": lambda r, beta: -log(sigma(beta * (h(r) - (r.kl[1] - r.kl[0])))),
    "tdpo2": lambda r, beta, alpha: -log(sigma(beta * (h(r) - alpha * (r.kl[1] - stop(r.kl[0]))))),
    "simpo": lambda r, beta, gamma: -log(sigma(beta * (mean_logp(r, 0) - mean_logp(r, 1)) - gamma)),
    "sft": lambda r: -r.logp[0],
    "sft_mean": lambda r: -mean_logp(r, 0),
    "rpo": lambda r, beta, alpha: -log(sigma(beta * h(r))) - alpha * mean_logp(r, 0),
    "kto": _kto,
}


# ---- exact answers

def exact(name, hyper, rows):
    """[value of each row], {(row, reading, column): derivative of the sum of values}"""
    return _settled(name, hyper, rows)[1:]


def _settled(name, hyper, rows):
    """The digits that suffice, value, grad"""
    digits, last = 400, _at(400, name, hyper, rows)
    while digits < 12800:
        now = _at(2 * digits, name, hyper, rows)
        if all(abs(a - b) <= AGREE * abs(b) for a, b in zip(last[2], now[2], strict=True)):
            return digits, *now[:2]
        digits, last = 2 * digits, now
    raise AssertionError(f"{name}{hyper} does not settle at {rows}")


def moves(name, hyper, rows):
    """Σ over the inputs of how far each answer moves when that input moves by one ulp of its dtype: shaped like `exact`

    The larger of up and down: there may be a kink within an ulp. Lengths, labels and hyper-parameters count as exact.
    """
    digits, value, grad = _settled(name, hyper, rows)
    dvalue, dgrad = [mpf(0)] * len(value), dict.fromkeys(grad, mpf(0))
    coupled = hasattr(ORACLE[name], "coupled")
    for b, row in enumerate(rows):
        for key, entry in row.items():
            if key in ("length", "label"):
                continue
            for k, x in enumerate(np.atleast_1d(entry)):
                most_value, most_grad = [mpf(0)] * len(value), dict.fromkeys(grad, mpf(0))
                for sign in (-1, 1):
                    with mp.workdps(50):
                        moved = number(x) + sign * number(np.spacing(abs(x)))
                    nudged = {**row, key: [*entry[:k], moved, *entry[k + 1:]] if np.ndim(entry) else moved}
                    at = [*rows[:b], nudged, *rows[b + 1:]] if coupled else [nudged]
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
    formula = ORACLE[name]
    with mp.workdps(digits):
        known = {key: x if isinstance(x, str) else number(x) for key, x in hyper.items()}
        inputs, batch = [], []
        for b, row in enumerate(rows):
            said = {}
            for key, entry in row.items():
                if key in READINGS:
                    inputs += [(b, key, k) for k in range(len(entry))]
                    said[key] = [Dual(number(x), {(b, key, k): 1}) for k, x in enumerate(entry)]
                else:
                    said[key] = [Dual(number(x)) for x in entry] if np.ndim(entry) else Dual(number(entry))
            said["label"] = bool(row.get("label"))
            batch.append(SimpleNamespace(**said))
        values = formula(batch, **known) if hasattr(formula, "coupled") else [formula(r, **known) for r in batch]
        total = sum(values, start=Dual(mpf(0)))
        grad = {i: mpf(total.d.get(i, 0)) for i in inputs}
        value = [v.x for v in values]
        return value, grad, [*value, *grad.values()]


def number(x):
    """The exact binary value of a float of any width, or of an integer."""
    if isinstance(x, mpf):
        return x
    top, bottom = (int(x), 1) if isinstance(x, (np.integer, np.bool_)) else x.as_integer_ratio()
    with mp.workdps(50):  # more than the 64 bits of a longdouble
        return mpf(top) / bottom

