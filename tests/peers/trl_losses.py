"""TRL's preference losses against ours: value and autograd gradient, on random and on edge inputs.

    PYTHONPATH=. .venv-peers/trl-1.16/bin/python tests/peers/trl_losses.py --json trl-1.16.json

A peer is the library itself: its trainer is made without running `__init__`, given the attributes that `__init__` would
have set (from its own, real, config), and asked for its own loss on a model that answers with numbers of ours. Those
numbers are leaves of autograd: the log-probs of sequences or of tokens, logits, or rewards. No line of TRL is repeated
here. What runs is every option that the installed version has; `ROWS` says which are for which.

An error is |theirs - ours|, ours in float64 on the very numbers they got, in units of rounding:

    value     eps (1 + |L| + Σ |∂L/∂x| |x|)             x: every log-prob (or reward) told, policy's and reference's
    gradient  eps max|∂L/∂leaf| (1 + max over rows of Σ |x|)

so that 1 is what rounding each input once may do. `TOLERANCE` leaves room for the roundings in between. Where the
right answer is beyond their largest number, infinity of its sign is right.

A row agrees, or differs by NAME: then it must agree with the row's second expression instead, which is the claim about
what TRL computes there (or raise what the row says). Exit code 1 if a row that should agree does not, if a named
disagreement is not the one described, or if it has vanished.

`make peers` runs it; pytest does not, since it needs PyTorch, which nothing else here does.
"""

# ruff: noqa: E402  (the environment is set before what reads it)

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", TRANSFORMERS_VERBOSITY="error",
                  CUDA_VISIBLE_DEVICES="")
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
import trl
from accelerate import Accelerator

import dpo_numpy as dn

TOLERANCE = 2.0
NEW = not trl.__version__.startswith("0.28")
FOLDER = os.path.join(tempfile.gettempdir(), "peers")  # configs must name one; nothing is written


# ---- inputs

class Case(NamedTuple):
    """2B rows, the chosen above the rejected: prompt, response, padding."""

    name: str
    tokens: Any
    mask: Any
    logits: Any  # (2B, T, V); None: token_logp says all
    ref_logits: Any
    token_logp: Any = None
    ref_token_logp: Any = None


def case(name: str, seed: int, B: int = 5, longest: int = 7, scale: float = 1.5) -> Case:
    """Random numbers, the same in float32 and float64. The first pair is of scale 1.5 always, others up to `scale`."""
    rng, V = np.random.default_rng(seed), 11
    prompt = np.tile(rng.integers(1, 4, B), 2)
    length = rng.integers(1, longest + 1, 2 * B)
    at = np.arange((prompt + length).max())
    mask = (at >= prompt[:, None]) & (at < (prompt + length)[:, None])
    tokens = rng.integers(1, V, mask.shape)
    tokens[B:] = np.where(at < prompt[B:, None], tokens[:B], tokens[B:])
    tokens = np.where(at < (prompt + length)[:, None], tokens, 0)
    scales = np.tile(np.geomspace(1.5, scale, B), 2)[:, None, None]
    logits, ref_logits = ((scales * rng.normal(size=(*mask.shape, V))).astype(np.float32) for _ in range(2))
    if name == "at the reference":
        ref_logits = logits
    if name == "equal pairs":  # ties: a pair of one and the same response, and a pair that is there twice
        for x in (tokens, mask, logits, ref_logits):
            x[B], x[[2, B + 2]] = x[0], x[[1, B + 1]]
    if name == "certain":  # some tokens of probability 1, to rounding; the first pair's chosen tokens all
        sure = (rng.random(mask.shape) < 0.5) | (np.arange(2 * B) == 0)[:, None]
        highest = np.where(sure, 200, logits.max(axis=-1))[:, :-1, None]
        np.put_along_axis(logits[:, :-1], tokens[:, 1:, None], highest, axis=-1)
    if name == "token 0":  # among those of the response
        tokens[[0, 1], prompt[:2]] = 0
    return Case(name, tokens, mask, logits, ref_logits)


def kink() -> Case:
    """Exact sums: h = 10 (the hinge's kink at β = 0.1), h = 5 (IPO's target at τ = 0.1), a < 0, all halves."""
    base = case("kink", 7, B=4)
    first = np.cumsum(base.mask, axis=1) == 1
    ratio = np.array([10.0, 5.0, -2.5, 0.5, 0.0, 0.0, -7.5, 10.5])
    ref = np.where(base.mask, -12.5, 0.0)
    return base._replace(logits=None, ref_logits=None, token_logp=ref + np.where(first, ratio[:, None], 0),
                         ref_token_logp=ref)


CASES = [
    case("random", 0), case("random, larger", 1, B=9, scale=4.0), case("at the reference", 2), case("equal pairs", 3),
    case("one pair, short", 4, B=1, longest=1), case("long", 5, B=3, longest=150), case("far", 6, B=6, scale=40.0),
    kink(),
]
CERTAIN, BEYOND, ZERO = case("certain", 8), case("beyond", 9, B=8, scale=400.0), case("token 0", 10)
ALL = [*CASES, BEYOND]
FAR = next(c for c in CASES if c.name == "far")
NEAR = [c for c in CASES if c is not FAR]


class View(SimpleNamespace):
    """A case in one dtype, every number in float64: by pairs, (B, 2, ...), and in `rows`, (2B, ...)."""


def view(c: Case, dtype: str, leaf: str) -> View:
    """`leaf`: what they differentiate, `logits`, `tokens`, `logp` or `reward`, which is representable in the dtype."""
    def seen(x: Any) -> Any:
        return np.asarray(x, dtype).astype(np.float64)

    rows = SimpleNamespace(length=c.mask.sum(axis=1))
    back = full_back = None
    if c.logits is None:
        rows.token_logp, rows.ref_token_logp, rows.concentration = c.token_logp, c.ref_token_logp, -0.5 * c.mask
    else:
        rows.token_logp, back = dn.token_logp(c.logits.astype(np.float64), c.tokens, c.mask)
        rows.ref_token_logp, _ = dn.token_logp(c.ref_logits.astype(np.float64), c.tokens, c.mask)
        # the prompt too, but for the first token
        rows.full = np.arange(c.mask.shape[1]) < (c.mask.shape[1] - c.mask[:, ::-1].argmax(axis=1))[:, None]
        rows.full[:, 0] = False
        full, full_back = dn.token_logp(c.logits.astype(np.float64), c.tokens, rows.full)
        rows.full_logp, rows.full_length = full.sum(axis=1), rows.full.sum(axis=1)
        log_p = c.logits - np.logaddexp.reduce(c.logits.astype(np.float64), axis=-1, keepdims=True)
        rows.concentration = np.zeros(c.mask.shape)  # log Σᵥ pᵥ²
        rows.concentration[:, 1:] = np.logaddexp.reduce(2 * log_p, axis=-1)[:, :-1] * c.mask[:, 1:]
    if leaf != "logits":
        for name in ("token_logp", "ref_token_logp", "concentration"):
            setattr(rows, name, seen(getattr(rows, name)))
    rows.logp, rows.ref_logp = rows.token_logp.sum(axis=1), rows.ref_token_logp.sum(axis=1)
    if leaf in ("logp", "reward"):
        rows.logp, rows.ref_logp = seen(rows.logp), seen(rows.ref_logp)
    rows.mask, rows.reward = c.mask, rows.logp
    rows.w = np.exp((rows.token_logp - rows.concentration).sum(axis=1) / rows.length)
    return View(case=c, dtype=dtype, leaf=leaf, back=back, full_back=full_back, rows=rows, B=len(c.mask) // 2,
                label=np.arange(len(c.mask)) % 3 != 1, **{name: pairs_of(x) for name, x in vars(rows).items()})


def pairs_of(x: Any) -> Any:
    """(2B, ...) to (B, 2, ...)"""
    return x.reshape(2, -1, *x.shape[1:]).swapaxes(0, 1)


def rows_of(x: Any) -> Any:
    """(B, 2, ...) to (2B, ...)"""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


# ---- ours: View -> value of the mean over rows, gradient in the leaf

Ours = Callable[[View], tuple[float, Any]]


def ours(text: str, **facts: Any) -> Ours:
    """The expression that the table shows, evaluated. A fact may be a function of the view."""
    loss = eval(text, dict(dn.LOSSES))

    def run(v: View) -> tuple[float, Any]:
        told = {name: fact(v) if callable(fact) else fact for name, fact in facts.items()}
        if "label" in loss.needs:
            weight = np.full(2 * v.B, 0.5 / v.B)
            value, grad = loss(v.rows.logp[:, None], v.rows.ref_logp[:, None], weight=weight, label=v.label, **told)
            return float(weight @ value), to_leaf(v, {"logp": grad[:, 0]})
        told = {name: told.get(name, getattr(v, name, None)) for name in loss.needs}
        weight = np.full(v.B, 1 / v.B)
        value, grad = loss({name: getattr(v, name) for name in loss.reads}, weight=weight, **told)
        return float(weight @ value), to_leaf(v, {name: rows_of(g) for name, g in grad.items()})

    return run


def counting(text: str, counted: Callable[[View], Any], by_count: bool = False) -> Ours:
    """The expression on the log-probs Σ cₜ ℓₜ, c (2B, T); the reference's are whole. `by_count`: Σ c is the length."""
    loss = eval(text, dict(dn.LOSSES))

    def run(v: View) -> tuple[float, Any]:
        c = counted(v) * v.case.mask
        weight = np.full(v.B, 1 / v.B)
        value, grad = loss(pairs_of((c * v.rows.token_logp).sum(axis=1)), v.ref_logp, weight=weight,
                           length=pairs_of(c.sum(axis=1)) if by_count else v.length)
        return float(weight @ value), to_leaf(v, {"token_logp": rows_of(grad)[:, None] * c})

    return run


def to_leaf(v: View, grads: dict[str, Any]) -> Any:
    """From the gradients in what a loss reads, by row, to that in the leaf."""
    if v.leaf in ("logp", "reward"):
        return sum(grads.values())
    d = sum(np.where(v.case.mask, g if name == "token_logp" else g[:, None], 0)  # infinity times 0 is not 0
            for name, g in grads.items() if name != "full_logp")
    if v.leaf == "tokens":
        return d
    total = v.back(d)
    return total + v.full_back(grads["full_logp"][:, None] * v.rows.full) if "full_logp" in grads else total


# ---- theirs: (View, config) -> value, gradient in the leaf

class Model:
    """Answers what it is given; `answer` may look at the token ids."""

    training, is_gradient_checkpointing = True, False

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    def __call__(self, input_ids: Any = None, **rest: Any) -> Any:
        return self.answer(input_ids)


def bare(cls: Any, args: Any, names: str, **attributes: Any) -> Any:
    """A trainer as `__init__` would leave it, as far as its loss looks; `names`: attributes that are its config's."""
    trainer = object.__new__(cls)
    known = {
        "args": args, "accelerator": Accelerator(cpu=True),  # making a config resets what accelerators share
        "is_encoder_decoder": False, "aux_loss_enabled": False, "is_peft_model": False, "ref_adapter_name": None,
        "_peft_has_been_casted_to_bf16": False, "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0,
        "_tp_size": 1, "pad_token_id": 0, "padding_value": 0, "precompute_ref_logps": False,
        **{name: getattr(args, name) for name in names.split()}}
    for name, value in {**known, **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def config_of(cls: Any, config: dict[str, Any]) -> Any:
    rest = {name: value for name, value in config.items() if name not in OURS}
    return cls(FOLDER, use_cpu=True, bf16=False, report_to="none", **rest)


OURS = ("later", "margin")  # what a row's config says and no trainer's does


def running() -> Any:
    from trl.trainer.utils import RunningMoments

    return RunningMoments(Accelerator(cpu=True))


def tensor(x: Any, v: View, leaf: bool = False) -> Any:
    return torch.tensor(np.asarray(x, v.dtype), requires_grad=leaf)


def result(loss: Any, leaf: Any) -> tuple[float, Any]:
    grad, = torch.autograd.grad(loss, leaf)
    return loss.item(), grad.double().numpy()


def inputs_of(v: View) -> dict[str, Any]:
    return {"input_ids": torch.tensor(v.case.tokens),
            "attention_mask": torch.tensor(v.case.mask | (v.case.tokens != 0)).long(),
            "completion_mask": torch.tensor(v.case.mask).long()}


def fused(v: View, token_logp: Any) -> Any:
    """What a model with a fused head gives back; `token_logp` (2B, T - 1)."""
    zero = torch.zeros_like(token_logp)
    return SimpleNamespace(log_probs=token_logp, entropy=zero, mean_logits=zero, is_top1=zero.bool(),
                           log_sum_sq_probs=tensor(v.rows.concentration[:, 1:], v))


def token_leaf(v: View) -> tuple[Any, Any, Any]:
    """The leaf, and what the policy and the reference answer with."""
    leaf = tensor(v.rows.token_logp, v, leaf=True)
    scored = leaf[:, 1:].masked_fill(~torch.tensor(v.case.mask[:, 1:]), 0)
    return leaf, scored, tensor(v.rows.ref_token_logp[:, 1:], v)


def dpo_new(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    args = config_of(trl.DPOConfig, config)
    leaf, policy, ref = token_leaf(v)
    names = "beta ld_alpha f_divergence_type f_alpha_divergence_coef label_smoothing use_weighting"
    trainer = bare(trl.DPOTrainer, args, names, model=Model(lambda ids: fused(v, policy)),
                   ref_model=Model(lambda ids: fused(v, ref)), loss_types=args.loss_type,
                   loss_weights=args.loss_weights or [1.0] * len(args.loss_type))
    return result(trainer._compute_loss(trainer.model, inputs_of(v), return_outputs=False), leaf)


def dpo_trainer_old(config: dict[str, Any], **attributes: Any) -> Any:
    from trl.trainer.dpo_config import FDivergenceConstants, FDivergenceType

    args = config_of(trl.DPOConfig, config)
    names = "beta label_smoothing loss_weights reference_free use_weighting use_logits_to_keep padding_free"
    return bare(trl.DPOTrainer, args, names, running=running(), max_length=None, loss_type=config["loss_type"],
                f_divergence_type=FDivergenceType(args.f_divergence_type),
                f_divergence_params={FDivergenceConstants.ALPHA_DIVERGENCE_COEF_KEY: args.f_alpha_divergence_coef},
                **attributes)


def dpo_old(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    """`dpo_loss`, on the log-probs of sequences."""
    trainer = dpo_trainer_old(config)
    leaf, ref = tensor(v.rows.logp, v, leaf=True), tensor(v.rows.ref_logp, v)
    four = *leaf.chunk(2), *ref.chunk(2)
    if "later" in config:  # the first pair has been a batch of its own before
        trainer.dpo_loss(*(x.detach()[:1] for x in four), trainer.loss_type[0], None)
    return result(sum(trainer.dpo_loss(*four, loss_type, None)[0].mean() for loss_type in trainer.loss_type), leaf)


def dpo_whole_old(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    """`get_batch_loss_metrics`, from logits."""
    c, B = v.case, v.B
    leaf, ref = tensor(c.logits, v, leaf=True), tensor(c.ref_logits, v)

    def answer(logits: Any) -> Callable[[Any], Any]:
        def run(ids: Any) -> Any:
            assert torch.equal(ids, torch.tensor(c.tokens)), "the model is asked about other rows"
            return SimpleNamespace(logits=logits * 1)  # they write into it

        return run

    trainer = dpo_trainer_old(config, model=Model(answer(leaf)), ref_model=Model(answer(ref)))
    prompt = c.mask.argmax(axis=1)
    end = prompt + c.mask.sum(axis=1)
    width = prompt.max()
    left = [np.r_[np.zeros(width - p, int), row[:p]] for row, p in zip(c.tokens[:B], prompt[:B], strict=True)]
    batch = {"prompt_input_ids": torch.tensor(np.array(left)),
             "prompt_attention_mask": torch.tensor(np.arange(width) >= width - prompt[:B, None]).long()}
    for name, rows in (("chosen", slice(0, B)), ("rejected", slice(B, 2 * B))):
        bodies = [row[p:e] for row, p, e in zip(c.tokens[rows], prompt[rows], end[rows], strict=True)]
        longest = max(map(len, bodies))
        padded = np.array([np.r_[body, np.zeros(longest - len(body), int)] for body in bodies])
        batch[f"{name}_input_ids"] = torch.tensor(padded)
        batch[f"{name}_attention_mask"] = torch.tensor(np.arange(longest) < (end - prompt)[rows][:, None]).long()
    return result(trainer.get_batch_loss_metrics(trainer.model, batch)[0], leaf)


def halves(v: View) -> dict[str, Any]:
    batch = {}
    for name, rows in (("chosen", slice(0, v.B)), ("rejected", slice(v.B, 2 * v.B))):
        tokens, mask = v.case.tokens[rows], v.case.mask[rows]
        batch[f"{name}_input_ids"] = torch.tensor(tokens)
        batch[f"{name}_attention_mask"] = torch.tensor(mask | (tokens != 0)).long()
        batch[f"{name}_labels"] = torch.tensor(np.where(mask, tokens, -100))
    return batch


def cpo(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    leaf = tensor(v.case.logits, v, leaf=True)
    names = "beta label_smoothing loss_type cpo_alpha simpo_gamma alpha"
    trainer = bare(CPOTrainer, config_of(CPOConfig, config), names,
                   model=Model(lambda ids: SimpleNamespace(logits=leaf)))
    return result(trainer.get_batch_loss_metrics(trainer.model, halves(v))[0], leaf)


def orpo(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    leaf = tensor(v.case.logits, v, leaf=True)
    trainer = bare(ORPOTrainer, config_of(ORPOConfig, config), "beta",
                   model=Model(lambda ids: SimpleNamespace(logits=leaf)))
    return result(trainer.get_batch_loss_metrics(trainer.model, halves(v))[0], leaf)


def tpo(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    """The gold response, in the trainer's third branch, is the chosen one again."""
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    leaf, inputs = tensor(v.case.logits, v, leaf=True), inputs_of(v)
    if config["tpo_alpha"]:
        inputs = {name: torch.cat([x, x[:v.B]]) for name, x in inputs.items()}
    model = Model(lambda ids: SimpleNamespace(logits=torch.cat([leaf, leaf[:len(ids) - 2 * v.B]])))
    names = "beta loss_type label_smoothing tpo_alpha tpo_l_gamma"
    trainer = bare(TPOTrainer, config_of(TPOConfig, config), names, model=model)
    return result(trainer._compute_loss(model, inputs, return_outputs=False), leaf)


def kto_new(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    args = config_of(trl.KTOConfig, config)
    leaf, policy, ref = token_leaf(v)
    inputs = inputs_of(v)
    kl = {f"KL_{name}": x.roll(1, 0) for name, x in inputs.items()}

    def answer(token_logp: Any) -> Callable[[Any], Any]:
        return lambda ids: fused(v, token_logp.roll(1, 0) if ids is kl["KL_input_ids"] else token_logp)

    trainer = bare(trl.KTOTrainer, args, "beta loss_type desirable_weight undesirable_weight",
                   model=Model(answer(policy)), ref_model=Model(answer(ref)), calculate_KL=args.loss_type == "kto")
    inputs |= {**kl, "label": torch.tensor(v.label)}
    return result(trainer._compute_loss(trainer.model, inputs, return_outputs=False), leaf)


def unpaired_old(v: View, args: Any, cls: Any, names: str, later: bool, **attributes: Any) -> tuple[float, Any]:
    leaf, ref = tensor(v.case.logits, v, leaf=True), tensor(v.case.ref_logits, v)
    ids, mask = torch.tensor(v.case.tokens), torch.tensor(v.case.mask)
    batch = {"completion_input_ids": ids, "completion_attention_mask": mask, "completion_labels": ids.where(mask, -100)}
    kl = {f"KL_{name}": x.roll(1, 0) for name, x in batch.items()}

    def answer(logits: Any) -> Callable[[Any], Any]:
        return lambda ids: SimpleNamespace(
            logits=logits.roll(1, 0) if ids is kl["KL_completion_input_ids"] else logits[:len(ids)])

    trainer = bare(cls, args, names, model=Model(answer(leaf)), ref_model=Model(answer(ref)), **attributes)
    batch |= {**kl, "label": v.label.tolist()}
    if later:  # the first two rows have been a batch of their own before
        trainer.get_batch_loss_metrics(trainer.model, {name: x[:2] for name, x in batch.items()})
    return result(trainer.get_batch_loss_metrics(trainer.model, batch)[0], leaf)


def kto_old(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    from trl.experimental.kto import KTOConfig, KTOTrainer

    args = config_of(KTOConfig, config)
    return unpaired_old(v, args, KTOTrainer, "beta loss_type desirable_weight undesirable_weight", False,
                        calculate_KL=args.loss_type == "kto")


def bco_old(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    from trl.experimental.bco import BCOConfig, BCOTrainer

    return unpaired_old(v, config_of(BCOConfig, config), BCOTrainer, "beta", "later" in config, running=running(),
                        embedding_func=None, embedding_tokenizer=None)


def reward(v: View, config: dict[str, Any]) -> tuple[float, Any]:
    leaf, inputs = tensor(v.rows.logp, v, leaf=True), inputs_of(v)
    if "margin" in config:
        inputs["margin"] = tensor(config["margin"](v), v)
    trainer = bare(trl.RewardTrainer, config_of(trl.RewardConfig, config), "",
                   model=Model(lambda ids: SimpleNamespace(logits=leaf[:, None])))
    return result(trainer.compute_loss(trainer.model, inputs), leaf)


class Peer(NamedTuple):
    name: str
    leaf: str
    run: Callable[[View, dict[str, Any]], tuple[float, Any]]


DPO = Peer("DPO", "tokens", dpo_new) if NEW else Peer("DPO", "logp", dpo_old)
WHOLE = DPO if NEW else Peer("DPO", "logits", dpo_whole_old)  # what 0.28 computes outside `dpo_loss`
KTO = Peer("KTO", "tokens", kto_new) if NEW else Peer("KTO", "logits", kto_old)
CPO, ORPO, TPO = Peer("CPO", "logits", cpo), Peer("ORPO", "logits", orpo), Peer("TPO", "logits", tpo)
BCO, REWARD = Peer("BCO", "logits", bco_old), Peer("Reward", "reward", reward)


# ---- what some rows are told, or compare with instead

def mean_reward(v: View) -> Any:
    return 0.1 * (v.logp - v.ref_logp).mean()


def mean_of_means(v: View) -> Any:
    """Of the first pair, a batch of its own, and of all pairs."""
    rewards = 0.1 * (v.logp - v.ref_logp)
    return (rewards[0].mean() + rewards.mean()) / 2


def pooled(v: View) -> Any:
    """The mean over the first two rows, a batch of their own, and over all rows."""
    rewards = 0.1 * (v.rows.logp - v.rows.ref_logp)
    return np.concatenate([rewards[:2], rewards]).mean()


def z0(v: View) -> Any:
    return max(0.0, (v.rows.logp - v.rows.ref_logp).mean())


def no_reference(v: View) -> Any:
    return np.zeros_like(v.logp)


def margin(v: View) -> Any:
    return np.linspace(0, 2, v.B).astype(np.float32)


def nonzero(v: View) -> Any:
    return v.case.mask & (v.case.tokens != 0)


def prompt_counted(v: View) -> Any:
    """LD-DPO's weights where positions are those in the row, prompt included, and lengths are the responses'."""
    at, shared = np.arange(v.case.mask.shape[1]), np.tile(v.length.min(axis=1), 2)[:, None]
    return np.where(at < shared, 1, 0.5) * (at < v.rows.length[:, None])


def last_lost(v: View) -> Any:
    """WPO's weights without the log-prob of a response's last token."""
    last = v.case.mask & (np.cumsum(v.case.mask[:, ::-1], axis=1)[:, ::-1] == 1)
    kept = np.where(last, 0, v.rows.token_logp)
    return pairs_of(np.exp((kept - v.rows.concentration).sum(axis=1) / v.rows.length))


def clamped(v: View) -> tuple[float, Any]:
    """DPO on the scores (e^min(80, t) - 1)/(α - 1), t = (α - 1) log-ratio, of α = 1/2."""
    t, weight = (v.logp - v.ref_logp) / -2, np.full(v.B, 1 / v.B)
    below = np.minimum(t, 80)
    value, grad = dn.LOSSES["dpo"](beta=0.1)(-2 * np.expm1(below), np.zeros_like(t), weight=weight)
    return float(weight @ value), to_leaf(v, {"logp": rows_of(grad * np.where(t < 80, np.exp(below), 0))})


# ---- the rows

class Row(NamedTuple):
    peer: Peer
    loss: str  # ours, as shown and as run
    config: dict[str, Any]  # theirs
    note: str = ""
    told: str = ""  # the facts, as shown
    ours: Ours = None  # type: ignore[assignment]
    differs: str = ""  # the name of a disagreement; `note` says what it is
    instead: Ours | None = None  # what they compute; None: they raise `raises`, or have NaN where there is a number
    raises: str = ""
    within: float = 0.0  # digits are lost, so many units at most
    where: str = ""  # the inputs, if not all
    cases: Any = ALL
    dtypes: tuple[str, ...] = ("float64", "float32")
    eps: str = ""  # the dtype that they compute in, where it is not the leaf's

    @property
    def option(self) -> str:
        shown = (f"{value}" if name == "loss_type" else f"{name}={value}" for name, value in self.config.items()
                 if name not in ("beta", *OURS))
        text = " ".join([self.peer.name, *shown]).replace(", ", "+")
        return "".join(c for c in text if c not in "[]'") + (f" [{self.where}]" if self.where else "")


def rows() -> list[Row]:
    found: list[Row] = []

    def row(peer: Peer, loss: str, note: str = "", facts: Any = None, **rest: Any) -> None:
        """`rest`: the fields of `Row`, and their options."""
        fields = {name: rest.pop(name) for name in Row._fields if name in rest}
        cases = [c for c in fields.pop("cases", ALL) if c.logits is not None or peer.leaf != "logits"]
        config = rest if peer is REWARD else {"beta": 0.1, **rest}
        found.append(Row(peer, loss, config, note, cases=cases, ours=ours(loss, **(facts or {})), **fields))

    far: Any = {"differs": "overflow", "cases": [FAR, BEYOND], "dtypes": ("float32",), "where": "far apart, float32"}
    paired(row, far)
    of_tokens(row)
    f_divergences(row, far)
    without_reference(row, far)
    unpaired(row)
    row(REWARD, "bt_rm()", facts={"margin": 0.0})
    row(REWARD, "bt_rm()", told="margin", facts={"margin": margin}, where="margin", margin=margin)
    row(REWARD, "bt_rm(center=0.01)", told="margin", facts={"margin": margin}, where="margin", margin=margin,
        center_rewards_coefficient=0.01)
    return found


def paired(row: Callable[..., None], far: Any) -> None:
    row(DPO, "dpo(beta=0.1)", loss_type=["sigmoid"])
    ignored: Any = {"differs": "smoothing ignored", "instead": ours("dpo(beta=0.1)")} if NEW else {}
    row(DPO, "cdpo(beta=0.1, eps=0.1)", "`label_smoothing` is accepted and not used: this is `dpo`." if NEW else "",
        loss_type=["sigmoid"], label_smoothing=0.1, **ignored)
    row(DPO, "hinge(beta=0.1)", loss_type=["hinge"])
    row(WHOLE, 'ipo(tau=0.1, reduction="mean")', loss_type=["ipo"])
    row(DPO, "exo(beta=0.1, eps=0.001)", "ε and its logarithms are float32 whatever the model is." if NEW else "",
        loss_type=["exo_pair"], label_smoothing=0.001, eps="float32" if NEW else "")
    row(DPO, "nca(beta=0.1)", loss_type=["nca_pair"])
    row(DPO, "rdpo(beta=0.1, eps=0.1)", loss_type=["robust"], label_smoothing=0.1)
    if NEW:
        row(DPO, "bco(beta=0.1)", "There is no shift: δ is 0.", {"delta": mean_reward}, told="delta=mean reward",
            loss_type=["bco_pair"], differs="shift dropped", instead=ours("bco(beta=0.1)", delta=0.0))
    else:
        row(DPO, "bco(beta=0.1)", "δ is float32 whatever the model is.", {"delta": mean_reward},
            told="delta=mean reward", loss_type=["bco_pair"], eps="float32", where="first batch")
        row(DPO, "bco(beta=0.1)", "Batches so far count alike in δ, this one among them, whatever their sizes.",
            {"delta": mean_of_means}, told="delta=mean of batch means", loss_type=["bco_pair"], eps="float32",
            where="second batch", later=True)
    row(DPO, "sppo(beta=0.1)", loss_type=["sppo_hard"])
    for name in ("aot", "aot_unpaired"):
        row(DPO, f"{name}(beta=0.1)", loss_type=[name])
        row(DPO, f"{name}(beta=0.1, eps=0.1)", loss_type=[name], label_smoothing=0.1)
    row(DPO, "apo_zero(beta=0.1, plus_one=True)", loss_type=["apo_zero"])
    row(DPO, "apo_down(beta=0.1, plus_one=True)", loss_type=["apo_down"])
    row(DPO, "discopop(beta=0.1, tau=0.05)", loss_type=["discopop"], discopop_tau=0.05, cases=CASES)
    row(DPO, "discopop(beta=0.1, tau=0.05)", "Where βh < -88, e^-βh is infinite and its factor 0: NaN, where the loss "
        "is near 0.", loss_type=["discopop"], discopop_tau=0.05, **{**far, "cases": [BEYOND]})
    if not NEW:
        row(DPO, "dpo(beta=0.1)", told="ref_logp=0", facts={"ref_logp": no_reference}, loss_type=["sigmoid"],
            reference_free=True)
        row(DPO, "exo(beta=0.1, eps=0.001) + dpo(beta=0.1)", "`label_smoothing=0` becomes 0.001 for `exo_pair` and "
            "stays so: the `dpo` beside it is a `cdpo`.", loss_type=["exo_pair", "sigmoid"], differs="smoothing leaks",
            instead=ours("exo(beta=0.1, eps=0.001) + cdpo(beta=0.1, eps=0.001)"))


def of_tokens(row: Callable[..., None]) -> None:
    """What counts tokens, and mixtures."""
    row(WHOLE, 'sft(reduction="tokens")', loss_type=["sft"])
    row(WHOLE, 'rpo(beta=0.1, nll="tokens")', loss_type=["sigmoid", "sft"])
    mixed: Any = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
    both = 'dpo(beta=0.1) + ipo(tau=0.1, reduction="mean")'
    if NEW:
        row(DPO, "ln_dpo(beta=0.1)", loss_type=["sigmoid_norm"])
        row(DPO, 'ld_dpo(beta=0.1, alpha=0.5, reference="weighted")', loss_type=["sigmoid"], ld_alpha=0.5)
        row(DPO, "wpo(beta=0.1, clamp=False)", loss_type=["sigmoid"], use_weighting=True)
        row(DPO, 'rpo(beta=0.1, nll="tokens")', "The weight is multiplied in place into one number expanded to the "
            "batch, which PyTorch refuses.", loss_type=["sigmoid", "sft"], use_weighting=True, differs="raises",
            raises="RuntimeError")
        row(DPO, 'mpo(beta=0.1, nll="tokens")', told="delta=0", facts={"delta": 0.0}, **mixed)
        row(DPO, both, loss_type=["sigmoid", "ipo"])
        return
    row(WHOLE, 'sft(reduction="tokens")', "Tokens of id 0 do not count.", loss_type=["sft"], cases=[ZERO],
        differs="token 0 dropped", where="id 0 in responses",
        instead=counting('sft(reduction="tokens")', nonzero, by_count=True))
    row(WHOLE, 'ld_dpo(beta=0.1, alpha=0.5, reference="full")', "Positions are counted from the row's first token: a "
        "response loses as many of its last tokens as its prompt has.", loss_type=["sigmoid"], ld_alpha=0.5,
        differs="prompt counted", instead=counting("dpo(beta=0.1)", prompt_counted))
    row(WHOLE, "wpo(beta=0.1, clamp=True)", "A shift by one: the weight lacks the log-prob of a response's last token.",
        loss_type=["sigmoid"], use_weighting=True, differs="last token lost",
        instead=ours("wpo(beta=0.1, clamp=True)", w=last_lost))
    row(WHOLE, 'rpo(beta=0.1, nll="tokens")', loss_type=["sigmoid"], rpo_alpha=1.0)
    row(WHOLE, 'mpo(beta=0.1, nll="tokens")', told="delta=mean reward", facts={"delta": mean_reward}, eps="float32",
        **mixed)
    row(WHOLE, both, "Beside `ipo` every loss gets mean log-probs: `dpo` is `ln_dpo`.", loss_type=["sigmoid", "ipo"],
        differs="means for all", instead=ours('ln_dpo(beta=0.1) + ipo(tau=0.1, reduction="mean")'))


def f_divergences(row: Callable[..., None], far: Any) -> None:
    js: Any = {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"}
    row(DPO, "f_dpo_js(beta=0.1)", **js, cases=ALL if NEW else CASES)
    alpha: Any = {"loss_type": ["sigmoid"], "f_divergence_type": "alpha_divergence"}
    if not NEW:
        row(DPO, "f_dpo_js(beta=0.1)", "h less a difference of softplus: log-ratios of hundreds cancel, and digits go.",
            **js, cases=[BEYOND], differs="digits lost", within=64.0, where="far apart")
        row(DPO, "f_dpo_alpha(beta=0.1, alpha=1.0)", **alpha, cases=CASES)
        for coef in (0.5, 0.2):
            row(DPO, f"f_dpo_alpha(beta=0.1, alpha={coef})", **alpha, f_alpha_divergence_coef=coef, cases=CASES)
        row(DPO, "f_dpo_alpha(beta=0.1, alpha=0.5)", "Powers are capped at the largest number, then divided by α: an "
            "infinity, which `label_smoothing=0` multiplies by 0.", **alpha, f_alpha_divergence_coef=0.5,
            **{**far, "cases": [BEYOND]})
        return
    kl: Any = {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"}
    row(DPO, "f_dpo_forward_kl(beta=0.1)", **kl, cases=NEAR)
    row(DPO, "f_dpo_forward_kl(beta=0.1)", "Where e^-log-ratio overflows: infinity less infinity, or 0 times infinity "
        "in a gradient that is 0.", **kl, **far)
    row(DPO, "dpo(beta=0.1)", **alpha, f_alpha_divergence_coef=1.0)
    for coef in (0.5, 0.2):
        row(DPO, f'f_dpo_alpha(beta=0.1, alpha={coef}, convention="order")', **alpha, f_alpha_divergence_coef=coef,
            cases=CASES, dtypes=("float32",))
    alpha["f_alpha_divergence_coef"] = 0.5
    half = 'f_dpo_alpha(beta=0.1, alpha=0.5, convention="order")'
    row(DPO, half, "The table of bounds for the exponent has no float64.",
        **alpha, differs="raises", raises="KeyError", dtypes=("float64",), where="float64")
    row(DPO, half, "Exponents stop at 80, and the gradient with them.",
        **alpha, **{**far, "differs": "clamped", "cases": [BEYOND]}, instead=clamped)


def without_reference(row: Callable[..., None], far: Any) -> None:
    zero: Any = {"told": "ref_logp=0", "facts": {"ref_logp": no_reference}}
    row(CPO, 'cpo(beta=0.1, nll="tokens")', loss_type="sigmoid", cpo_alpha=1.0)
    row(CPO, 'cpo(beta=0.1, alpha=0.5, eps=0.1, nll="tokens")', loss_type="sigmoid", cpo_alpha=0.5, label_smoothing=0.1)
    row(CPO, "hinge(beta=0.1)", loss_type="hinge", cpo_alpha=0.0, **zero)
    row(CPO, 'ipo(tau=0.1, reduction="mean")', loss_type="ipo", cpo_alpha=0.0, **zero)
    simpo: Any = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}
    row(CPO, "simpo(beta=2, gamma=1)", **simpo, cpo_alpha=0.0)
    row(CPO, "simpo(beta=2, gamma=1, eps=0.1)", **simpo, cpo_alpha=0.0, label_smoothing=0.1)
    row(CPO, 'simpo(beta=2, gamma=1) + sft(reduction="tokens")', "`cpo_alpha` is 1 where it is not set.", **simpo)
    row(CPO, "alphapo(beta=2, gamma=1, alpha=0.25)", **simpo, cpo_alpha=0.0, alpha=0.25, cases=NEAR)
    row(CPO, "alphapo(beta=2, gamma=1, alpha=0.25)", "p̄ = e^ℓ̄ underflows to 0, and its power -α is infinite.", **simpo,
        cpo_alpha=0.0, alpha=0.25, **far)
    if NEW:
        row(TPO, 'cpo(beta=0.1, alpha=0.5, eps=0.1, nll="tokens")', "The NLL is a gold response's, here the chosen.",
            loss_type="sigmoid", tpo_alpha=0.5, label_smoothing=0.1)
        row(TPO, "hinge(beta=0.1)", loss_type="hinge", tpo_alpha=0.0, **zero)
        row(TPO, 'ipo(tau=0.1, reduction="mean")', loss_type="ipo", tpo_alpha=0.0, **zero)
        row(TPO, "simpo(beta=2, gamma=1)", loss_type="tpo-l", beta=2.0, tpo_l_gamma=1.0, tpo_alpha=0.0)
    whole = 'orpo(lam=0.1, nll="tokens", scope="prompt_and_completion")'
    row(ORPO, whole, "The odds are float32 whatever the model is.", eps="float32")
    row(ORPO, whole, "log(1 - p̄) is -infinity, and with it value and gradient NaN. Their limits are finite.",
        eps="float32", cases=[CERTAIN], differs="log of 0", where="a response of probability 1")


def unpaired(row: Callable[..., None]) -> None:
    for weights, lam in (({}, ""), ({"desirable_weight": 1.3, "undesirable_weight": 0.8}, ", lam_d=1.3, lam_u=0.8")):
        row(KTO, f"kto(beta=0.1{lam})", told="z0=max(0, mean mismatched)", facts={"z0": z0}, loss_type="kto",
            **weights)
        row(KTO, f"apo_zero_unpaired(beta=0.1{lam})", loss_type="apo_zero_unpaired", **weights)
    if not NEW:
        row(BCO, "bco_unpaired(beta=0.1)", "δ is float32 whatever the model is.", {"delta": mean_reward},
            told="delta=mean reward", eps="float32", where="first batch")
        row(BCO, "bco_unpaired(beta=0.1)", "Rewards so far count alike in δ, those of this batch among them.",
            {"delta": pooled}, told="delta=mean of all rewards", eps="float32", where="second batch", later=True)


# ---- the comparison

class Errors(NamedTuple):
    """In units of rounding. `holes`: they have no finite number and we do; `elsewhere`: the worst where both do."""

    value: float
    gradient: float
    holes: int = 0
    elsewhere: float = 0.0
    raised: str = ""

    @property
    def worst(self) -> float:
        return max(self.value, self.gradient)


def errors(r: Row, run: Ours, v: View) -> Errors:
    try:
        theirs, their_grad = r.peer.run(v, r.config)
    except (KeyError, RuntimeError) as e:
        return Errors(np.inf, np.inf, raised=type(e).__name__)
    dtype = r.eps or v.dtype
    with np.errstate(over="ignore"):
        # beyond the range of their dtype: infinity
        value, grad = (np.asarray(x, np.float64).astype(dtype).astype(np.float64) for x in run(v))
    eps, x = float(np.finfo(dtype).eps), abs(v.rows.logp) + abs(v.rows.ref_logp)
    steep = np.where(np.isfinite(grad), abs(grad), 0).reshape(len(x), -1).max(axis=1)
    unit_value = eps * (1 + (abs(value) if np.isfinite(value) else 0) + (steep * x).sum())
    unit_grad = max(eps * steep.max() * (1 + x.max()), float(np.finfo(dtype).tiny))
    of_value, holes, elsewhere = _compare(np.asarray(theirs), value, unit_value)
    of_grad, more, here = _compare(their_grad, grad, unit_grad)
    return Errors(of_value, of_grad, holes + more, max(elsewhere, here))


def _compare(theirs: Any, expected: Any, unit: float) -> tuple[float, int, float]:
    with np.errstate(invalid="ignore"):
        off = np.where(theirs == expected, 0, abs(theirs - expected)) / unit
    both = np.isfinite(theirs) & np.isfinite(expected)
    holes = ~np.isfinite(theirs) & (np.isfinite(expected) | np.isnan(theirs))
    return float(np.where(np.isnan(off), np.inf, off).max()), int(holes.sum()), float(np.where(both, off, 0).max())


def judge(r: Row) -> dict[str, Any]:
    """A row of the table: the worst errors, and the verdict, which is '' if it is not the one on record."""
    views = [view(c, dtype, r.peer.leaf) for c in r.cases for dtype in r.dtypes]
    found = [errors(r, r.ours, v) for v in views]
    again = [errors(r, r.instead, v) for v in views] if r.instead else []
    if not r.differs:
        as_said = all(e.worst <= TOLERANCE for e in found)
    elif r.raises:
        as_said = all(e.raised == r.raises for e, v in zip(found, views, strict=True) if v.B > 1)
    else:
        as_said = any(e.worst > TOLERANCE for e in found)  # else it has vanished
        if r.instead:
            as_said &= all(e.worst <= TOLERANCE for e in again)
        elif r.within:
            as_said &= all(e.worst <= r.within for e in found)
        else:
            as_said &= all(e.holes and e.elsewhere <= TOLERANCE for e in found)
    worst_value, worst_gradient = (max(getattr(e, name) for e in found) for name in ("value", "gradient"))
    by_case = [{"case": v.case.name, "dtype": v.dtype, **e._asdict()} for v, e in zip(views, found, strict=True)]
    return {"option": r.option, "ours": r.loss + (f", {r.told}" if r.told else ""), "value": worst_value,
            "gradient": worst_gradient,
            "verdict": (f"differs: {r.differs}" if r.differs else "agrees") if as_said else "",
            "instead": max((e.worst for e in again), default=None), "note": r.note, "dtypes": r.dtypes, "eps": r.eps,
            "cases": by_case}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where to write the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__,
                "numpy": np.__version__}
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "; errors in units of rounding")
    table = [judge(r) for r in rows()]
    wide = [max(len(line[name]) for line in table) for name in ("option", "ours")]
    for line in table:
        print(f"{line['option']:{wide[0]}}  {line['ours']:{wide[1]}}  {line['value']:8.2g}  {line['gradient']:8.2g}  "
              f"{line['verdict'] or 'NOT AS ON RECORD'}")
        if not line["verdict"]:
            print(*(f"    {c}" for c in line["cases"] if max(c["value"], c["gradient"]) > TOLERANCE), sep="\n")
    wrong = sum(not line["verdict"] for line in table)
    agree = sum(line["verdict"] == "agrees" for line in table)
    print(f"{agree} agree, {len(table) - agree - wrong} differ as on record, {wrong} not as on record")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**versions, "tolerance": TOLERANCE, "rows": table}, file, indent=1)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
