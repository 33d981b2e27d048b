"""`dpo-numpy train FILE`: real preferences in; a trained toy language model, its log, its curves and a report out."""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data import Examples, Row, load
from ..data.files import contents
from . import models
from .curves import draw, metrics_csv
from .loop import Run, told
from .models import Problem
from .options import Options, add_options, make_loss
from .report import report
from .run_folder import RunFolder

EPILOG = """Writes into the output folder: config.json, env.json, log.jsonl (a line a step), metrics.csv (the
same as a table), params.npz, curves.png, report.txt, and checkpoint.npz to resume from. Rewards in the log are beta
(or tau, else 1) times the log-ratio to the reference, whatever the loss. A step's loss, logps and rewards are those
before it; eval_, kl/ and length/policy those after it."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="real preference data in; a trained toy language model, its curves and a report out",
        description="Fits an n-gram reference to a preference file, trains it by DPO or another loss, and reports what"
        " happened, on held-out groups too. The format of the file is recognized: JSON, JSONL, CSV or Parquet, "
        "gzipped or not.",
        epilog=EPILOG,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="preference data")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options, folder = Options.of(args), RunFolder(args.output_dir)
    folder.check(args.resume, args.overwrite_output_dir)
    inputs = {"file": str(args.file), "sha256": _sha256(args.file), "votes": args.votes and str(args.votes),
              "votes_sha256": args.votes and _sha256(args.votes)}
    before = folder.config() if args.resume else None
    _same(before, {name: value for name, value in (inputs | options.config()).items() if value is not None})
    with _warnings_as_sentences():
        examples = load(args.file, args.votes, args.strict)
        problem, held_rows, options, remark = prepare(examples, options)
    config = inputs | {"format": examples.format} | options.config() | {"output_dir": str(args.output_dir)}
    _same(before, config)
    if args.resume and folder.finished:
        _tell(f"{args.output_dir} holds a finished run of {options.max_steps} steps: nothing to do")
        return 0
    with np.errstate(all="ignore"):  # divergence is looked for, step by step, and told in a sentence
        this = Run(problem, options)
        this.rehearse()
        folder.open(config, environment(), args.resume)
        with closing(folder):
            _train(this, folder, args)
            text = report(this, examples, held_rows, remark, args.output_dir)
            folder.write("report.txt", lambda file: file.write(text.encode()))
    _tell(text)
    return 0


def _train(this: Run, folder: RunFolder, args: argparse.Namespace) -> None:
    done = folder.checkpoint() if args.resume else None
    begun, last = (done[1]["step"] if done else 0), this.options.max_steps or 0
    if done:
        _tell(f"resumed at step {begun}")
    number = begun
    with closing(folder.log(done[1]["log_bytes"] if done else 0)) as log:
        try:
            with _progress(last, begun, args.no_progress) as bar:
                for line in this.steps(folder, log, args.save_seconds, done):
                    number = line["step"]
                    if bar is not None:
                        bar.update()
                        bar.set_postfix({"loss": f"{line['loss']:.4f}"}, refresh=False)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"at step {number}; the same command with --resume goes on") from None
        lines = log.lines()
    folder.write("params.npz", lambda file: models.save_trained(file, this.problem, this.params))
    folder.write("metrics.csv", lambda file: file.write(metrics_csv(lines).encode()))
    folder.write("curves.png", lambda file: draw(lines, this, file))


#: facts that comparisons know, or that are read or estimated from the policies
SUPPLIED = ("ref_logp", "ref_token_logp", "length", "full_length", "mask", "present", "label", "z0", "delta", "w")


def prepare(examples: Examples, options: Options) -> tuple[Problem, list[Row], Options, list[str]]:
    """Rows to a problem: split, fitted, told what the loss needs. Also the held-out rows and remarks for the report."""
    loss, remark = make_loss(options), []
    if examples.scored is not None:
        raise ValueError(
            f"the file holds log-probs that are already computed and no text: nothing can be trained on it; "
            f"use the losses on them directly, dpo_numpy.LOSSES[{options.loss!r}]"
        )
    if "reward" in loss.reads:
        raise ValueError(f"{options.loss} trains a reward model, and the model here is a policy: expected another loss")
    unknown = [name for name in loss.needs if name not in SUPPLIED]
    if unknown:
        raise ValueError(
            f"{options.loss} needs {unknown[0]}, which neither the file nor the policy tells: call the loss in Python, "
            f"where batch.with_facts({unknown[0]}=...) tells it"
        )
    rows, columns = list(examples.rows), next((term.link.columns for term in loss.terms if term.link.columns), None)
    labelled = rows[0].label is not None
    if labelled and columns not in (None, 1):
        raise ValueError(
            f"{options.loss} compares pairs, and the file holds single completions with labels: use --loss kto"
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
        train_rows: list[Row] = rows
        held_rows: list[Row] = []
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
    return told(problem, options), held_rows, options.resolved(len(train_rows)), remark


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


def environment() -> dict[str, Any]:
    """What the bits may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    built: Any = np.show_config(mode="dicts")
    return {
        "dpo_numpy": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": platform.processor(),
        "numpy": np.__version__,
        **{name: installed(name) for name in ("scipy", "matplotlib")},
        "simd": built.get("SIMD Extensions", {}),
        "blas": {key: built.get("Build Dependencies", {}).get("blas", {}).get(key) for key in ("name", "version")},
    }


def _same(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a run is resumed that was asked something else; files may have moved, not changed."""
    for name, value in now.items() if before else ():
        was = before[name] if before and name in before else None
        if name in ("file", "votes", "output_dir") or was == value:
            continue
        if name.endswith("sha256"):
            raise ValueError(
                f"{'votes' if 'votes' in name else 'FILE'} has changed since the run began: its sha256 is "
                f"{value}, not {was}"
            )
        raise ValueError(
            f"{name} is {value}, but the run to resume was started with {was}: "
            "give that, or start anew with --overwrite_output_dir"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(contents(path)).hexdigest()


def _tell(text: str) -> None:
    """To standard output, whose reader may have gone: that must not stop a run."""
    from . import discard_output

    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()


def _progress(total: int, begun: int, unwanted: bool) -> Any:
    if not unwanted and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return nullcontext()
        return tqdm(total=total, initial=begun, unit="step")
    return nullcontext()


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"dpo-numpy: {warning.message}", file=sys.stderr)
