"""One toy trained twice: by TRL's own trainers and by `dn.train`, the same path step by step.

    PYTHONPATH=. .venv-peers/trl-1.16/bin/python tests/peers/trl_trainer.py --json trl-1.16-trainer.json

The toy is a bigram, wrapped as a `PreTrainedModel` that is made here: its hidden state is the last token's one-hot, its
language-model head the table W. Their trainer gets it with a tokenizer and a dataset of text, all made here, and does
the rest itself: tokenizes, appends the end of string, pads, asks the reference, takes the loss, calls autograd, steps
PyTorch's SGD. Nothing is switched on that we do not have: no dropout, no warm-up, no clipping, the rows in order.

After each step, the largest |W_theirs - W_ours| is divided by eps max|W|. Each step rounds the parameters once, and its
gradient carries roundings of its own, so `PER_STEP` of these units are allowed for each step made so far. As a control,
the same with β 1% larger on our side must leave the path at once. Exit code 1 if either fails.
"""

# ruff: noqa: E402  (the environment is set before what reads it)

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1")
warnings.filterwarnings("ignore")

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl

import dpo_numpy as dn
import toy_models

NEW = not trl.__version__.startswith("0.28")
PER_STEP = 1.0
V, PAIRS, BATCH, STEPS, BETA, LR = 9, 24, 4, 40, 0.5, 2.0
WORDS = ["<eos>", *"abcdefgh"]

datasets.disable_progress_bars()
logging.disable(logging.WARNING)


# ---- theirs

class BigramConfig(transformers.PretrainedConfig):
    model_type = "bigram"

    def __init__(self, vocab_size: int = V, **rest: Any) -> None:
        self.vocab_size = self.hidden_size = vocab_size
        super().__init__(**{"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False,
                            **rest})


class LastToken(torch.nn.Module):
    """Its one-hot."""

    def __init__(self, config: BigramConfig) -> None:
        super().__init__()
        self.register_buffer("table", torch.eye(config.vocab_size))

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


class Bigram(transformers.PreTrainedModel, transformers.GenerationMixin):
    config_class, base_model_prefix = BigramConfig, "model"

    def __init__(self, config: BigramConfig) -> None:
        super().__init__(config)
        self.model = LastToken(config)
        self.lm_head = torch.nn.Linear(config.vocab_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:
        hidden = self.model(input_ids).last_hidden_state
        return transformers.modeling_outputs.CausalLMOutput(logits=self.lm_head(hidden), hidden_states=(hidden,))


def bigram(W: Any) -> Bigram:
    model = Bigram(BigramConfig())
    model.to({4: torch.float32, 8: torch.float64}[W.dtype.itemsize])
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.tensor(W.T))
    return model


class Record(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.path: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.path.append(model.lm_head.weight.detach().double().numpy().T.copy())


def words(ids: list[int]) -> str:
    return "".join(f" {WORDS[i]}" for i in ids)


def their_path(W: Any, data: list[Any], cls: Any, config_cls: Any, **config: Any) -> list[Any]:
    """W after each step, from rows of text. They append the end of string."""
    ids = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<eos>"))
    ids.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=ids, eos_token="<eos>", pad_token="<eos>")

    class InOrder(cls):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with tempfile.TemporaryDirectory() as folder:
        args = config_cls(
            folder, beta=BETA, per_device_train_batch_size=BATCH, max_steps=STEPS, max_grad_norm=0.0, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, seed=0, **config)
        model, record = bigram(W), Record()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        trainer = InOrder(model=model, ref_model=bigram(W), args=args, train_dataset=datasets.Dataset.from_list(data),
                          processing_class=tokenizer, callbacks=[record], optimizers=(optimizer, schedule))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return record.path


# ---- ours

Batch = Callable[[dict[str, Any]], dn.Preferences]
POLICY = toy_models.NGram(vocab=V)


def our_path(W: Any, loss: dn.Loss, batches: Iterable[Any]) -> Iterator[Any]:
    for step in dn.train(POLICY, {"W": W}, batches, loss, dn.sgd(lr=LR)):
        yield step.params["W"]


def in_order(n: int) -> Iterator[Any]:
    """The rows of each step's batch."""
    for step in range(STEPS):
        start = step * BATCH % n
        yield np.arange(start, start + BATCH)


def pairs(W: Any, rows: list[Any]) -> Iterator[dn.Preferences]:
    whole = dn.Preferences.of(*zip(*rows, strict=True)).with_reference(POLICY, {"W": W})
    for at in in_order(len(rows)):
        yield whole.slice(at).scaled(len(rows) / BATCH)


def trailing(W: Any, rows: list[Any], alpha: float, every: int) -> Iterator[Batch]:
    """Every so many steps the reference moves towards the policy: W_ref ← (1-α) W_ref + α W."""
    ref, done = W, 0
    for batch in pairs(W, rows):

        def with_latest(params: dict[str, Any], batch: dn.Preferences = batch) -> dn.Preferences:
            nonlocal ref, done
            if done and done % every == 0:
                ref = (1 - alpha) * ref + alpha * params["W"]
            done += 1
            return batch.with_reference(POLICY, {"W": ref})

        yield with_latest


def singles(rows: list[Any]) -> list[Any]:
    return [(prompt, y, k == 0) for prompt, *both in rows for k, y in enumerate(both)]


def unpaired(W: Any, rows: list[Any]) -> Iterator[Batch]:
    """KTO's batches: z₀ = max(0, the mean log-ratio of each prompt with the completion before it in the batch)."""
    ones = singles(rows)
    for at in in_order(len(ones)):
        prompts, completions, labels = zip(*(ones[i] for i in at), strict=True)
        batch = dn.Preferences.of(prompts, completions, label=labels).with_reference(POLICY, {"W": W})
        other = dn.Preferences.of(prompts, [completions[-1], *completions[:-1]]).with_reference(POLICY, {"W": W})

        def with_z0(params: dict[str, Any], batch: dn.Preferences = batch,
                    other: dn.Preferences = other) -> dn.Preferences:
            values, _ = dn.read(POLICY, params, other.responses, other.index[:, 0], ["logp"])
            return batch.with_facts(z0=max(0, (values["logp"] - other.fact("ref_logp")[:, 0]).mean()))

        yield with_z0


def toy(rng: np.random.Generator) -> list[Any]:
    """Prompts of 1 to 3 tokens, two different responses of 1 to 6 and the end of string."""
    def some(low: int, high: int) -> list[int]:
        return rng.integers(1, V, rng.integers(low, high + 1)).tolist()

    rows = []
    while len(rows) < PAIRS:
        prompt, chosen, rejected = some(1, 3), [*some(1, 6), 0], [*some(1, 6), 0]
        if chosen != rejected:
            rows.append((prompt, chosen, rejected))
    return rows


# ---- both

class Recipe(NamedTuple):
    name: str
    theirs: Callable[[Any, list[Any]], list[Any]]
    ours: Callable[[Any, list[Any], float], Iterator[Any]]  # of β


def recipes() -> list[Recipe]:
    L = dn.LOSSES

    def dpo(**config: Any) -> Callable[[Any, list[Any]], list[Any]]:
        return lambda W, rows: their_path(
            W, [{"prompt": words(p), "chosen": words(w[:-1]), "rejected": words(v[:-1])} for p, w, v in rows],
            trl.DPOTrainer, trl.DPOConfig, **config)

    def kto(W: Any, rows: list[Any]) -> list[Any]:
        data = [{"prompt": words(p), "completion": words(y[:-1]), "label": label} for p, y, label in singles(rows)]
        return their_path(W, data, trl.KTOTrainer, trl.KTOConfig, desirable_weight=1.5)

    sync = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 5}
    return [
        Recipe("DPO sigmoid", dpo(loss_type=["sigmoid"]),
               lambda W, rows, beta: our_path(W, L["dpo"](beta=beta), pairs(W, rows))),
        Recipe("DPO ipo", dpo(loss_type=["ipo"]),
               lambda W, rows, beta: our_path(W, L["ipo"](tau=beta, reduction="mean"), pairs(W, rows))),
        Recipe("DPO sigmoid, reference follows", dpo(loss_type=["sigmoid"], **sync),
               lambda W, rows, beta: our_path(W, L["dpo"](beta=beta), trailing(W, rows, 0.6, 5))),
        Recipe("KTO", kto, lambda W, rows, beta: our_path(W, L["kto"](beta=beta, lam_d=1.5), unpaired(W, rows))),
    ]


def apart(theirs: list[Any], ours: Iterator[Any], eps: float) -> list[float]:
    return [float(abs(a - b).max() / (eps * abs(b).max())) for a, b in zip(theirs, ours, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where to write the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    setting = {"vocab": V, "steps": STEPS, "pairs": PAIRS, "batch": BATCH, "lr": LR, "beta": BETA}
    print(", ".join(f"{name} {value}" for name, value in (versions | setting).items()) + "; max|ΔW| / (eps max|W|)")
    heads = "W moved", "step 1", "worst", "at step", "a step", "β 1% off"
    print(f"{'trainer':32}{'model':9}{'eps of':9}" + "".join(f"{head:>10}" for head in heads))
    table = []
    for recipe in recipes():
        for dtype in ("float32", "float64"):
            rng = np.random.default_rng(0)
            rows, W = toy(rng), rng.normal(size=(V, V)).astype(np.float32).astype(dtype)
            theirs = recipe.theirs(W, rows)
            computed = "float32" if NEW else dtype  # the newest's fused head is float32 whatever the model is
            eps = float(np.finfo(computed).eps)
            off, control = (apart(theirs, recipe.ours(W, rows, beta), eps) for beta in (BETA, 1.01 * BETA))
            a_step = max(x / (t + 1) for t, x in enumerate(off))
            same = a_step <= PER_STEP and all(c > PER_STEP * (t + 1) for t, c in enumerate(control))
            moved = float(abs(theirs[-1] - W).max())
            table.append({"trainer": recipe.name, "dtype": dtype, "eps": computed, "moved": moved, "off": off,
                          "control": control, "a_step": a_step, "same": same})
            numbers = moved, off[0], max(off), 1 + int(np.argmax(off)), a_step, max(control)
            print(f"{recipe.name:32}{dtype:9}{computed:9}" + "".join(f"{x:10.2g}" for x in numbers)
                  + ("  the same path" if same else "  NOT THE SAME PATH"))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**versions, **setting, "per_step": PER_STEP, "rows": table}, file, indent=1)
    return 0 if all(line["same"] for line in table) else 1


if __name__ == "__main__":
    sys.exit(main())
