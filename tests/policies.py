"""Every policy at a small size, and comparisons for it that are told whatever a loss needs.

A line in `POLICIES` brings a new policy all of its tests. `Prefix` and `Plain` exist for tests only: they offer nothing
but `logits`, so everything else takes the generic path.
"""

from __future__ import annotations

import numpy as np
from strategies import FACTS, columns

import toy_models
from dpo_numpy.preferences import DERIVED, Preferences, pad
from toy_models import GPT, MLP, LogLinear, LoRA, NGram, Tabular


class Prefix:
    """logits_t = tanh(Σ_{u<=t} E[token_u] / (u+1)) @ U: every token before has a say, and none after"""

    vocab, eos, width = 4, 0, 3

    def init(self, rng):
        return {"E": rng.normal(size=(self.vocab, self.width)), "U": rng.normal(size=(self.width, self.vocab))}

    def logits(self, params, tokens):
        E, U = params["E"], params["U"]
        share = (1 / np.arange(1, tokens.shape[-1] + 1))[:, None].astype(E.real.dtype)
        h = np.tanh(np.cumsum(np.take(E, tokens, axis=-2) * share, axis=-2))  # (..., N, T, D)

        def pullback(dlogits):
            dU = np.einsum("...ntd,...ntv->...dv", h, dlogits)
            dsum = np.einsum("...ntv,...dv->...ntd", dlogits, U) * (1 - h * h)
            dtoken = np.cumsum(dsum[..., ::-1, :], axis=-2)[..., ::-1, :] * share
            dE = np.zeros(E.shape, dlogits.dtype)
            np.add.at(dE, (..., tokens, slice(None)), dtoken)
            return {"E": dE, "U": dU}

        return h @ U[..., None, :, :], pullback


class Plain:
    """Another policy, of which only `logits` is left."""

    def __init__(self, policy):
        self.policy, self.vocab, self.eos, self.init, self.logits = (
            policy, policy.vocab, policy.eos, policy.init, policy.logits)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def adapted(policy, **options):
    """Adapters over a policy at parameters that are nowhere 0"""
    return LoRA(policy, params_of(policy, np.random.default_rng(1)), **options)


CORPUS = pad([([0], [1, 2, 0]), ([0], [2, 2, 1, 0]), ([3, 0], [1, 2, 3, 0])])

POLICIES = {
    "tabular": lambda: Tabular(vocab=4, prompts=3),
    "linear": lambda: LogLinear(numbers(3, 4, 2), numbers(3, 4, seed=1)),
    "unigram": lambda: NGram(vocab=3, order=1),
    "bigram": lambda: NGram(vocab=4),
    "trigram": lambda: NGram(vocab=3, order=3),
    "seen": lambda: NGram.seen(4, 3, CORPUS),
    "plain": lambda: Plain(NGram(vocab=3, order=3)),
    "mlp": lambda: MLP(vocab=3, order=3, width=2, hidden=3),
    "gpt": lambda: GPT(vocab=4, context=16, width=4, heads=2, depth=2, hidden=3),
    "gpt_layer_norm": lambda: GPT(vocab=3, context=16, width=3, heads=1, depth=1, norm="layer", tied=False),
    "lora": lambda: adapted(GPT(vocab=3, context=16, width=4, heads=2, depth=1), rank=2, alpha=3.0, targets=["0.qkv"]),
    "lora_counts": lambda: adapted(NGram(vocab=3, order=3), rank=1),
    "prefix": Prefix,
}
#: whose logits hold products of matrices, and of what these made
DEEP = {"gpt", "gpt_layer_norm", "lora"}


def rows(rng, policy, n):
    """n prompts and responses of many lengths, none twice"""
    found = {}
    while len(found) < n:
        if policy.eos is None:
            pair = (int(rng.integers(policy.prompts)),), (int(rng.integers(policy.vocab)),)
        else:
            prompt, response = (rng.integers(policy.vocab, size=rng.integers(low, 5)) for low in (1, 0))
            pair = tuple(prompt.tolist()), (*response.tolist(), policy.eos)
        found[pair] = None
    return list(found)


def params_of(policy, rng, magnitude=1.0, dtype=np.float64):
    return {name: (magnitude * rng.normal(size=p.shape)).astype(dtype) for name, p in policy.init(rng).items()}


def batch_for(policy, params, loss, rng, n=8, size=6):
    """Comparisons of n responses with unequal weights, told whatever `loss` needs; the reference is elsewhere"""
    responses = pad(rows(rng, policy, n))
    index = np.array([rng.permutation(n)[:columns(loss)] for _ in range(size)])
    batch = Preferences(responses, index, rng.random(size) + 0.25)
    dtype = next(iter(params.values())).dtype
    reference = {name: p + rng.normal(size=p.shape).astype(p.dtype) / 2 for name, p in params.items()}
    batch = batch.with_reference(policy, reference, *{"logp": None} | dict.fromkeys(loss.reads))
    made = [name for name in loss.needs if name in FACTS and name not in DERIVED]
    return batch.with_facts(**{name: FACTS[name](rng, index.shape, dtype) for name in made})


def unlisted():
    """Policies of `toy_models` that no line above has"""
    listed = {type(make()).__name__ for make in POLICIES.values()}
    every = [name for name in toy_models.__all__ if hasattr(getattr(toy_models, name), "logits")]
    return sorted(set(every) - listed)
