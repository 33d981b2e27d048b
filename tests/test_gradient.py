"""The chain rule, end to end: every policy x every loss, against differences, complex steps and itself taken another way."""

import functools
import re
import tracemalloc

import numpy as np
import pytest
from policies import CORPUS, POLICIES, Plain, Prefix, batch_for, params_of, rows, unlisted
from strategies import draw_hyper

import dpo_numpy as dn
from dpo_numpy import gradient
from dpo_numpy.check import check_gradient, complex_step, finite_difference
from dpo_numpy.gradient import AXIS, compare, read, value_and_grad
from dpo_numpy.preferences import Preferences, pad
from dpo_numpy.readings import READINGS
from toy_models import NGram, Tabular

EPS = np.finfo(np.float64).eps
LOSSES = sorted(dn.LOSSES)

# What a loss holds still, put in place of what would move: x the readings now, at those the gradient is taken at.
STOPPED = {
    "tdpo2": lambda x, at: {**x, "kl": np.concatenate([at["kl"][..., :1], x["kl"][..., 1:]], axis=-1)},
}


class Frozen:
    """A loss whose stopped facts stay what they are at `at`, so that its value differentiates to its gradient"""

    def __init__(self, name, loss, at):
        self.stop, self.loss, self.at = STOPPED.get(name, lambda x, at: x), loss, at
        self.name, self.reads, self.needs = loss.name, loss.reads, loss.needs

    def __call__(self, x, **facts):
        return self.loss(self.stop(x, self.at), **facts)


def compared(policy, params, batch, loss):
    """Readings in comparisons (B, K), and the way back, step by step"""
    index = batch.index
    present = np.unique(index[index >= 0])
    where = np.where(index < 0, -1, np.searchsorted(present, index))
    values, to_params = read(policy, params, batch.responses, present, loss.reads)
    return values, {name: compare(x, where, AXIS.get(name, -1)) for name, x in values.items()}, to_params


def rounding(policy, params, batch, loss, direction):
    """How far <grad, direction> moves when each number that is rounded on the way moves by its eps

    Two kinds: entries of d reading/d params, and the readings themselves, which bend the loss's slope. In longdouble.
    """
    wide = {name: p.astype(np.longdouble) for name, p in params.items()}
    values, pairs, to_params = compared(policy, wide, batch, loss)
    facts = {name: fact for name in loss.needs if (fact := batch.fact(name)) is not None}

    def slopes(values):
        x = {name: compare(values[name], *where)[0] for name, where in at.items()}
        return {name: pairs[name][1](g) for name, g in loss(x, weight=batch.weight, **facts)[1].items()}

    index = batch.index
    present = np.unique(index[index >= 0])
    at = {name: (np.where(index < 0, -1, np.searchsorted(present, index)), AXIS.get(name, -1)) for name in values}
    along = {name: np.zeros(x.shape, np.longdouble) for name, x in values.items()}
    summed = {name: np.zeros(x.shape, np.longdouble) for name, x in values.items()}
    for name, x in values.items():
        for i in np.ndindex(x.shape):
            one = {other: np.zeros(y.shape, np.longdouble) for other, y in values.items()}
            one[name][i] = 1
            terms = [g * direction[p] for p, g in to_params(one).items()]
            along[name][i] = sum(term.sum() for term in terms)
            summed[name][i] = sum(abs(term).sum() for term in terms)
    base = slopes(values)
    first = sum((abs(base[name]) * summed[name]).sum() for name in values)
    second = 0
    for name, x in values.items():
        for i in np.ndindex(x.shape):
            nudged = {**values, name: x.copy()}
            nudged[name][i] *= 1 + 1e-6
            moved = slopes(nudged)
            second += abs(sum(((moved[k] - base[k]) * along[k]).sum() for k in values)) / 1e-6
    eps = np.finfo(next(iter(params.values())).dtype).eps
    return float(eps * (first + second))


def case(policy, name, rng, dtype, magnitude):
    """A loss, parameters and a batch at random"""
    loss = dn.LOSSES[name](**draw_hyper(rng, dn.LOSSES[name]))
    params = params_of(policy, rng, magnitude, dtype)
    return loss, params, batch_for(policy, params, loss, rng)


# ---- against differences and complex steps

def test_every_policy_has_its_line():
    assert unlisted() == [], "give these policies a line in tests/policies.py: POLICIES"


# Measured over 40 seeds: at most 1.6 units for tables and n-grams, 2.3 for `prefix`, whose logits are rounded sums too.
UNITS = 4


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_meets_the_value(policy, name, rng):
    policy = POLICIES[policy]()
    for dtype, magnitude in ((np.float64, 0.3), (np.float64, 3.0), (np.float32, 1.0)):
        loss, params, batch = case(policy, name, rng, dtype, magnitude)
        value, grad = value_and_grad(policy, params, batch, loss)
        assert {g.dtype for g in grad.values()} == {np.dtype(dtype)}
        assert {k: g.shape for k, g in grad.items()} == {k: p.shape for k, p in params.items()}
        at = {k: x for k, (x, _) in compared(policy, params, batch, loss)[1].items()}
        frozen = Frozen(name, loss, at)

        def f(p, batch=batch, frozen=frozen):
            return value_and_grad(policy, p, batch, frozen)[0]

        assert f(params) == value
        state = rng.bit_generator.state
        directions = {k: rng.normal(size=p.shape) for k, p in params.items()}  # those that check_gradient draws next
        unit = rounding(policy, params, batch, loss, directions)
        rng.bit_generator.state = state
        check = check_gradient(f, params, grad, rng, complex_step)
        # the complex step is float64 itself, and rounds as the gradient does
        assert abs(check.claimed - check.measured) <= 2 * UNITS * unit, (dtype, magnitude, check)
        rng.bit_generator.state = state
        check = check_gradient(f, params, grad, rng, finite_difference)
        # a difference in longdouble keeps 12 of its 19 digits; nothing beside float32's 7
        noise = 1e-12 * sum(abs(g * directions[k]).sum() for k, g in grad.items()) + 1e-13 * abs(value)
        assert abs(check.claimed - check.measured) <= UNITS * unit + noise, (dtype, magnitude, check)
