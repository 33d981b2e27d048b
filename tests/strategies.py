"""Numbers to test with: by Hypothesis for laws, by a generator for the oracle. One line a fact or a hyper-parameter."""

from __future__ import annotations

import inspect

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpo_numpy.losses import LOSSES

#: hyper-parameter -> (low, high), or its choices; where a loss has a domain of its own, under both names
HYPER = {
    "alpha": (0.01, 2.0),
    "beta": (0.01, 10.0),
    "center": (0.0, 2.0),
    "clamp": (False, True),
    "coefficient": (0.0, 2.0),
    "convention": ("paper", "order"),
    "delta": (0.0, 5.0),
    "detach": (False, True),
    "distance": ("kl", "reverse_kl", "squared"),
    "dual": (1.1, 4.0),
    "eps": (0.0, 0.49),
    "eps_high": (1e-4, 1.0),
    "eps_low": (1e-4, 0.9),
    "estimator": ("k1", "k2", "k3"),
    "eta": (0.01, 10.0),
    "f": ("log", "identity"),
    "floor": (0.0, 0.1),
    "gamma": (0.0, 3.0),
    "labels": ("hard", "soft"),
    "lam": (0.0, 100.0),
    "lam_d": (0.0, 3.0),
    "lam_u": (0.0, 3.0),
    "max_length": (1.0, 1e4),
    "mixed": (False, True),
    "nll": ("sum", "mean", "tokens"),
    "penalty": ("inside", "outside"),
    "plus_one": (False, True),
    "reduction": ("sum", "mean"),
    "reference": ("weighted", "full"),
    "scale": ("absolute", "ratio"),
    "scope": ("completion", "prompt_and_completion"),
    "tau": (0.01, 2.0),
    "w_g": (0.0, 2.0),
    "w_p": (0.0, 2.0),
    "w_q": (0.0, 2.0),
    **{(name, "reduction"): ("sequence_mean", "sequence_sum", "tokens")
       for name in ("reinforce", "ppo_clip", "grpo", "kl", "value_clip", "entropy_bonus")},
    ("alphapo", "alpha"): (-2.0, 2.0),
    ("cispo", "eps_low"): (0.5, 2.0),
    ("discopop", "tau"): (0.01, 1.0),  # beyond, e⁻ˣ wins and the loss leaves the range of floats
    ("exo", "eps"): (0.001, 0.49),
    ("f_dpo_alpha", "alpha"): (-2.0, 2.0),
    ("ld_dpo", "alpha"): (0.0, 1.0),
    ("r_dpo", "alpha"): (-2.0, 2.0),
    ("sft", "reduction"): ("sum", "mean", "tokens"),
}


def domain(factory, name):
    return HYPER[factory.__name__, name] if (factory.__name__, name) in HYPER else HYPER[name]


def spread(rng, shape):
    """of either sign, a tenth of them 0"""
    return rng.normal(size=shape) * 10 ** rng.uniform(-3, 1) * (rng.random(shape) < 0.9)


def prefix(rng, shape):
    """true on the first few"""
    return np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, shape[:-1])[..., None]


#: fact -> (rng, (B, K), dtype) -> array
FACTS = {
    "delta": lambda rng, shape, dtype: spread(rng, shape[:1]).astype(dtype),
    "full_length": lambda rng, shape, dtype: np.floor(10 ** rng.uniform(0, 5, shape)).astype(int),
    "keep": lambda rng, shape, dtype: rng.random(shape[:1]) < 0.8,
    "label": lambda rng, shape, dtype: rng.random(shape[:1]) < 0.5,
    "length": lambda rng, shape, dtype: np.floor(10 ** rng.uniform(0, 5, shape)).astype(int),
    "m0": lambda rng, shape, dtype: spread(rng, ()).astype(dtype),
    "margin": lambda rng, shape, dtype: spread(rng, shape[:1]).astype(dtype),
    "present": lambda rng, shape, dtype: prefix(rng, shape),
    "reward": lambda rng, shape, dtype: spread(rng, shape).astype(dtype),
    "score": lambda rng, shape, dtype: (np.cumsum(rng.random(shape[::-1]) + 0.01, axis=0).T[:, ::-1]
                                        * 10 ** rng.uniform(-1, 1)).astype(dtype),  # the first is the best
    "w": lambda rng, shape, dtype: np.exp(rng.normal(size=shape)).astype(dtype),
    "win_rate": lambda rng, shape, dtype: rng.random(shape).astype(dtype),
    "z0": lambda rng, shape, dtype: (rng.random(shape[:1]) * 10 ** rng.uniform(-3, 3)).astype(dtype),
}
TOKENS = 6


def columns(loss):
    """The K that a loss takes; where it takes any, 2, and 4 for a ranking"""
    fixed = [term.link.columns for term in loss.terms if term.link.columns]
    return fixed[0] if fixed else 4 if any("ranking" in term.link.fn.__qualname__ for term in loss.terms) else 2


def names(factory):
    """The hyper-parameters of a factory"""
    unknown = [name for name in inspect.signature(factory).parameters if name not in HYPER]
    assert not unknown, f"give the hyper-parameter {unknown[0]} a line in tests/strategies.py: HYPER"
    return list(inspect.signature(factory).parameters)


# ---- by a generator

def draw_hyper(rng, factory):
    def one(name):
        low, *_, high = choices = domain(factory, name)
        if isinstance(low, (str, bool)):
            return choices[rng.integers(len(choices))]
        return float(low + (high - low) * rng.random() if low <= 0 else low * (high / low) ** rng.random())

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
    unknown = [name for name in loss.needs if name not in {*FACTS, "ref_logp", "ref_token_logp", "mask"}]
    assert not unknown, f"give the fact {unknown[0]} a line in tests/strategies.py: FACTS"
    shape = (size, columns(loss))
    facts = {name: FACTS[name](rng, shape, dtype) for name in loss.needs if name in FACTS}
    of_tokens = "token_logp" in loss.reads
    logp, ref_logp = REGIMES[regime](rng, (size, shape[1] * TOKENS) if of_tokens else shape)
    if loss.name.startswith(("f_dpo", "alphapo")):
        logp, ref_logp = within_reach(logp, ref_logp, facts)
    if dtype == np.float32:  # numbers that 1e5 tokens could not share without leaving the normal ones
        logp, ref_logp = (np.where(abs(x) < 1e-32, 0, x) for x in (logp, ref_logp))
    logp, ref_logp = logp.astype(dtype), ref_logp.astype(dtype)
    read = {"logp": logp, "full_logp": 2 * logp, "reward": logp - ref_logp,
            "kl": (rng.random(shape) * 10 ** rng.uniform(-12, 3, shape)).astype(dtype)}
    if regime in ("unmoved", "tied"):
        read["kl"] = np.zeros(shape, dtype)
    facts["ref_logp"] = ref_logp
    if of_tokens:
        mask = facts["mask"] = np.zeros((*shape, TOKENS), bool)
        mask[..., 1:] = prefix(rng, (*shape, TOKENS - 1))
        read["token_logp"], facts["ref_token_logp"] = (x.reshape(mask.shape) * mask for x in (logp, ref_logp))
        facts["ref_logp"] = facts["ref_token_logp"].sum(axis=-1)
    return {name: read[name] for name in loss.reads}, {name: facts[name] for name in loss.needs}


#: how the log-ratios of tokens lie
RATIOS = {
    "ordinary": lambda rng, shape: 0.3 * rng.normal(size=shape),
    "on_policy": lambda rng, shape: np.zeros(shape),
    "far": lambda rng, shape: rng.choice([-1, 1], shape) * 10 ** rng.uniform(0, 1.9, shape),  # e⁸⁰ is a float32 too
}


def draw_tokens(rng, loss, dtype, regime="ordinary", shape=(2, 3, 5)):
    """Readings and facts of (B, K, T), as a loss of tokens takes them: gaps, responses without a token, equal rewards

    Log-probs are multiples of 2⁻¹², so that their differences are exact: an error is the loss's own.
    """
    def grid(x):
        return np.round(x * 2.0**12) / 2.0**12

    mask = prefix(rng, shape) & (rng.random(shape) < 0.8)
    from_old, from_ref = (grid(RATIOS[regime](rng, shape)) for _ in range(2))
    logp = grid(-(10 ** rng.uniform(-2, 1, shape))) + np.minimum(0, np.minimum(from_old, from_ref))
    old_value, error = rng.normal(size=(2, *shape))
    per_token = rng.random() < 0.5
    told = {
        "mask": mask, "token_logp": logp, "old_token_logp": logp - from_old, "ref_token_logp": logp - from_ref,
        "advantage": spread(rng, shape if per_token else shape[:2]), "token_entropy": rng.random(shape),
        "old_token_value": grid(old_value), "token_return": grid(old_value + error),
        "token_value": grid(old_value + RATIOS[regime](rng, shape)),
    }
    told = {name: x if name == "mask" else (x * mask if x.ndim == 3 else x).astype(dtype) for name, x in told.items()}
    return {name: told[name] for name in loss.reads}, {name: told[name] for name in loss.needs}


def within_reach(logp, ref_logp, facts):
    """For losses of e^-αx, |α| <= 2: a little beyond the largest float, where the answer is infinite, and no further"""
    if "length" in facts:
        return np.maximum(logp, -400.0 * facts["length"]), ref_logp
    return logp, np.clip(ref_logp, logp - 400, logp + 400)


# ---- by Hypothesis

def log_probs(*shape, low=-1e3):
    """no smaller than 1e-3 away from 0, so that differences of two stay clear of underflow"""
    return hnp.arrays(np.float64, shape, elements=st.floats(low, -1e-3))


losses = st.sampled_from(sorted(LOSSES))
seeds = st.integers(0, 2**32 - 1)
