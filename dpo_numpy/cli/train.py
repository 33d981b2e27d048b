"""`dpo-numpy train`: preferences or a world in; a trained toy language model, its log, its curves and a report out."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import Examples, Row, load
from ..data.files import contents
from ..losses import Loss
from . import models, worlds
from .curves import draw, metrics_csv
from .environment import environment
from .loop import Loop, Run, told
from .methods import WORLDS
from .models import Problem
from .online import OnlineRun, judged
from .options import PROMPTS, Options, add_options, make_loss
from .reward import RewardRun, checked, load_reward_model, unbiased
from .run_folder import RunFolder
from .terminal import progress, tell, warnings_as_sentences
from .training_report import report

USAGE = "%(prog)s FILE [options]\n       %(prog)s --world NAME [options]"
DESCRIPTION = """Fits an n-gram reference to a preference file, trains it by DPO or another method,
and reports what happened, on held-out groups too. The format of the file is
recognized: JSON, JSONL, CSV or Parquet, gzipped or not. Or trains a policy in a
world that is built in, and reports how near it came to the best."""
EPILOG = """Writes into the output folder: config.json, env.json, log.jsonl (a line a step),
metrics.csv (the same as a table), params.npz, curves.png, report.txt, and
checkpoint.npz to resume from. In the log, loss, logps, reward and rewards/ of a
step are those before it; eval_, kl/, length/policy, reward/expected and J those
after it. rewards/ are beta (or tau, else 1) times the log-ratio to the
reference, whatever the loss. Of methods that sample, reward, kl and completions/
are means over the rollout. Where the reward is known, reward/expected,
J = E r - beta KL and kl/optimum, the KL to the policy of the largest J, are sums
over all responses."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="preference data, or a world, in; a trained toy policy, its curves and a report out",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options, folder = Options.of(args), RunFolder(args.output_dir)
    if args.reward_model is not None and args.reward_model.absolute() == args.output_dir.absolute():
        raise ValueError(f"output_dir is {args.output_dir}, where the reward model is: name another --output_dir")
    folder.check(args.resume, args.overwrite_output_dir)
    inputs: dict[str, Any] = {}
    for name, path in (("file", args.file), ("votes", args.votes), ("reward_model", args.reward_model)):
        inputs[name] = path and str(path)
        told = "sha256" if name == "file" else f"{name}_sha256"
        inputs[told] = path and _sha256(path if name != "reward_model" else checked(path))
    before = folder.config() if args.resume else None
    _same(before, {name: value for name, value in (inputs | options.config()).items() if value is not None})
    with warnings_as_sentences():
        this, about, held_rows = _made(args, options)
    options = this.options
    config = inputs | about.facts | options.config() | {"output_dir": str(args.output_dir)}
    _same(before, config)
    if args.resume and folder.finished:
        tell(f"{args.output_dir} holds a finished run of {options.max_steps} steps: nothing to do")
        return 0
    with np.errstate(all="ignore"):  # divergence is looked for, step by step, and told in a sentence
        this.rehearse()
        folder.open(config, environment(), args.resume)
        with closing(folder):
            _train(this, folder, args)
            text = report(this, about.lines, held_rows, args.output_dir)
            folder.write("report.txt", lambda file: file.write(text.encode()))
    tell(text)
    return 0


class About(NamedTuple):
    """The data: for the record, and as the report begins."""

    facts: dict[str, Any]
    lines: list[str]


def _made(args: argparse.Namespace, options: Options) -> tuple[Loop, About, list[Row]]:
    """The run of a world or a file; what is said of its data; the rows held out"""
    if options.world is not None:
        about = About({}, [f"world    {options.world}: {WORLDS[options.world]}"])
        if options.online:
            arena = worlds.arena(options)
            return OnlineRun(arena, options.resolved(len(arena.task.prompts))), about, []
        if "label" in _trainable(options).needs:
            raise ValueError(f"{options.loss} learns from single completions with labels, and {options.world} has pairs"
                             f": expected another loss")
        problem = worlds.problem(options)
        problem = unbiased(problem) if options.method == "rm" else told(problem, options)
        return _run(problem, options.resolved(len(problem.train))), about, []
    examples = load(args.file, args.votes, args.strict)
    problem, held_rows, options, remark = prepare(examples, options)
    about = About({"format": examples.format}, [examples.describe(), *(f"note     {line}" for line in remark)])
    if options.online:
        judge = load_reward_model(args.reward_model, problem.meta)
        about.lines.append(f"reward   {args.reward_model}")
        return OnlineRun(judged(problem, judge, options), options), about, []
    return _run(problem, options), about, held_rows


def _run(problem: Problem, options: Options) -> Run:
    return RewardRun(problem, options) if options.method == "rm" else Run(problem, options)


def _train(this: Loop, folder: RunFolder, args: argparse.Namespace) -> None:
    done = folder.checkpoint() if args.resume else None
    begun, last = (done[1]["step"] if done else 0), this.options.max_steps or 0
    if done:
        tell(f"resumed at step {begun}")
    number = begun
    with closing(folder.log(done[1]["log_bytes"] if done else 0)) as log:
        try:
            with progress(last, begun, args.no_progress) as bar:
                for line in this.steps(folder, log, args.save_seconds, done):
                    number = line["step"]
                    if bar is not None:
                        bar.update()
                        bar.set_postfix({"loss": f"{line['loss']:.4f}"}, refresh=False)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"at step {number}; the same command with --resume goes on") from None
        lines = log.lines()
    folder.write("params.npz", lambda file: models.save_trained(file, this.model, this.params, this.critic_params))
    folder.write("metrics.csv", lambda file: file.write(metrics_csv(lines).encode()))
    folder.write("curves.png", lambda file: draw(lines, this, file))


#: facts that comparisons know, or that are read or estimated from the policies; a margin is 0 unless the file tells it
SUPPLIED = ("ref_logp", "ref_token_logp", "length", "full_length", "mask", "present", "label", "margin", "z0", "delta",
            "w")


def prepare(examples: Examples, options: Options) -> tuple[Problem, list[Row], Options, list[str]]:
    """Rows to a problem: split, fitted, told what the loss needs. Also the held-out rows and remarks for the report."""
    if examples.scored is not None:
        raise ValueError(
            f"the file holds log-probs that are already computed and no text: nothing can be trained on it; "
            f"use the losses on them directly, dpo_numpy.LOSSES[{options.loss or 'dpo'!r}]"
        )
    if options.online:
        train_rows, held_rows, options = split(examples.rows, options)
        return models.ngram(train_rows, held_rows, options), held_rows, options.resolved(PROMPTS), []
    loss, remark = _trainable(options), []
    rows, columns = list(examples.rows), next((term.link.columns for term in loss.terms if term.link.columns), None)
    labelled = rows[0].label is not None
    if labelled and columns not in (None, 1):
        raise ValueError(
            f"{options.loss} compares pairs, and the file holds single completions with labels: "
            + ("expected a file of pairs" if options.method == "rm" else "use --loss kto")
        )
    if not labelled and "label" in loss.needs:
        rows = [
            row._replace(responses=(text,), label=k == 0, facts={})
            for row in rows
            for k, text in enumerate(row.responses)
        ]
        remark.append(
            f"{options.loss} learns from single completions: each pair was taken apart into a desired and an undesired"
        )
    if options.model == "tabular":
        remark.append("a table can say nothing about held-out prompts: all pairs were trained on, and none is held out")
        train_rows, held_rows = rows, []
        problem = models.table(rows, options)
    else:
        train_rows, held_rows, options = split(rows, options)
        if labelled and "label" not in loss.needs:
            train_rows = [row for row in train_rows if row.label]
            remark.append(f"{options.loss} knows no undesired completions: it was trained on the desired ones")
            if not train_rows:
                raise ValueError(
                    f"{options.loss} learns from desired completions only, and the training part holds none"
                )
        problem = models.ngram(train_rows, held_rows, options)
    problem = unbiased(problem) if options.method == "rm" else told(problem, options)
    return problem, held_rows, options.resolved(len(train_rows)), remark


def _trainable(options: Options) -> Loss:
    """The loss, if it can be told all that it needs"""
    loss = make_loss(options)
    if "reward" in loss.reads and options.method != "rm":
        raise ValueError(f"{options.loss} trains a reward model, and the model here is a policy: expected another loss,"
                         f" or --method rm")
    unknown = [name for name in loss.needs if name not in SUPPLIED]
    if unknown:
        raise ValueError(
            f"{options.loss} needs {unknown[0]}, which neither the {'world' if options.world else 'file'} nor the "
            f"policy tells: call the loss in Python, where batch.with_facts({unknown[0]}=...) tells it"
        )
    return loss


def split(rows: Sequence[Row], options: Options) -> tuple[list[Row], list[Row], Options]:
    """Whole groups are held out, at random: a reply that stands in several pairs must not be on both sides."""
    groups = list(dict.fromkeys(row.group for row in rows))
    fraction = options.eval_fraction if options.eval_fraction is not None else 0.2 if len(groups) > 1 else 0.0
    out = max(1, round(fraction * len(groups))) if fraction else 0
    if out == len(groups):
        raise ValueError(
            f"eval_fraction is {fraction:g} and holds out {out} of {len(groups)} groups: no pair is left to train on"
        )
    order = np.random.default_rng([options.seed, 0]).permutation(len(groups))
    held = {groups[i] for i in order[:out]}
    return ([row for row in rows if row.group not in held], [row for row in rows if row.group in held],
            replace(options, eval_fraction=fraction))


def _same(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a run is resumed that was asked something else; files may have moved, not changed."""
    for name, value in now.items() if before else ():
        was = before.get(name, value) if before else None  # an earlier version may not have asked
        if name in ("file", "votes", "reward_model", "output_dir") or was == value:
            continue
        if name.endswith("sha256"):
            what = name.removesuffix("sha256").rstrip("_") or "FILE"
            raise ValueError(f"{what} has changed since the run began: its sha256 is {value}, not {was}")
        raise ValueError(
            f"{name} is {value}, but the run to resume was started with {was}: "
            "give that, or start anew with --overwrite_output_dir"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(contents(path)).hexdigest()
