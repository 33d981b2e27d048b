"""Every loss of pairs, single responses and rankings: value and gradient in log-probs, beside autograd.

Ours is a call of the public object. torch: the formula as one would write it, `.sum().backward()` to fresh gradients,
on one thread below `MANY` rows, where a second one only delays it. TRL: its trainer's own `_compute_loss` on responses
of one token, cut before it logs (`without_logging`), or its `cpo_loss`. All in float64, on log-probs of responses of 5
to 60 tokens.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

import dpo_numpy as dn
from benchmarks.harness import Case, Run, number, text_of, verdict

TARGETS = {32: 3.0, 1024: 2.5, 65536: 0.6}
MANY = 10_000
TOKENS = 16  # of the loss that reads tokens
WITH_TRL = {  # loss -> options of trl.DPOConfig, or the type of trl's CPOConfig
    "dpo": {"loss_type": ["sigmoid"]}, "hinge": {"loss_type": ["hinge"]}, "nca": {"loss_type": ["nca_pair"]},
    "exo": {"loss_type": ["exo_pair"], "label_smoothing": 0.001}, "sppo": {"loss_type": ["sppo_hard"], "beta": 0.001},
    "rdpo": {"loss_type": ["robust"], "label_smoothing": 0.1}, "bco": {"loss_type": ["bco_pair"]},
    "aot": {"loss_type": ["aot"]}, "aot_unpaired": {"loss_type": ["aot_unpaired"]},
    "apo_zero": {"loss_type": ["apo_zero"]}, "apo_down": {"loss_type": ["apo_down"]},
    "discopop": {"loss_type": ["discopop"], "beta": 0.05, "discopop_tau": 0.05},
    "f_dpo_js": {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
    "f_dpo_forward_kl": {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"},
    "simpo": {"cpo": "simpo"}, "alphapo": {"cpo": "simpo"},
}
HYPER = {"apo_zero": {"plus_one": True}, "apo_down": {"plus_one": True}}  # as TRL has them, so that values agree


def _cases() -> list[Case]:
    found = []
    for B, target in TARGETS.items():
        for name in dn.LOSSES:
            targets = {"torch": target, **({"TRL": target} if name in WITH_TRL else {}),
                       **({"HIPS autograd": None, "bare NumPy": None} if name == "dpo" else {})}
            found.append(Case(f"{name}, B = {B:,}", "losses", {"loss": name, "B": B}, targets=targets,
                              rtol=1e-6 if name == "exo" else 1e-9, atol=1e-11,  # TRL's ε of exo is in float32
                              small={"B": 4}, profiled=name == "dpo"))
    return found


def data(loss: str, B: int, seed: int = 0) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(the loss, what it reads, what it is told)"""
    rng = np.random.default_rng(seed)
    made = dn.LOSSES[loss](**HYPER.get(loss, {}))
    K = 1 if "label" in made.needs else 4 if {"present", "score"} & {*made.needs} and loss != "odpo" else 2
    shape = (B, K, TOKENS) if "token_logp" in made.reads else (B, K)
    length = rng.integers(5, TOKENS if len(shape) == 3 else 60, (B, K))
    ref_logp = -rng.uniform(1, 3, shape) * (1 if len(shape) == 3 else length)
    logp = np.minimum(ref_logp + rng.normal(0, 1.5, shape), -0.01)
    mask = np.arange(TOKENS) < length[..., None]
    if len(shape) == 3:
        logp, ref_logp = logp * mask, ref_logp * mask
    reads = {"logp": logp, "token_logp": logp, "reward": rng.normal(size=shape), "kl": rng.uniform(0, 5, shape)}
    facts = {"ref_logp": ref_logp, "ref_token_logp": ref_logp, "mask": mask, "length": length, "delta": 0.0,
             "m0": 0.2, "keep": rng.random(B) < 0.8, "w": rng.uniform(0.3, 1.3, (B, K)), "z0": 0.3,
             "label": rng.random(B) < 0.5, "score": -np.sort(-rng.normal(size=(B, K)), axis=1),
             "reward": rng.normal(size=(B, K)), "margin": rng.uniform(0, 1, B)}
    return made, {name: reads[name] for name in made.reads}, {name: facts[name] for name in made.needs if name in facts}


def told(total: Any, grads: Mapping[str, Any]) -> dict[str, Any]:
    return {"total": np.asarray(total), **{f"gradient in {name}": np.asarray(grad) for name, grad in grads.items()}}


def ours(loss: str, B: int) -> Run:
    made, reads, facts = data(loss, B)
    ref_logp = facts.pop("ref_logp", None)
    first = reads if len(reads) > 1 else next(iter(reads.values()))

    def numbers() -> dict[str, Any]:
        value, grad = made(first, ref_logp, **facts)
        return told(value.sum(), grad if len(reads) > 1 else {made.reads[0]: grad})

    return Run(lambda: made(first, ref_logp, **facts), numbers)


# ---- torch

def formulas() -> dict[str, Callable[[Any], Any]]:
    """loss -> its sum over rows, at our defaults; `w`, `l`: log-probs of chosen and rejected; r: the reference's"""
    import torch
    import torch.nn.functional as F

    ls, sigmoid, exp, where = F.logsigmoid, torch.sigmoid, torch.exp, torch.where
    bce = F.binary_cross_entropy_with_logits

    def h(d):
        return (d.w - d.l) - (d.rw - d.rl)

    def smooth(z, eps):
        return (-(1 - eps) * ls(z) - eps * ls(-z)).sum()

    def exo(d, beta=0.1, eps=1e-3):
        z = beta * h(d)
        return (sigmoid(z) * (ls(z) - np.log1p(-eps)) + sigmoid(-z) * (ls(-z) - np.log(eps))).sum()

    def rdpo(d, beta=0.1, eps=0.1):
        z = beta * h(d)
        return ((-(1 - eps) * ls(z) + eps * ls(-z)) / (1 - 2 * eps)).sum()

    def nca(d, beta=0.1):
        a, b = beta * (d.w - d.rw), beta * (d.l - d.rl)
        return -(ls(a) + 0.5 * ls(-a) + 0.5 * ls(-b)).sum()

    def bco(d, beta=0.1):
        return -(ls(beta * (d.w - d.rw) - d.delta) + ls(d.delta - beta * (d.l - d.rl))).sum()

    def sppo(d, beta=1e-3):
        return ((d.w - d.rw - 0.5 / beta) ** 2 + (d.l - d.rl + 0.5 / beta) ** 2).sum()

    def apo_down(d, beta=0.1):
        a, b = beta * (d.w - d.rw), beta * (d.l - d.rl)
        return (sigmoid(a) + 1 - sigmoid(a - b)).sum()

    def dpop(d, beta=0.1, lam=50.0):
        a, b = d.w - d.rw, d.l - d.rl
        return -ls(beta * (a - b - lam * F.relu(-a))).sum()

    def cal_dpo(d, beta=0.1):
        a, b = d.w - d.rw, d.l - d.rl
        return (-ls(a - b) + (a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2).sum()

    def reward_rpo(d, beta=0.1):
        t = d.reward[0] - d.reward[1]
        p = sigmoid(t)
        return bce(beta * h(d), p, reduction="sum") - bce(t, p, reduction="sum")

    def beta_dpo(d, beta=0.1, alpha=0.6, floor=1e-3):
        x = h(d)
        with torch.no_grad():
            rate = (beta * (1 + alpha * (x[d.keep].mean() - d.m0))).clamp(min=floor)
        return -(ls(rate * x) * d.keep).sum()

    def wpo(d, beta=0.1):
        return -((d.w_[0] * d.w_[1]).clamp(max=1) * ls(beta * h(d))).sum()

    def discopop(d, beta=0.05, tau=0.05):
        x = beta * h(d)
        m = sigmoid(x / tau)
        return (-ls(x) * (1 - m) + exp(-x) * m).sum()

    def alpha_divergence(d, beta=0.1, alpha=0.5):
        return -ls(beta / alpha * (exp(-alpha * (d.l - d.rl)) - exp(-alpha * (d.w - d.rw)))).sum()

    def ld_dpo(d, beta=0.1, alpha=0.5):
        shared = d.mask.sum(-1).amin(1)[:, None, None]
        count = where(d.mask.cumsum(-1) <= shared, 1.0, alpha) * d.mask
        z = ((d.token_logp - d.ref_token_logp) * count).sum(-1)
        return -ls(beta * (z[:, 0] - z[:, 1])).sum()

    def aot(d, beta=0.1):
        return -ls(beta * (torch.sort(d.w - d.l)[0] - torch.sort(d.rw - d.rl)[0])).sum()

    def aot_unpaired(d, beta=0.1):
        return -ls(beta * (torch.sort(d.w - d.rw)[0] - torch.sort(d.l - d.rl)[0])).sum()

    def kto_pair(d, beta=0.1):
        a, b = d.w - d.rw, d.l - d.rl
        kl_w, kl_l = a.mean().clamp(min=0), b.mean().clamp(min=0)
        return (1 - 0.5 * (sigmoid(beta * (a - kl_l)) + sigmoid(beta * (kl_w - b)))).sum()

    def simpo(d, beta=2.0, gamma=1.0):
        return -ls(beta * (d.w / d.nw - d.l / d.nl) - gamma).sum()

    def alphapo(d, beta=2.5, gamma=0.1, alpha=0.25):
        return -ls(beta / alpha * (exp(-alpha * d.l / d.nl) - exp(-alpha * d.w / d.nw)) - gamma).sum()

    def orpo(d, lam=0.1):
        w, l = d.w / d.nw, d.l / d.nl  # noqa: E741
        log_odds = w - l - (torch.log1p(-exp(w)) - torch.log1p(-exp(l)))
        return -(w + lam * ls(log_odds)).sum()

    def kto(d, beta=0.1):
        r = d.x[:, 0] - d.rx[:, 0]
        return (1 - sigmoid(beta * where(d.label, r - d.z0, d.z0 - r))).sum()

    def bco_unpaired(d, beta=0.1):
        z = beta * (d.x[:, 0] - d.rx[:, 0]) - d.delta
        return -ls(where(d.label, z, -z)).sum()

    def apo_zero_unpaired(d, beta=0.1):
        z = beta * (d.x[:, 0] - d.rx[:, 0])
        return (1 - sigmoid(where(d.label, z, -z))).sum()

    def luce(s):
        return (torch.logcumsumexp(s.flip(-1), -1).flip(-1) - s).sum()

    def infonca(d, beta=0.01, alpha=0.01):
        return -(F.softmax(d.score / alpha, -1) * F.log_softmax(beta * (d.x - d.rx), -1)).sum()

    def nca_listwise(d, beta=0.01, alpha=0.01):
        u = beta * (d.x - d.rx)
        return -(F.softmax(d.score / alpha, -1) * ls(u) + ls(-u) / u.shape[1]).sum()

    def dpo(d):
        return -ls(0.1 * h(d)).sum()

    return {
        "dpo": dpo, "cdpo": lambda d: smooth(0.1 * h(d), 0.1), "rdpo": rdpo,
        "ipo": lambda d: ((h(d) - 5.0) ** 2).sum(), "hinge": lambda d: F.relu(1 - 0.1 * h(d)).sum(), "exo": exo,
        "nca": nca, "bco": bco, "sppo": sppo,
        "apo_zero": lambda d: (1 - sigmoid(0.1 * (d.w - d.rw)) + sigmoid(0.1 * (d.l - d.rl))).sum(),
        "apo_down": apo_down, "dpop": dpop, "cal_dpo": cal_dpo, "reward_rpo": reward_rpo,
        "odpo": lambda d: -ls(0.1 * h(d) - torch.log(d.score[0] - d.score[1])).sum(), "beta_dpo": beta_dpo, "wpo": wpo,
        "discopop": discopop,
        "f_dpo_forward_kl": lambda d: -ls(0.1 * (exp(d.rl - d.l) - exp(d.rw - d.w))).sum(),
        "f_dpo_js": lambda d: -ls(0.1 * (ls(d.w - d.rw) - ls(d.l - d.rl))).sum(), "f_dpo_alpha": alpha_divergence,
        "f_dpo_chi2": lambda d: -ls(0.1 * (exp(d.w - d.rw) - exp(d.l - d.rl))).sum(),
        "ln_dpo": lambda d: -ls(5 * ((d.w - d.rw) / d.nw - (d.l - d.rl) / d.nl)).sum(),
        "r_dpo": lambda d: -ls(0.1 * h(d) + 0.1 * (d.nw - d.nl).to(d.w)).sum(), "ld_dpo": ld_dpo, "aot": aot,
        "aot_unpaired": aot_unpaired, "kto_pair": kto_pair,
        "tdpo1": lambda d: -ls(0.1 * (h(d) - (d.kl_l - d.kl_w))).sum(),
        "tdpo2": lambda d: -ls(0.1 * (h(d) - 0.5 * (d.kl_l - d.kl_w.detach()))).sum(), "simpo": simpo,
        "alphapo": alphapo, "cpo": lambda d: -(ls(0.1 * (d.w - d.l)) + d.w).sum(), "orpo": orpo,
        "slic": lambda d: (F.relu(1 - d.w + d.l) - d.w).sum(), "sft": lambda d: -d.w.sum(),
        "sft_mean": lambda d: -(d.w / d.nw).sum(),
        "rpo": lambda d: -(ls(0.1 * h(d)) + d.w / d.nw).sum(),
        "mpo": lambda d: 0.8 * dpo(d) + 0.2 * bco(d) - (d.w / d.nw).sum(), "kto": kto, "bco_unpaired": bco_unpaired,
        "apo_zero_unpaired": apo_zero_unpaired, "pl_dpo": lambda d: luce(0.1 * (d.x - d.rx)), "infonca": infonca,
        "nca_listwise": nca_listwise, "bt_rm": lambda d: -ls(d.w - d.l - d.margin).sum(),
        "pl_rm": lambda d: luce(d.x),
    }


def on_threads(B: int) -> None:
    import os

    import torch

    torch.set_num_threads(1 if B < MANY else int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))


def by_torch(loss: str, B: int) -> Run:
    import torch

    f = formulas()[loss]
    on_threads(B)
    _, reads, facts = data(loss, B)
    d, leaves = SimpleNamespace(), {}

    def tensor(x: Any) -> Any:
        return torch.tensor(x) if np.ndim(x) else x

    for name, x in reads.items():
        pairs = x.shape[1:] == (2,)  # chosen and rejected are vectors of their own
        leaves[name] = [torch.tensor(part, requires_grad=True) for part in (x[:, 0], x[:, 1])] if pairs else [
            torch.tensor(x, requires_grad=True)]
        names = {"kl": ["kl_w", "kl_l"]}.get(name, ["w", "l"]) if pairs else ["token_logp" if x.ndim == 3 else "x"]
        for one, leaf in zip(names, leaves[name], strict=True):
            setattr(d, one, leaf)
    for name, x in facts.items():
        columns = np.shape(x)[1:] == (2,)
        parts = [tensor(np.ascontiguousarray(x[:, k])) for k in (0, 1)] if columns else [tensor(x)]
        names = {"ref_logp": ["rw", "rl"] if columns else ["rx"], "length": ["nw", "nl"]}.get(name)
        if names:
            d.__dict__.update(zip(names, parts, strict=True))
        else:
            setattr(d, {"w": "w_"}.get(name, name), parts if columns else parts[0])

    def work() -> Any:
        for leaf in (leaf for group in leaves.values() for leaf in group):
            leaf.grad = None
        total = f(d)
        total.backward()
        return total

    def numbers() -> dict[str, Any]:
        total = work().item()
        grads = {}
        for name, group in leaves.items():
            parts = [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for leaf in group]
            grads[name] = np.stack(parts, axis=1) if len(parts) == 2 else parts[0]
        return told(total, grads)

    return Run(work, numbers)


# ---- HIPS autograd, and NumPy without a library

def bare(loss: str, B: int) -> Run:
    """The plain formula of dpo into arrays that are kept, without a check, and without digits far from 0"""
    _, reads, facts = data(loss, B)
    logp, ref_logp = reads["logp"], facts["ref_logp"]
    grad, value, e, p = np.empty_like(logp), *np.empty((3, B))

    def work() -> None:
        np.subtract(logp, ref_logp, out=grad)
        np.subtract(grad[:, 1], grad[:, 0], out=e)
        np.exp(np.multiply(e, 0.1, out=e), out=e)
        np.log1p(e, out=value)
        np.divide(e, np.add(e, 1, out=p), out=p)
        np.multiply(p, 0.1, out=grad[:, 1])
        np.multiply(p, -0.1, out=grad[:, 0])

    def numbers() -> dict[str, Any]:
        work()
        return told(value.sum(), {"logp": grad})

    return Run(work, numbers)


def by_autograd(loss: str, B: int) -> Run:
    import autograd.numpy as anp
    from autograd import value_and_grad

    _, reads, facts = data(loss, B)
    logp, ref_logp = reads["logp"], facts["ref_logp"]

    def dpo(logp: Any) -> Any:
        ratio = logp - ref_logp
        return anp.sum(anp.logaddexp(0.0, -0.1 * (ratio[:, 0] - ratio[:, 1])))

    run = value_and_grad(dpo)

    def numbers() -> dict[str, Any]:
        total, grad = run(logp)
        return told(total, {"logp": grad})

    return Run(lambda: run(logp), numbers)


# ---- TRL

def without_logging(trainer: Any) -> Callable[..., Any]:
    """Its `_compute_loss` as far as the loss: what it logs afterwards takes longer than that."""
    import inspect
    import sys

    source = textwrap.dedent(inspect.getsource(trainer._compute_loss))
    loss, cut, _ = source.partition("    # Log the metrics\n")
    if not cut:
        raise RuntimeError("TRL's DPOTrainer._compute_loss does not say where it begins to log")
    scope: dict[str, Any] = {}
    exec(loss + "    return loss\n", vars(sys.modules[trainer.__module__]), scope)
    return scope["_compute_loss"]


def by_trl(loss: str, B: int) -> Run:
    import os
    import tempfile
    import warnings

    os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", CUDA_VISIBLE_DEVICES="")
    warnings.filterwarnings("ignore")
    import torch
    import trl
    from accelerate import Accelerator

    on_threads(B)
    options = dict(WITH_TRL[loss])
    _, reads, facts = data(loss, B)
    folder = os.path.join(tempfile.gettempdir(), "peers")
    common = {"use_cpu": True, "bf16": False, "report_to": "none"}
    if "cpo" in options:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        hyper = {"simpo": {"beta": 2.0, "simpo_gamma": 1.0},
                 "alphapo": {"beta": 2.5, "simpo_gamma": 0.1, "alpha": 0.25}}
        args = CPOConfig(folder, loss_type="simpo", cpo_alpha=0.0, **hyper[loss], **common)
        trainer = object.__new__(CPOTrainer)
        vars(trainer).update(accelerator=Accelerator(cpu=True), beta=args.beta, loss_type="simpo", alpha=args.alpha,
                             simpo_gamma=args.simpo_gamma, label_smoothing=0.0)
        leaves = [torch.tensor(reads["logp"][:, k], requires_grad=True) for k in (0, 1)]
        n = torch.tensor(facts["length"])
        lengths = n[:, 0].contiguous(), n[:, 1].contiguous()

        def work() -> Any:
            for leaf in leaves:
                leaf.grad = None
            total = trainer.cpo_loss(leaves[0] / lengths[0], leaves[1] / lengths[1])[0].sum()
            total.backward()
            return total

        def numbers() -> dict[str, Any]:
            total = work().item()
            return told(total, {"logp": np.stack([leaf.grad.numpy() for leaf in leaves], axis=1)})

        return Run(work, numbers)

    args = trl.DPOConfig(folder, **{"beta": 0.1, **options}, **common)
    leaf = torch.tensor(reads["logp"].T.reshape(-1, 1), requires_grad=True)  # chosen above rejected, one token each
    ref = torch.tensor(facts["ref_logp"].T.reshape(-1))
    trainer = object.__new__(trl.DPOTrainer)
    names = "beta ld_alpha f_divergence_type f_alpha_divergence_coef label_smoothing use_weighting"
    vars(trainer).update(
        {name: getattr(args, name) for name in names.split()}, args=args, accelerator=Accelerator(cpu=True),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, precompute_ref_logps=True,
        loss_types=args.loss_type, loss_weights=[1.0])
    ids = torch.ones((2 * B, 2), dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": torch.tensor([[0, 1]]).expand(2 * B, 2),
              "ref_chosen_logps": ref[:B], "ref_rejected_logps": ref[B:]}
    compute = without_logging(trl.DPOTrainer)

    def answer(**_: Any) -> Any:
        return SimpleNamespace(log_probs=leaf)

    def work() -> Any:
        leaf.grad = None
        mean = compute(trainer, answer, inputs, False)
        mean.backward()
        return mean

    def numbers() -> dict[str, Any]:
        total = B * work().item()
        return told(total, {"logp": B * leaf.grad.numpy().reshape(2, B).T})

    return Run(work, numbers)


SIDES = {"numpy": ("numpy", ours), "torch": ("torch", by_torch), "TRL": ("trl", by_trl),
         "HIPS autograd": ("autograd", by_autograd), "bare NumPy": ("numpy", bare)}
CASES = _cases()


# ---- the page

def table(results: list[Mapping[str, Any]]) -> str:
    """A row a batch size over all losses; then a row a loss."""
    by_size: dict[int, dict[str, Mapping[str, Any]]] = {}
    for result in results:
        by_size.setdefault(result["params"]["B"], {})[result["params"]["loss"]] = result
    lines = ["| B | peer | losses | least | median | most | target | met |", "| --- " * 8 + "|"]
    for B, members in sorted(by_size.items()):
        for label in dict.fromkeys(label for result in members.values() for label in result["peers"]):
            peers = [result["peers"][label] for result in members.values() if "ratio" in result["peers"].get(label, {})]
            if not peers:
                continue
            medians, target = [peer["ratio"][1] for peer in peers], peers[0]["target"]
            met = "" if target is None else str(sum(verdict(x, target) == "met" for x in medians))
            three = " | ".join(number(x) for x in (min(medians), float(np.median(medians)), max(medians)))
            lines.append(f"| {B:,} | {label} | {len(peers)} | {three} | {number(target) if target else ''} | {met} |")
    sizes = sorted(by_size)
    lines += ["", "| loss |" + "".join(f" ours, B = {B:,} | torch | TRL |" for B in sizes),
              "| --- |" + " --- | --- | --- |" * len(sizes)]
    for name in dict.fromkeys(result["params"]["loss"] for result in results):
        cells = [name]
        for B in sizes:
            result = by_size[B].get(name)
            cells += [text_of(result["seconds"][result["ours"]][1]), *(_cell(result["peers"].get(label))
                      for label in ("torch", "TRL"))] if result else [""] * 3
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(peer: Mapping[str, Any] | None) -> str:
    if not peer or "ratio" not in peer:
        return ""
    low, median, high = peer["ratio"]
    text = f"{number(median)} ({number(low)} to {number(high)})"
    return f"**{text}**" if verdict(median, peer["target"]) not in ("", "met") else text


SCALING = {"losses": ("comparisons B; least, median and most over all losses", "B",
                      lambda result, label: label if label in ("torch", "TRL") else None)}
