"""Numbers to test with: by Hypothesis for laws, by a generator for the oracle. One line a fact or a hyper-parameter."""

from __future__ import annotations

import inspect

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpo_numpy.losses import LOSSES

#: hyper-parameter -> (low, high), or its choices
HYPER = {
    "alpha": (0.01, 2.0),
    "beta": (0.01, 10.0),
    "eps": (0.0, 0.49),
    "gamma": (0.0, 3.0),
    "lam": (0.0, 100.0),
    "lam_d": (0.0, 3.0),
    "lam_u": (0.0, 3.0),
    "reduction": ("sum", "mean"),
    "tau": (0.01, 2.0),
}

#: fact -> (rng, (B, K), dtype) -> array
FACTS = {
    "label": lambda rng, shape, dtype: rng.random(shape[:1]) < 0.5,
    "length": lambda rng, shape, dtype: np.floor(10 ** rng.uniform(0, 5, shape)).astype(int),
    "z0": lambda rng, shape, dtype: (rng.random(shape[:1]) * 10 ** rng.uniform(-3, 3)).astype(dtype),
}


def columns(loss):
    """The K that a loss takes; 2 where it takes any"""
    return next((term.link.columns for term in loss.terms if term.link.columns), 2)


def names(factory):
    """The hyper-parameters of a factory"""
    unknown = [name for name in inspect.signature(factory).parameters if name not in HYPER]
    assert not unknown, f"give the hyper-parameter {unknown[0]} a line in tests/strategies.py: HYPER"
    return list(inspect.signature(factory).parameters)


# ---- by a generator

def draw_hyper(rng, factory):
    def one(name):
        low, high = HYPER[name]
        if isinstance(low, str):
            return str(rng.choice(HYPER[name]))
        return float(low + (high - low) * rng.random() if low == 0 else low * (high / low) ** rng.random())

    return {name: one(name) for name in names(factory)}


def ordinary(rng, shape):
    logp = -(10 ** rng.uniform(-1, 2.5, (shape[0], 1))) * rng.uniform(0.5, 1.5, shape)
    return logp, np.minimum(logp + rng.normal(size=shape) * 10 ** rng.uniform(-3, 1.5, (shape[0], 1)), -1e-3)


def unmoved(rng, shape):
    """policy = reference"""
    logp, _ = ordinary(rng, shape)
    return logp, logp


def far(rng, shape):
    """margins from -1e4 to 1e4"""
    logp, ref = ordinary(rng, shape)
    gap = 10 ** rng.uniform(0, 4, shape[:1])
    at = (np.arange(shape[0]), rng.integers(shape[1], size=shape[0]))
    (logp if rng.random() < 0.5 else ref)[at] -= gap
    return logp, ref


def extreme(rng, shape):
    """from -1e5 to the smallest numbers, 0 among them"""
    def some():
        x = -(10 ** rng.uniform(-300, 5, shape))
        y = np.where(rng.random(shape) < 0.2, 0, -(10 ** rng.uniform(-9, 5, shape)))
        return np.where(rng.random(shape) < 0.3, x, y)

    return some(), some()


def tied(rng, shape):
    """few distinct numbers"""
    levels = ordinary(rng, (2, 1))[0][:, 0]
    return rng.choice(levels, shape), rng.choice(levels, shape)


REGIMES = {regime.__name__: regime for regime in (ordinary, unmoved, far, extreme, tied)}


def draw(rng, loss, size, dtype, regime="ordinary"):
    """Readings and facts, as a loss of `size` comparisons takes them"""
    shape = (size, columns(loss))
    logp, ref_logp = (x.astype(dtype) for x in REGIMES[regime](rng, shape))
    read = {"logp": logp, "kl": (rng.random(shape) * 10 ** rng.uniform(-12, 3, shape)).astype(dtype)}
    if regime in ("unmoved", "tied"):
        read["kl"] = np.zeros(shape, dtype)
    unknown = [name for name in loss.needs if name not in {*FACTS, "ref_logp"}]
    assert not unknown, f"give the fact {unknown[0]} a line in tests/strategies.py: FACTS"
    facts = {name: ref_logp if name == "ref_logp" else FACTS[name](rng, shape, dtype) for name in loss.needs}
    return {name: read[name] for name in loss.reads}, facts


# ---- by Hypothesis

def log_probs(*shape, low=-1e3):
    """no smaller than 1e-3 away from 0, so that differences of two stay clear of underflow"""
    return hnp.arrays(np.float64, shape, elements=st.floats(low, -1e-3))


losses = st.sampled_from(sorted(LOSSES))
seeds = st.integers(0, 2**32 - 1)
