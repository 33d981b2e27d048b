"""mlx-lm-lora's losses through the kit: docs/libraries/mlx-lm-lora.md.

MLX is no framework of the kit's: arrays go there and back through NumPy, and gradients, which MLX takes, are returned
beside the losses. On Linux, with MLX's CPU backend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm_lora.trainer import cpo_trainer, dpo_trainer, orpo_trainer
from subjects import SHORT, call, main, subject

mx.set_default_device(mx.cpu)


def to_mlx(x: Any) -> Any:
    return mx.array(np.asarray(x, np.float32) if x.dtype.kind == "f" else np.asarray(x))


def judged(called: str, function: Callable[..., Any], loss: str, seam: str = "pair", **told: Any) -> None:
    subject(called, function, loss, seam, SHORT, framework=(to_mlx, np.array), gradient="returned", **told)


def with_gradients(value: Callable[..., Any], *x: Any) -> Any:
    """The mean loss, and its gradients in both."""
    mean, gradients = mx.value_and_grad(value, argnums=(0, 1))(*x)
    return mean, *gradients


def masks(x: Any) -> Any:
    """Of them the losses read the number of tokens alone, for what they log."""
    return mx.ones((x.shape[0], 2))


# ---- from log-probs of pairs

def dpo(kind: str) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, lam: float = 50.0) -> Any:
        def value(chosen: Any, rejected: Any) -> Any:
            return dpo_trainer.dpo_loss(chosen, rejected, rc, rr, masks(rc), masks(rr), beta, lam, kind)[0]

        return with_gradients(value, pc, pr)

    return f


def ipo(pc: Any, pr: Any, rc: Any, rr: Any, tau: float = 0.1) -> Any:
    return dpo("ipo")(pc, pr, rc, rr, tau)


def plain(kind: str) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
        return dpo(kind)(pc, pr, rc, rr, beta)

    return f


def cpo(pc: Any, pr: Any, beta: float = 0.1) -> Any:
    def value(chosen: Any, rejected: Any) -> Any:
        return cpo_trainer.cpo_loss(chosen, rejected, masks(pc), masks(pr), beta, 50.0, "sigmoid")[0]

    return with_gradients(value, pc, pr)


def orpo(pc: Any, pr: Any, lam: float = 0.1) -> Any:
    def value(chosen: Any, rejected: Any) -> Any:
        none, equal = mx.array(0.0), mx.ones(pc.shape)
        return orpo_trainer.orpo_loss(chosen, none, rejected, none, masks(pc), masks(pr), equal, lam)[0]

    return with_gradients(value, pc, pr)


judged(call("dpo_loss", loss_type="sigmoid"), plain("sigmoid"), "dpo", beta=0.1)
judged(call("dpo_loss", loss_type="hinge"), plain("hinge"), "hinge", beta=0.1)
judged(call("dpo_loss", loss_type="ipo") + " of given scores", ipo, "ipo", tau=0.1, reduction="sum")
judged(call("dpo_loss", loss_type="dpop"), dpo("dpop"), "dpop", beta=0.1, lam=50.0, because="finding 1")
judged(call("cpo_loss", loss_type="sigmoid"), cpo, "cpo", beta=0.1, alpha=0.0)
judged(call("orpo_loss"), orpo, "orpo", lam=0.1, because="finding 3, and log-probs stop at -1e-7")


# ---- from logits

class Model:
    """Answers with logits of ours."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def __call__(self, inputs: Any, cache: Any = None) -> Any:
        return self.logits[:, : inputs.shape[1]]


def score(kind: str) -> Callable[..., Any]:
    def f(logits: Any, tokens: Any, mask: Any) -> Any:
        counted = mask.astype(mx.float32)

        def value(x: Any) -> Any:
            return dpo_trainer.compute_score(dpo_trainer.get_token_scores(Model(x), tokens, counted), counted, kind)

        return value(logits), mx.grad(lambda x: value(x).sum())(logits)

    return f


def orpo_logps(logits: Any, tokens: Any, mask: Any) -> Any:
    def value(x: Any) -> Any:
        return orpo_trainer.get_logps(Model(x), tokens, mask.astype(mx.float32))[0]

    return value(logits), mx.grad(lambda x: value(x).sum())(logits)


judged("`compute_score` of `get_token_scores`", score("sigmoid"), "logp", "sequence")
judged("`compute_score(loss_type='ipo')` of `get_token_scores`", score("ipo"), "mean_logp", "sequence")
judged("`get_logps` of ORPO", orpo_logps, "mean_logp", "sequence")

if __name__ == "__main__":
    sys.exit(main("mlx-lm-lora mlx"))
