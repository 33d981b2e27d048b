"""What `train FILE` trains: an n-gram or a table made for its rows, its reference, and both kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data import Bytes, Row, Tokenizer, Words, to_preferences
from ..numerics import log_softmax
from ..policy import Params, sample
from ..preferences import Preferences, Responses
from .exact import Exact
from .options import Options

__all__ = ["Model", "Problem", "Trained", "Whole", "load_trained", "ngram", "save_trained", "table"]

Array = NDArray[Any]

CELLS = 1 << 24  # entries of a table of parameters: of 8 such arrays a step, 1 GB
DRAWN = 1024  # samples, where sums over all strings cannot be solved for


@dataclass(frozen=True, kw_only=True)
class Model:
    """A policy and its reference, which it begins as, and what can be said of all that it says."""

    policy: Any
    reference: Params
    unit: str  # what lengths count
    draw: Callable[[Params, int, np.random.Generator], list[str]]
    whole: Callable[[Params], Whole]
    meta: Mapping[str, Any]  # with `arrays`: all it takes to build the policy again
    arrays: Mapping[str, Array]
    exact: Exact | None = None  # where the reward is known


@dataclass(frozen=True, kw_only=True)
class Problem(Model):
    """With comparisons to learn from; `held` is None where nothing is held out."""

    train: Preferences
    held: Preferences | None
    length: Callable[[Preferences], Array]  # (B, K)


class Whole(NamedTuple):
    """Of the whole policy, not of the data: KL(π || π_ref) and E|y|, standard errors (0: exact), the sample's size."""

    kl: float
    kl_error: float
    length: float
    length_error: float
    samples: int | None


# ---- n-grams

def ngram(train_rows: Sequence[Row], held_rows: Sequence[Row], options: Options) -> Problem:
    """The reference is fitted to the responses of the training part; only contexts that occur there have a row."""
    from toy_models import NGram

    texts = (text for row in train_rows for text in row.responses)
    tokenizer: Tokenizer = Bytes() if options.tokenizer == "bytes" else Words.fit(texts, options.vocab_limit)
    train = to_preferences(_forgotten(train_rows), tokenizer, options.dtype)
    policy = NGram.seen(tokenizer.vocab, options.order, train.responses)
    if policy.rows * policy.vocab > CELLS:
        raise ValueError(
            f"order is {options.order}: {policy.rows:,} contexts x {policy.vocab:,} outcomes need over a gigabyte; "
            f"expected a lower order" + (" or vocab_limit" if options.tokenizer == "words" else "")
        )
    fitted = policy.fit(train.responses, _answers(train_rows, train, options), options.smoothing)
    reference = {name: value.astype(options.dtype) for name, value in fitted.items()}
    held = to_preferences(_forgotten(held_rows), tokenizer, options.dtype) if held_rows else None
    meta = {"model": "ngram", "order": options.order, "vocab": tokenizer.vocab, "tokenizer": options.tokenizer}
    if isinstance(tokenizer, Words):
        meta["pieces"] = tokenizer.pieces

    def draw(params: Params, n: int, rng: np.random.Generator) -> list[str]:
        drawn = sample(policy, params, [[0]] * n, rng, options.max_new_tokens)
        return [tokenizer.decode(ids[mask].tolist()) for ids, mask in zip(drawn.tokens, drawn.mask, strict=True)]

    return Problem(
        policy=policy,
        reference=reference,
        train=train,
        held=held,
        unit="bytes" if options.tokenizer == "bytes" else "words",
        length=tokens,
        draw=draw,
        whole=whole_of(policy, reference, options),
        meta=meta,
        arrays={f"contexts/{m}": keys for m, keys in enumerate(policy.contexts or ())},
    )


def whole_of(policy: Any, reference: Params, options: Options) -> Callable[[Params], Whole]:
    """Of an n-gram: summed over all strings, or else the mean of samples"""
    following = policy.following()

    def whole(params: Params) -> Whole:
        found = _solved(policy, following, params, reference)
        if found is None:
            rng = np.random.default_rng([options.seed, 3])
            found = _sampled(policy, params, reference, rng, DRAWN, options.max_new_tokens)
        return found

    return whole


def _forgotten(rows: Sequence[Row]) -> list[Row]:
    """Without their prompts: the boundary before a response hides them from an n-gram, and some are long."""
    return [row._replace(prompt="") for row in rows]


def _answers(rows: Sequence[Row], train: Preferences, options: Options) -> Array:
    """To how many prompts each response is an answer, (N,): of all answers, or of the chosen and desired ones only."""
    wanted = {(row.prompt, int(i)) for row, index in zip(rows, train.index, strict=True) for k, i in enumerate(index)
              if options.reference_data == "all" or (k == 0 and row.label is not False)}
    if not wanted:
        raise ValueError("reference_data is chosen, but no completion of the training part is labelled true")
    return np.bincount([i for _, i in wanted], minlength=len(train.responses)).astype(float)


def tokens(pairs: Preferences) -> Array:
    return np.asarray(pairs.fact("length"), float)


def _divergence(params: Params, reference: Params) -> tuple[Array, Array]:
    """(p, KL(p || q)) of the next token, a row for each context."""
    from analytic import optimum

    p, q = (np.exp(log_softmax(np.asarray(table["W"], float))) for table in (params, reference))
    return p, optimum.kl(p, q)


def _solved(policy: Any, following: Array, params: Params, reference: Params) -> Whole | None:
    """KL = Σ N KL(p || q),  E|y| = Σ N, the end included, of the visits N of each context; None where these are not
    found: a policy that never ends, or hardly ever
    """
    from analytic import ngram

    p, kl = _divergence(params, reference)
    try:
        visits = ngram.visits(p, following=following, start=policy.start)
    except (ValueError, ArithmeticError):
        return None
    return Whole(float(visits @ kl), 0.0, float(visits.sum()), 0.0, None)


def _sampled(policy: Any, params: Params, reference: Params, rng: np.random.Generator, n: int, longest: int) -> Whole:
    """Means over samples of the sum of KL(p || q) over the contexts that each visits: less noisy than its log-ratio"""
    _, kl = _divergence(params, reference)
    drawn = sample(policy, params, [[0]] * n, rng, longest)
    along, _ = policy.logits({"W": kl[:, None]}, drawn.tokens)
    each = np.where(drawn.mask[:, 1:], along[:, :-1, 0], 0).sum(axis=1)
    size = drawn.length.astype(float)
    return Whole(float(each.mean()), _error(each), float(size.mean()), _error(size), n)


def _error(x: Array) -> float:
    return float(x.std(ddof=1) / np.sqrt(len(x)))


# ---- tables

def table(rows: Sequence[Row], options: Options) -> Problem:
    """A prompt's distinct responses are the actions of one row of logits; the reference is their smoothed frequency."""
    from toy_models import Tabular

    if rows[0].label is not None:
        raise ValueError(
            "a table compares the responses of one prompt, and the file holds labelled completions: use --model ngram"
        )
    actions: dict[str, dict[str, int]] = {}
    for row in rows:
        for text in row.responses:
            own = actions.setdefault(row.prompt, {})
            own.setdefault(text, len(own))
    width = max(len(own) for own in actions.values())
    policy = Tabular(vocab=width, prompts=len(actions))
    x = {prompt: i for i, prompt in enumerate(actions)}
    start = np.cumsum([0] + [len(own) for own in actions.values()])
    tokens = np.array([(x[prompt], y) for prompt, own in actions.items() for y in own.values()])
    index = np.array([[start[x[row.prompt]] + actions[row.prompt][text] for text in row.responses] for row in rows])
    weight = np.array([row.weight for row in rows])
    facts = {name: np.array([row.facts[name] for row in rows], options.dtype)
             for name in sorted(set.intersection(*(set(row.facts) for row in rows)))}
    responses = Responses(tokens, np.tile([False, True], (len(tokens), 1)))
    train = Preferences(responses, index, (weight / weight.sum()).astype(options.dtype), facts)
    count = np.full((len(actions), width), -np.inf)
    count[tokens[:, 0], tokens[:, 1]] = options.smoothing + (
        1 if options.reference_data == "all" else np.bincount(index[:, 0], minlength=len(tokens))
    )
    with np.errstate(divide="ignore"):
        W = np.log(np.maximum(count, 0))
    reference = {"W": log_softmax(W).astype(options.dtype)}
    texts, prompts = [list(own) for own in actions.values()], list(actions)
    characters = np.array([len(text) for own in texts for text in own], float)
    share = np.bincount(tokens[index[:, 0], 0], np.asarray(train.weight, float), len(actions))

    def draw(params: Params, n: int, rng: np.random.Generator) -> list[str]:
        asked = np.sort(rng.permutation(len(prompts))[:n]).tolist()
        drawn = sample(policy, params, [[i] for i in asked], rng, 1)
        return [texts[i][y] for i, y in zip(asked, drawn.tokens[:, 1].tolist(), strict=True)]

    def whole(params: Params) -> Whole:
        p, q = (np.exp(log_softmax(np.asarray(given["W"], float))) for given in (params, reference))
        log_ratio = np.log(p, out=np.zeros_like(p), where=p > 0) - np.log(q, out=np.zeros_like(q), where=q > 0)
        size = np.zeros(p.shape)
        size[tokens[:, 0], tokens[:, 1]] = characters
        return Whole(float(share @ (p * log_ratio).sum(axis=1)), 0.0, float(share @ (p * size).sum(axis=1)), 0.0, None)

    meta = {"model": "tabular", "vocab": width, "prompts": prompts, "responses": texts}
    return Problem(policy=policy, reference=reference, train=train, held=None, unit="characters",
                   length=lambda pairs: characters[pairs.index], draw=draw, whole=whole, meta=meta, arrays={})


# ---- on disk

class Trained(NamedTuple):
    """params.npz, rebuilt. A table has no tokenizer: `meta` holds its prompts and responses."""

    policy: Any
    params: Params
    reference: Params
    tokenizer: Tokenizer | None
    meta: dict[str, Any]


def save_trained(file: IO[bytes], model: Model, params: Params, critic: Params) -> None:
    arrays: dict[str, Any] = {f"policy/{name}": value for name, value in params.items()}
    arrays |= {f"reference/{name}": value for name, value in model.reference.items()}
    arrays |= {f"critic/{name}": value for name, value in critic.items()}
    np.savez(file, **arrays | {"meta": np.array(json.dumps(model.meta)), **model.arrays})


def load_trained(path: str | Path) -> Trained:
    """The policy, its parameters, its reference's and the tokenizer, from the params.npz of a run."""
    from toy_models import NGram, Tabular

    with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    meta: dict[str, Any] = json.loads(str(arrays.pop("meta")))
    params, reference = ({name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}
                         for kind in ("policy/", "reference/"))
    if meta["model"] == "tabular":
        return Trained(Tabular(meta["vocab"], len(meta["prompts"])), params, reference, None, meta)
    if "world" in meta:
        return Trained(NGram(meta["vocab"], meta["order"]), params, reference, None, meta)
    tokenizer = Bytes() if meta["tokenizer"] == "bytes" else Words(tuple(meta["pieces"]))
    contexts = tuple(arrays[f"contexts/{m}"] for m in range(meta["order"]))
    return Trained(NGram(meta["vocab"], meta["order"], contexts), params, reference, tokenizer, meta)
