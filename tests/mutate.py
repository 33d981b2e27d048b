"""Mutation: the code is changed in one place at a time, and some test must fail.

    python tests/mutate.py                          every mutant; then docs/mutation.md is written anew
    python tests/mutate.py --sample 100 --seed 7    that many, drawn; of those not explained
    python tests/mutate.py --match logistic         those whose description holds the words
    python tests/mutate.py --list                   the descriptions alone
    python tests/mutate.py --journal FILE           verdicts are kept there; a run that was ended goes on with the rest

A mutant has one sign, operator, constant, comparison, argument order ... of one of `MODULES` changed (`changes`).
Annotations, docstrings, `__all__` and f-strings are left alone, and so is what stands in a `raise` unless `--sentences`
is given. It lives in a copy of the project in a temporary folder, never in the repository.

A mutant goes through four stages until one kills it:

    golden   the cases of golden.json, here, without pytest: off by 1e-6, a warning, another dtype. A coarse sieve: what
             fails it fails tests/test_golden.py too. Advantages have none: to import them is all
    tests    the module's own test file and doctests; what of test_golden, the contracts of test_losses, test_laws,
             test_readings and test_surrogates leans on it
    oracle   test_losses -k four_units; of surrogates, test_surrogates -k four_units
    rest     for losses and readings, test_gradient and other files that lean on them

Each runs in a process forked from one that has everything imported, so that a mutant costs a tenth of a second, and
ends when its share of CPU seconds is used up. Of tests with a parameter that names a loss, only those run whose loss
calls the changed function in some case of golden.json. The oracle's answers do not depend on the mutant: they are
computed once, before.

What survives must be explained below, in `EXPLAINED`: (function, piece of the description) and one sentence. An
explanation that no mutant answers to, or that answers to one that a test kills, is an error like a survivor.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import copyreg
import gc
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CI": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutation.md"
MODULES = ("numerics", "scores", "links", "losses", "readings", "surrogates", "advantages")
STAGES = ("golden", "tests", "oracle", "rest")
MEMORY = 6 << 30  # bytes that a process may map

#: a bound on errors may tell one of the two by its last bits: on some CPUs
LAST_BITS = "Both branches are right for a while on either side of where the code changes from one to the other."
#: (why these mutants cannot be told from the code, or need not be; [(module.function, piece of the description), ...])
EXPLAINED: list[tuple[str, list[tuple[str, str]]]] = [
    ("Where the two branches meet, they say the same.", [
        ("links._beyond", "z.real.dtype.itemsize ⟦>= → >⟧ np.asarray"),
        ("links.powers", "if abs(alpha) ⟦> → >=⟧ least"),
        ("links.powers", "low if alpha ⟦> → >=⟧ 0"),
    ]),
    (LAST_BITS, [
        ("numerics.log_sigmoid_difference", "abs(d) ⟦< → <=⟧ 1"),
        ("numerics.log_sigmoid_difference", "abs(d) < ⟦1 → 2⟧"),
        ("numerics.bernoulli_kl", "gap.real ⟦< → <=⟧ 2"),
        ("numerics.bernoulli_kl", "gap.real < ⟦2 → 1⟧"),
        ("numerics.bernoulli_kl", "gap.real < ⟦2 → 3⟧"),
        ("numerics.exp_minus_1_minus", "abs(d) ⟦< → <=⟧ 0.25"),
        ("numerics.kl_terms", "(d.real ⟦< → <=⟧ 2)"),
        ("numerics.kl_terms", "(d.real < ⟦2 → 1⟧)"),
        ("numerics.kl_terms", "(d.real < ⟦2 → 3⟧)"),
        ("links._turn", "eps ⟦> → >=⟧ 0.25"),
        ("links.powers", "smallest_normal ** ⟦0.5 → 0.25⟧"),
        ("links.infonca", "(⟦abs(d) → d⟧ < 1)"),
        ("links.infonca", "(abs(d) ⟦< → <=⟧ 1)"),
        ("links.infonca", "(abs(d) < ⟦1 → 2⟧)"),
        ("links.infonca", "(p.real ⟦> → >=⟧ 0.5)"),
        ("links.infonca", "(p.real > ⟦0.5 → 0.25⟧)"),
        ("links.infonca", "(q ⟦> → >=⟧ 0.5)"),
        ("links.infonca", "(q > ⟦0.5 → 0.25⟧)"),
        ("links.nca_listwise", "/ alpha ⟦< → <=⟧ 1"),
        ("links.nca_listwise", "/ alpha < ⟦1 → 2⟧"),
    ]),
    ("A number that stands in for one that is not used: it need only be finite.", [
        ("numerics.log_sigmoid_difference", "_within(d, ⟦1 → 2⟧)"),
        ("numerics.exp_minus_1_minus", "_within(⟦d, 0.25 → 0.25, d⟧)"),
        ("numerics.exp_minus_1_minus", "_within(d, ⟦0.25 → 1.25⟧)"),
        ("numerics.bernoulli_kl", "np.where(near, gap, ⟦0 → 1⟧)"),
        ("numerics.kl_terms", "np.where(none, ⟦0 → 1⟧"),
        ("numerics.kl_terms", "np.where(near, d, ⟦0 → 1⟧)"),
        ("numerics.kl_terms", "np.where(near, ⟦0 → 1⟧, d)"),
        ("scores.shared_length.fn", "else logp, ⟦0 → 1⟧)"),
        ("links._beyond", "np.where(np.isinf(near), ⟦0 → 1⟧, root)"),
        ("links._beyond", "np.where(np.isinf(near), ⟦0 → 1⟧, near)"),
        ("links.discopop", "np.where(np.isinf(decay), ⟦0 → 1⟧, decay)"),
        ("links.odds_ratio", "np.where(certain, ⟦1 → 2⟧, more)"),
        ("links.plackett_luce", "np.where(present, s, ⟦0 → 1⟧)"),
        ("links.infonca", "np.where(near, d, ⟦0 → 1⟧)"),
        ("links.nca_listwise", "score - score[:, None], ⟦0 → 1⟧)"),
        ("links.dynamic.fn", "np.where(kept, h.real, ⟦0 → 1⟧)"),
        ("links.dynamic.fn", "(total if total > 0 else ⟦1 → 2⟧)"),
        ("surrogates.reduced.fn", "np.where(mask, facts[name], ⟦0 → 1⟧)"),
    ]),
    ("A function whose arguments are exchanged says the same.", [
        ("numerics.sigmoid_difference", "signed_gap(⟦x[0] * y[1], y[0] * x → "),
        ("numerics.signed_gap", "np.maximum(⟦x, y → y, x⟧)"),
        ("numerics._log_loss", "np.maximum(rest⟦, rest - z → "),
        ("numerics.at_most_0", "np.minimum(⟦z, np.zeros("),
        ("numerics._one_where", "np.maximum(⟦certain, e → e, certain⟧)"),
        ("numerics._within", "np.minimum(⟦np.maximum("),
        ("numerics._within", "np.maximum(⟦d, -limit → -limit, d⟧)"),
        ("numerics.exact_product", "np.promote_types(⟦"),
        ("scores.shared_length.fn", "np.result_type(⟦"),
        ("scores.shared_length.fn", "np.maximum(⟦both * mask, "),
        ("scores.shared_length.fn", "np.multiply(⟦"),
        ("links.balanced", "signed_gap(⟦down * p, up * not_p → "),
        ("links.hinge", "np.multiply(⟦~(z.real >= 0), beta → "),
        ("losses.Loss._fill", "np.add(⟦scaled, 0 → 0, scaled⟧"),
        ("links.discopop", "np.minimum(⟦at * (1 - tau), -x → "),
        ("links.discopop", "np.maximum(⟦m, rest → rest, m⟧)"),
        ("links.reward_distance", "sigmoid_difference((⟦p, not_p), (q, not_q → "),
        ("links.dpop", "np.multiply(⟦a.real < 0, lam → "),
        ("links.apo_zero", "sigmoid_difference((⟦q, not_q), (p, not_p → "),
        ("links.apo_down", "sigmoid_difference((⟦p, not_p), (q, not_q → "),
        ("links.apo_down", "sigmoid_difference((⟦not_p, p), (q, not_q → "),
        ("links.powers", "np.maximum(⟦a, b → b, a⟧)"),
        ("links.powers", "np.minimum(⟦a, b → b, a⟧)"),
        ("links.odds_ratio", "np.maximum(⟦a, b → b, a⟧)"),
        ("links.odds_ratio", "np.minimum(⟦a, b → b, a⟧)"),
        ("links._sign", "np.multiply(⟦np.asarray(label, bool), 2 → "),
        ("links.fallen", "np.multiply(⟦s.real < 0, -1 → "),
        ("links.margin.fn", "np.multiply(⟦weight, slope → "),
        ("links.pair.fn", "np.multiply(⟦weight, up → "),
        ("links.pair.fn", "np.multiply(⟦weight, down → "),
        ("links.weighted", "np.minimum(⟦both, 1 → 1, both⟧)"),
        ("links._not_zero", "max(⟦x, float("),
        ("links.dynamic.fn", "np.maximum(⟦floor, beta"),
        ("links._coupling", "np.union1d(⟦"),
        ("links._coupling", "by_u[np.minimum(⟦"),
        ("links._coupling", "by_v[np.minimum(⟦"),
        ("losses._dtype", "np.result_type(⟦*given, np.float16 → "),
        ("losses.Loss._evaluate", "max(⟦BLOCK * B // max(first.size, 1), 1 → "),
        ("losses.Loss._evaluate", "max(⟦first.size, 1 → 1, first.size⟧)"),
        ("losses.Loss._fact", "np.broadcast_shapes(⟦"),
        ("losses.Loss._fact", "np.promote_types(⟦"),
        ("readings.sequence_logp", "np.result_type(⟦"),
        ("readings.sequence_kl", "np.result_type(⟦"),
        ("readings.sequence_reward", "np.result_type(⟦"),
        ("readings._scored", "max(⟦mask.size, 1 → 1, mask.size⟧)"),
        ("readings._walk", "max(⟦1, BLOCK // vocab → BLOCK // vocab, 1⟧)"),
        ("surrogates._count", "np.maximum(⟦"),
        ("surrogates._sum", "np.result_type(⟦"),
        ("advantages.group_advantage", "max(⟦centered.shape[-1] - ddof, 1 →"),
        ("advantages.whiten", "max(⟦int(here.sum()), 1 →"),
    ]),
    ("The square of a difference.", [
        ("links.squares", "((⟦a - target → target - a⟧) ** 2"),
    ]),
    ("A square has no sign.", [
        ("surrogates.value_error", "np.where(stays, ⟦ → -⟧held, error) ** 2"),
        ("surrogates.value_error", "np.where(stays, held, ⟦ → -⟧error) ** 2"),
    ]),
    ("What stands off the mask is the same number in both, whose difference is 0.", [
        ("advantages.penalized_reward", "np.where(here, _floats(x), ⟦0 → 1⟧)"),
    ]),
    ("The sign is 1 or -1: it divides as it multiplies.", [
        ("links.kto", "sigmoids(beta ⟦* → /⟧ sign * (s"),
        ("links.kto", "-beta * lam ⟦* → /⟧ sign * p"),
        ("links.classify", "-beta ⟦* → /⟧ sign"),
    ]),
    ("The last axis of two.", [
        ("numerics.log_normalizer", "argmax(axis=⟦- → ⟧1"),
        ("readings._at", "x.shape[⟦- → ⟧1]"),
        ("readings.token_logp", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_logp.pullback", "flat.shape[⟦- → ⟧1]"),
        ("readings.sequence_kl", "flat.shape[⟦- → ⟧1]"),
        ("readings.sequence_kl.forward", "terms(block)[0].sum(axis=⟦- → ⟧1)"),
        ("readings.sequence_kl.pullback", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_entropy", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_entropy.pullback", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_entropy.parts", "sum(axis=⟦- → ⟧1)"),
        ("readings.token_value", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_value.forward", "sum(axis=⟦- → ⟧1)"),
        ("readings.token_value.pullback", "flat.shape[⟦- → ⟧1]"),
        ("readings.token_value.shares", "sum(axis=⟦- → ⟧1,"),
    ]),
    ("NumPy takes any negative number for the axis that is left over.", [
        ("numerics.log_normalizer", "x.reshape(-⟦1 → 2⟧"),
        ("numerics.log_normalizer", "out.reshape(-⟦1 → 2⟧"),
        ("readings.token_logp", "logits.reshape(-⟦1 → 2⟧"),
        ("readings.token_logp.forward", "x.reshape(-⟦1 → 2⟧"),
        ("readings.token_logp.pullback.backward", "x.reshape(-⟦1 → 2⟧"),
        ("readings.token_logp", "value.reshape(-⟦1 → 2⟧)"),
        ("readings.token_logp.pullback", ".reshape(-⟦1 → 2⟧)"),
        ("readings.sequence_kl", "logits.reshape(-⟦1 → 2⟧"),
        ("readings.sequence_kl.forward", "each.reshape(-⟦1 → 2⟧)"),
        ("readings.sequence_kl.pullback", ".reshape(-⟦1 → 2⟧)"),
        ("readings.token_entropy", "logits.reshape(-⟦1 → 2⟧"),
        ("readings.token_entropy.forward", "value.reshape(-⟦1 → 2⟧)"),
        ("readings.token_entropy.pullback", ".reshape(-⟦1 → 2⟧)"),
        ("readings.sequence_reward", ".reshape(-⟦1 → 2⟧"),
        ("readings.sequence_reward.pullback", ".reshape(-⟦1 → 2⟧"),
        ("readings.token_value", ".reshape(-⟦1 → 2⟧"),
        ("readings.token_value.forward", ".reshape(-⟦1 → 2⟧"),
        ("readings.token_value.pullback", ".reshape(-⟦1 → 2⟧)"),
        ("readings._scored", ".reshape(-⟦1 → 2⟧)"),
    ]),
    ("Either way of adding up gives the same digits; which is taken is a matter of time.", [
        ("numerics.row_sums", "V ⟦<= → <⟧ 512"),
        ("numerics.row_sums", "if ⟦ → not ⟧V <= 512"),
        ("numerics.row_sums", "V <= ⟦512 → 513⟧"),
    ]),
    ("One more term of a series that is long enough.", [
        ("numerics.exp_minus_1_minus", "series = ⟦last * small → -(last * small)⟧"),
        ("numerics._taylor", "range(2, ⟦25 → 26⟧)"),
        ("numerics._taylor", "0.25 ** k ⟦> → >=⟧ np.finfo"),
        ("numerics._taylor", "eps / ⟦16 → 17⟧"),
    ]),
    ("Times 1 is the number itself.", [
        ("losses.Loss._fill", "x if coefficient == ⟦1 → 0⟧"),
    ]),
    ("A stable sort serves as well where nothing is tied; where something is, something is not.", [
        ("links._order", "(ranked[1:] ⟦== → !=⟧ ranked"),
    ]),
    ("A copy holds the same numbers.", [
        ("scores.shared_length.fn", "copy=⟦False → True⟧"),
    ]),
    ("Weights that are alike are all above 0, or none is.", [
        ("links._by_rank", "(weight > 0)⟦.all → .any⟧"),
    ]),
    ("A sum of one term is that term.", [
        ("losses.Loss._evaluate", "for term in self.terms] == [⟦1 → 2⟧]"),
    ]),
    ("Two rows are never cut into blocks.", [
        ("losses._of_rows", "x.shape[-1] > ⟦1 → 2⟧"),
    ]),
    ("Blocks of twice as many logits.", [
        ("readings", "BLOCK = ⟦1 → 2⟧ << 18"),
        ("readings", "BLOCK = 1 << ⟦18 → 19⟧"),
    ]),
    ("No rows are one block.", [
        ("losses.Loss._evaluate", "max(first.size, ⟦1 → 2⟧)"),
    ]),
    ("What is added to all scores of a row changes no probability.", [
        ("links.infonca", "beta * (s ⟦- → +⟧ s[0])"),
        ("links.infonca", "(score ⟦- → +⟧ score[0])"),
    ]),
    ("A ranking of one has probability 1: its logarithm and its slope are 0.", [
        ("links.plackett_luce", "range(len(s) - ⟦1 → 0⟧)"),
    ]),
    ("Of an array of zeros the shape matters.", [
        ("advantages.gae", "np.zeros_like(r ⟦- → +⟧ v)"),
        ("advantages.gae", "np.zeros_like(⟦r - v → v - r⟧)"),
    ]),
    ("No type of float has three bytes.", [
        ("losses._dtype", "dtype.itemsize > ⟦2 → 3⟧"),
    ]),
    ("A first token has nothing before it that predicts it: of a single position none is scored.", [
        ("readings._scored", "max(mask.size, ⟦1 → 2⟧)"),
    ]),
    ("What has no probability counts 0 times.", [
        ("readings.token_entropy.parts", "np.where(p == 0, ⟦0 → 1⟧"),
        ("readings.token_value.shares", "np.where(there, x, ⟦0 → 1⟧"),
    ]),
    ("One copy is a case of many.", [
        ("readings._scored", "if copies == ⟦1 → 0⟧"),
    ]),
    ("Negative places count from the end: the copies are taken in another order.", [
        ("readings._scored", "⟦np.arange(copies)[:, None] * mask.size → -("),
    ]),
    ("Two rows at a time instead of one.", [
        ("readings._walk", "max(⟦1 → 2⟧, BLOCK"),
    ]),
]


# ---- mutants

class Mutant(NamedTuple):
    module: str
    function: str  # Loss._fact; pair.fn; "" at the top of the module
    start: int  # bytes of the source ...
    end: int
    text: bytes  # ... and what comes in their place
    shown: str  # the statement, with what is changed as ⟦before → after⟧

    def __str__(self) -> str:
        left, changed, right = self.shown.replace("⟧", "⟦").split("⟦")
        left = left if len(left) < 45 else f"…{left[-43:]}"
        right = right if len(right) < 45 else f"{right[:43]}…"
        return f"{self.where}: {left}⟦{changed}⟧{right}"

    @property
    def where(self) -> str:
        return f"{self.module}.{self.function}" if self.function else self.module

    def applied(self, source: bytes) -> bytes:
        return source[:self.start] + self.text + source[self.end:]


OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}
COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}
NAMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "all": "any"}
NAMES |= {name: other for other, name in NAMES.items()}
#: functions of signed numbers
SIGNED = {"exp", "log", "expm1", "log1p", "sigmoid", "log_sigmoid", "sigmoid_difference", "log_sigmoid_difference",
          "bernoulli_kl", "exp_times", "exact_product", "exp_minus_1_minus", "logistic", "balanced"}


def negated(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.USub(), node)


def numbers(x: float) -> list[float]:
    other = {0: [1], 1: [0, 2], 2: [1, 3], 0.5: [0.25, 1.5]}.get(x, [x + 1])
    return [type(x)(y) for y in other]


def changes(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced by."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.Sub):
                yield ast.BinOp(right, op, left)
            if isinstance(op, ast.Pow):
                yield left
            products = (ast.Mult, ast.Div)
            inside = isinstance(parent, ast.BinOp) and isinstance(parent.op, products)
            if isinstance(op, products) and not inside and not isinstance(parent, ast.UnaryOp):
                yield negated(node)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield from map(ast.Constant, numbers(value))
        case ast.Constant(str(value)) if value and selects(node, parent):
            yield ast.Constant("")
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1:]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.Name(name) if isinstance(parent, ast.Call) and parent.func is node and name in NAMES:
            yield ast.Name(NAMES[name])
        case ast.Attribute(value, name) if isinstance(parent, ast.Call) and parent.func is node and name in NAMES:
            yield ast.Attribute(value, NAMES[name])
        case ast.Call(function, arguments, keywords):
            name = ast.unparse(function).rpartition(".")[2]
            if name == "abs":
                yield arguments[0]
            elif len(arguments) == 2:
                yield ast.Call(function, arguments[::-1], keywords)
            elif len(arguments) > 2:
                first, second, third, *more = arguments
                order = [first, third, second] if name == "where" else [second, first, third]
                yield ast.Call(function, order + more, keywords)
    tests = isinstance(parent, (ast.If, ast.IfExp, ast.While)) and node is parent.test
    if tests or (isinstance(parent, ast.comprehension) and node in parent.ifs):
        yield ast.UnaryOp(ast.Not(), node)
    if signed(node, parent):
        yield negated(node)


def selects(node: ast.Constant, parent: ast.AST) -> bool:
    """A string that something is compared with, or one to choose"""
    return isinstance(parent, (ast.Compare, ast.arguments)) or (
        isinstance(parent, ast.Call) and ast.unparse(parent.func) == "one_of" and node in parent.args[2:])


def signed(node: ast.AST, parent: ast.AST) -> bool:
    """A number that is handed to a function of signed ones, or handed back"""
    if not isinstance(node, (ast.Name, ast.BinOp, ast.Call, ast.Subscript, ast.Attribute)):
        return False
    if isinstance(node, ast.Call):  # what makes no number
        name = ast.unparse(node.func).rpartition(".")[2]
        if name not in SIGNED | {"where", "asarray", "sum", "astype", "reshape"}:
            return False
    if isinstance(parent, ast.Call):
        name = ast.unparse(parent.func).rpartition(".")[2]
        return (name in SIGNED and node in parent.args) or (name == "where" and node in parent.args[1:])
    return isinstance(parent, ast.Return)


def mutants(module: str, source: str, sentences: bool = False) -> list[Mutant]:
    """Every mutant of a module, in the order of its source."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, bytes], Mutant] = {}

    def record(node: ast.AST, new: ast.AST, put: Callable[[ast.AST], None], statement: ast.stmt, where: str) -> None:
        text = ast.unparse(new)
        if isinstance(new, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)):
            text = f"({text})"
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = view(statement)
        if new_statement := isinstance(node, ast.stmt):
            after = view(new)
        else:
            put(new)
            after = view(statement)
            put(node)
        assert new_statement or view(statement) == before
        mutant = Mutant(module, where, start, end, text.encode(), marked(before, after))
        found.setdefault((start, end, mutant.text), mutant)

    def visit(node: ast.AST, parent: ast.AST, put: Callable[[ast.AST], None], statement: ast.stmt, where: str,
              role: ast.AST) -> None:
        """role: the parent, or the `return` whose tuple the parent is"""
        match node:
            case ast.JoinedStr() | ast.Expr(ast.Constant(str())) | ast.Assign(targets=[ast.Name("__all__")]):
                return
            case ast.Raise() if not sentences:
                return
        for new in changes(node, role):
            record(node, new, put, statement, where)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}" if where else node.name
        statement = node if isinstance(node, ast.stmt) else statement
        tuple_of_return = isinstance(node, ast.Tuple) and isinstance(parent, ast.Return)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "names"):
                continue
            for i, child in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(child, ast.AST) and not isinstance(child, (ast.expr_context, ast.arg)):
                    def replace(new: ast.AST, field: str = field, value: Any = value, i: int = i) -> None:
                        if isinstance(value, list):
                            value[i] = new
                        else:
                            setattr(node, field, new)
                    visit(child, node, replace, statement, where, parent if tuple_of_return else node)

    tree = ast.parse(source)
    visit(tree, tree, lambda new: None, ast.Pass(), "", tree)
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end))


def view(statement: ast.AST) -> str:
    """A statement on one line; of those that hold others, the head"""
    if hasattr(statement, "body"):
        statement = copy.copy(statement)
        statement.body, statement.decorator_list, statement.orelse = [ast.Expr(ast.Constant(...))], [], []
    return " ".join(ast.unparse(statement).split())


def marked(before: str, after: str) -> str:
    """The statement with ⟦before → after⟧ where the two differ, in whole words"""
    def word(text: str, i: int) -> bool:
        pair = text[i - 1:i + 1] if 0 < i < len(text) else " "
        return all(c.isalnum() or c in "_." for c in pair) or all(c in "<>=!*" for c in pair)

    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    while head and (word(before, head) or word(after, head)):
        head -= 1
    tail = 0
    while tail < shorter - head and before[-tail - 1] == after[-tail - 1]:
        tail += 1
    while tail and (word(before, len(before) - tail) or word(after, len(after) - tail)):
        tail -= 1
    left, right = before[:head], before[len(before) - tail:]
    return f"{left}⟦{before[head:len(before) - tail]} → {after[head:len(after) - tail]}⟧{right}"


def every(modules: tuple[str, ...] = MODULES, sentences: bool = False) -> list[Mutant]:
    return [mutant for module in modules
            for mutant in mutants(module, (ROOT / "dpo_numpy" / f"{module}.py").read_text("utf-8"), sentences)]


def explanation(mutant: Mutant) -> str:
    return next((why for why, pieces in EXPLAINED for where, piece in pieces
                 if where == mutant.where and piece in mutant.shown), "")


def unanswered(found: list[Mutant]) -> list[str]:
    """Explanations that no mutant answers to"""
    return [f"{where}: {piece}" for _, pieces in EXPLAINED for where, piece in pieces
            if not any(where == mutant.where and piece in mutant.shown for mutant in found)]


# ---- stage 1: golden values

CLOSE, CLOSE32 = 1e-6, 1e-2


def golden_cases() -> list[dict[str, Any]]:
    def array(x: Any) -> Any:
        def floats(x: Any) -> Any:
            return [floats(each) for each in x] if isinstance(x, list) else float(x) if isinstance(x, str) else x
        return np.array(floats(x))

    document = json.loads((ROOT / "dpo_numpy" / "conformance" / "golden.json").read_text("utf-8"))
    return [{"seam": seam, "loss": name, "hyper": case["hyper"],
             "inputs": {key: array(x) for key, x in case["inputs"].items()},
             "value": array(case["value"]), "grad": {key: array(x) for key, x in case["grad"].items()}}
            for seam in document if seam != "format" for name, cases in document[seam].items() for case in cases]


def answers(case: dict[str, Any], dtype: type) -> list[Any]:
    """What the package under test says: the value and gradients, the readings in that dtype"""
    from dpo_numpy.losses import LOSSES
    from dpo_numpy.readings import sequence_logp
    from dpo_numpy.surrogates import SURROGATES

    told = dict(case["inputs"])
    if "logits" in told:
        logp, pullback = sequence_logp(told["logits"].astype(dtype), told["tokens"], told["mask"])
        if case["seam"] == "sequence":
            return [logp, pullback(np.ones(len(logp), dtype))]
        told |= {"logp": logp, "length": told["mask"].sum(axis=-1)}
        if "ref_logits" in told:
            told["ref_logp"] = sequence_logp(told["ref_logits"].astype(dtype), told["tokens"], told["mask"])[0]
    loss = (LOSSES | SURROGATES)[case["loss"]](**case["hyper"])
    read = {key: told[key].astype(dtype) for key in loss.reads}
    size = len(read[loss.reads[0]])
    batch = {"weight": np.full(size, 1 / size)} if case["seam"] == "batch" else {}
    value, grad = loss(read, **batch, **{key: told[key] for key in loss.needs})
    value = (batch["weight"].astype(value.dtype) * value).sum() if batch else value
    if "logits" in told:
        return [value, pullback(grad["logp"])]
    return [value, *(grad[key] for key in case["grad"])]


def far_off(ours: Any, golden: Any, room: float) -> Any:
    with np.errstate(all="ignore"):
        return ~((ours == golden) | (abs(ours - golden) <= room * abs(golden)))


def compare(case: dict[str, Any], known: list[list[Any]] | None) -> list[list[Any]]:
    """Where the answers are off, by dtype; AssertionError if anywhere that is not known"""
    found = []
    for k, (dtype, room) in enumerate(((np.float64, CLOSE), (np.float32, CLOSE32))):
        ours = answers(case, dtype)
        expected = [case["value"], *case["grad"].values()]
        assert all(x.dtype == dtype and np.shape(x) == np.shape(y) for x, y in zip(ours, expected, strict=True))
        found.append([far_off(x, y, room) for x, y in zip(ours, expected, strict=True)])
        if known:
            assert not any((off & ~was).any() for off, was in zip(found[-1], known[k], strict=True))
    return found


def survey(cases: list[dict[str, Any]]) -> tuple[list[Any], dict[str, set[str]]]:
    """For the unchanged package: where each case is off (None: it warns), and the losses that call each function, ""
    being the import
    """
    off, calls, now = [], {}, ""

    def called(frame: Any, event: str, _: Any) -> None:
        name = frame.f_globals.get("__name__", "").rpartition(".")[2]
        if event == "call" and name in MODULES:
            parts = [part for part in frame.f_code.co_qualname.split(".") if not part.startswith("<")]
            calls.setdefault(".".join([name, *parts]), set()).add(now)

    sys.setprofile(called)
    try:
        import dpo_numpy.losses
    finally:
        sys.setprofile(None)
    assert dpo_numpy.losses
    for case in cases:
        now = case["loss"]
        sys.setprofile(called)
        try:
            off.append(compare(case, None))
        except Exception:
            off.append(None)
        finally:
            sys.setprofile(None)
    return off, calls


# ---- stages 2 to 4: pytest in this process

OF_LOSSES = ("tests/test_golden.py", "tests/test_losses.py", "tests/test_laws.py")
REST = ("tests/test_gradient.py", "tests/test_estimates.py", "tests/test_training.py")
#: of the golden file, not of the package
NOT_OURS = ("test_its_", "test_the_file_", "test_decimals_",
            "test_nearest_", "test_softmax_of_", "test_the_generator_", "test_the_reader")


def files(module: str, stage: str) -> list[str]:
    """The quick and telling first"""
    if stage == "oracle":
        return {"readings": [], "advantages": [], "surrogates": ["tests/test_surrogates.py"]}.get(
            module, ["tests/test_losses.py"])
    if stage == "rest":  # kernels are not called but by losses
        return list(REST) if module in ("losses", "readings") else []
    more = {"numerics": ("tests/test_readings.py", *OF_LOSSES), "readings": OF_LOSSES[:1], "surrogates": OF_LOSSES[:1],
            "advantages": ("tests/test_surrogates.py",)}.get(module, OF_LOSSES)
    return list(dict.fromkeys([f"tests/test_{module}.py", f"dpo_numpy/{module}.py", *more]))


class Chooser:
    """A plugin that keeps the tests asked for, and remembers what failed and how long each file took."""

    def __init__(self, keep: Callable[[Any], bool]) -> None:
        self.keep, self.failed, self.seconds = keep, [], Counter()

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutation", settings.default, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")  # not shrunk: that it fails is enough

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = filter(self.keep, items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[stage_of(report.nodeid), report.nodeid.partition("::")[0]] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def stage_of(nodeid: str) -> str:
    return "oracle" if "four_units" in nodeid else "rest" if nodeid.partition("::")[0] in REST else "tests"


def losses_of(item: Any) -> set[str]:
    """The losses that a test's parameters name"""
    from dpo_numpy.losses import LOSSES
    from dpo_numpy.surrogates import SURROGATES

    params = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = {getattr(x, "loss", x) if isinstance(getattr(x, "loss", x), str) else "" for x in params}
    return named & (LOSSES | SURROGATES).keys()


def run(paths: list[str], keep: Callable[[Any], bool], *options: str) -> Chooser:
    import pytest

    chooser = Chooser(keep)
    code = pytest.main([*paths, "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *options], plugins=[chooser])
    if code not in (0, 1, 5):
        chooser.failed.append(f"pytest ends with {code!r}")
    return chooser


def chosen(stage: str, concerned: set[str] | None, without: set[str]) -> Callable[[Any], bool]:
    """The tests of a stage; of those that name a loss, the ones that name one of these"""
    def keep(item: Any) -> bool:
        path, _, name = item.nodeid.partition("::")
        if stage_of(item.nodeid) != stage or item.nodeid in without:
            return False
        if path == "tests/test_golden.py" and name.startswith(NOT_OURS):
            return False
        named = losses_of(item)
        return not named or concerned is None or bool(named & concerned)

    return keep


# ---- the oracle's answers, remembered

ANSWERS: dict[bytes, bytes] = {}


def whole_number(raw: Any) -> Any:
    from mpmath import mp

    return mp.make_mpf(raw)


def remember() -> None:
    """Wrap `oracle.exact` and `oracle.moves`."""
    import mpmath
    import oracle

    # pickle would round to the digits of the moment
    copyreg.pickle(mpmath.mpf, lambda x: (whole_number, (x._mpf_,)))

    def remembering(name: str) -> Callable[..., Any]:
        ask = getattr(oracle, name)

        def asked(*question: Any) -> Any:
            said = repr((name, question))
            if "mpf(" in said:  # to as many digits as happen to be shown
                return ask(*question)
            key = hashlib.blake2b(said.encode(), digest_size=16).digest()
            if key not in ANSWERS:
                ANSWERS[key] = pickle.dumps(ask(*question))
            return pickle.loads(ANSWERS[key])

        return asked

    for name in ("exact", "moves"):
        setattr(oracle, name, remembering(name))


# ---- processes

def forked(work: Callable[[Path], None], path: Path, wall: float) -> bool:
    """Whether `work(path)` comes to an end, in a process of its own, within that many seconds"""
    pid = os.fork()
    if not pid:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            work(path)
            os._exit(0)
        except BaseException:
            path.with_suffix(".error").write_text(traceback.format_exc(), "utf-8")
        finally:
            os._exit(1)
    until, pause = time.monotonic() + wall, 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def allow(seconds: float) -> None:
    """More of the CPU; a process that wants more than that is ended."""
    soft = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


class Plan(NamedTuple):
    """What workers know"""
    cases: list[dict[str, Any]]
    off: list[Any]
    calls: dict[str, set[str]]
    seconds: dict[tuple[str, str], float]  # of the unchanged package, by stage and file
    without: set[str]  # tests that fail anyway
    stages: tuple[str, ...]

    def concerned(self, mutant: Mutant) -> set[str]:
        """The losses that call the function; all, if none does, if it is no function or if the import calls it"""
        if mutant.module == "advantages":  # which no loss calls
            return set()
        everything = {case["loss"] for case in self.cases}
        called = self.calls.get(mutant.where)
        return called if called and "" not in called and mutant.module != "readings" else everything


class Verdict(NamedTuple):
    mutant: Mutant
    stage: str  # that killed it, or "" for a survivor
    by: str  # which test
    seconds: float


def copy_project(folder: Path) -> Path:
    """What tests need, byte-compiled"""
    for name in ("dpo_numpy", "toy_models", "analytic", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, folder / name)
    compileall.compile_dir(folder / "dpo_numpy", quiet=1)
    return folder


def enter(folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)  # of processes that tests start


def preload() -> None:
    """What a test needs and no mutant changes, before the forks"""
    import hypothesis.extra.numpy
    import mpmath
    import numpy.testing
    import oracle
    import pytest

    assert all((hypothesis, mpmath, numpy, oracle, pytest))
    assert not any(name.startswith("dpo_numpy") for name in sys.modules)


def judge(mutant: Mutant, plan: Plan, folder: Path) -> Verdict:
    started = time.monotonic()
    path = folder / "dpo_numpy" / f"{mutant.module}.py"
    original = path.read_bytes()
    said = folder / "said"
    said.write_text("", "utf-8")
    path.write_bytes(mutant.applied(original))
    for compiled in (folder / "dpo_numpy" / "__pycache__").glob(f"{mutant.module}.*.pyc"):
        compiled.unlink()
    try:
        wall = 60 + 20 * sum(plan.seconds.values())
        ended = forked(lambda said: trial(mutant, plan, said), said, wall)
    finally:
        path.write_bytes(original)
    words = said.read_text("utf-8").splitlines()  # the stages begun, and what killed it
    stage, _, by = words[-1].partition(" ") if words else (STAGES[0], "", "")
    if ended and stage == "survived":
        stage = ""
    elif not by:
        by = "no end within its CPU seconds, or a crash"
    return Verdict(mutant, stage, by, time.monotonic() - started)


def trial(mutant: Mutant, plan: Plan, said: Path) -> None:
    """In a process of its own: a line for each stage begun; the last says who killed the mutant, or that it lives."""
    sys.dont_write_bytecode = True

    def say(words: str) -> None:
        with said.open("a", encoding="utf-8") as file:
            file.write(f"{words}\n")

    say(STAGES[0])
    allow(10)
    concerned = plan.concerned(mutant)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            import dpo_numpy.losses
            import dpo_numpy.readings

            for case, off in zip(plan.cases, plan.off, strict=True):
                if off is not None and case["loss"] in concerned:
                    compare(case, off)
    except Exception as error:
        say(f"{STAGES[0]} {type(error).__name__}")
        return
    assert dpo_numpy.__file__ == str(Path.cwd() / "dpo_numpy" / "__init__.py")
    for stage in plan.stages[1:]:
        say(stage)
        for path in files(mutant.module, stage):
            allow(20 + 4 * plan.seconds.get((stage, path), 0))
            failed = run([path], chosen(stage, concerned, plan.without), "-x").failed
            if failed:
                say(f"{stage} {failed[0]}")
                return
    say("survived")


# ---- the unchanged package

def surveyed(said: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cases = golden_cases()
        said.write_bytes(pickle.dumps((cases, *survey(cases))))


def rehearsed(said: Path, part: int, parts: int, modules: tuple[str, ...], stages: tuple[str, ...]) -> None:
    """Every test once, to see it pass and to hear the oracle: one of so many parts"""
    failed: list[str] = []
    seconds: Counter[tuple[str, str]] = Counter()
    for stage in stages[1:]:
        turn, keep = itertools.count(part), chosen(stage, None, set())
        paths = list(dict.fromkeys(path for module in modules for path in files(module, stage)))
        if not paths:  # pytest would take them all
            continue
        heard = run(paths, lambda item, turn=turn, keep=keep: keep(item) and not next(turn) % parts)
        failed += heard.failed
        seconds += heard.seconds
    said.write_bytes(pickle.dumps((failed, seconds, ANSWERS)))


FOLDER = Path()
PLAN: Plan | None = None  # before the forks


def begin(folders: Any) -> None:
    """A worker has a copy of the project to itself."""
    global FOLDER
    FOLDER = Path(folders.get())
    enter(FOLDER)


def prepare(task: tuple[Any, ...]) -> Any:
    """(function of this file, arguments...) in a process of its own"""
    work, *told = task
    said = FOLDER / "said"
    if not forked(lambda said: work(said, *told), said, wall=1800):
        errors = said.with_suffix(".error")
        raise SystemExit(errors.read_text("utf-8") if errors.exists() else f"{work.__name__} did not come to an end")
    return pickle.loads(said.read_bytes())


def try_one(mutant: Mutant) -> Verdict:
    assert PLAN
    return judge(mutant, PLAN, FOLDER)


# ---- all of it

class Journal:
    """Verdicts on mutants of this very source, a line each"""

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, {}
        self.source = {module: hashlib.blake2b((ROOT / "dpo_numpy" / f"{module}.py").read_bytes(), digest_size=8)
                       for module in MODULES}
        if path and path.exists():
            self.known = {tuple(key): said for key, said in map(json.loads, path.read_text("utf-8").splitlines())}

    def key(self, mutant: Mutant) -> tuple[Any, ...]:
        return self.source[mutant.module].hexdigest(), mutant.where, mutant.start, mutant.end, mutant.text.decode()

    def find(self, mutant: Mutant) -> Verdict | None:
        said = self.known.get(self.key(mutant))
        return said and Verdict(mutant, *said)

    def add(self, verdict: Verdict) -> None:
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([self.key(verdict.mutant), verdict[1:]]) + "\n")


class Run(NamedTuple):
    verdicts: list[Verdict]
    prepared: float  # minutes before the first mutant
    took: float  # minutes in all
    workers: int


def execute(these: list[Mutant], workers: int, stages: tuple[str, ...], keep_going: bool, journal: Journal) -> Run:
    global PLAN
    started = time.monotonic()
    modules = tuple(dict.fromkeys(mutant.module for mutant in these))
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        folders = [copy_project(Path(scratch) / str(k)) for k in range(workers)]
        preload()
        remember()

        def pool() -> Any:
            queue = context.SimpleQueue()
            for folder in folders:
                queue.put(str(folder))
            return context.Pool(workers, begin, (queue,))

        with pool() as forks:
            survey_of = forks.apply_async(prepare, [(surveyed,)])
            parts = [(rehearsed, part, workers, modules, stages) for part in range(workers)]
            heard = forks.map(prepare, parts, chunksize=1) if stages[1:] else []
            cases, off, calls = survey_of.get()
            forks.close()
            forks.join()
        failed = sorted(name for names, _, _ in heard for name in names)
        for name in failed:
            print(f"fails without a mutant: {name}")
        if failed and not keep_going:
            raise SystemExit("mutants prove nothing before these tests pass (or --keep-going without them)")
        for _, _, answered in heard:
            ANSWERS.update(answered)
        seconds = sum((Counter(found) for _, found, _ in heard), Counter())
        PLAN = Plan(cases, off, calls, dict(seconds), set(failed), stages)
        prepared = (time.monotonic() - started) / 60
        verdicts = [verdict for mutant in these if (verdict := journal.find(mutant))]
        known = {verdict.mutant for verdict in verdicts}
        gc.freeze()
        with pool() as forks:
            left = [mutant for mutant in these if mutant not in known]
            for verdict in forks.imap_unordered(try_one, left, chunksize=1):
                verdicts.append(verdict)
                journal.add(verdict)
                if not verdict.stage:
                    print(f"survives ({verdict.seconds:.0f} s) {verdict.mutant}", flush=True)
            forks.close()
            forks.join()
    order = {mutant: i for i, mutant in enumerate(these)}
    verdicts.sort(key=lambda verdict: order[verdict.mutant])
    return Run(verdicts, prepared, (time.monotonic() - started) / 60, workers)


def complaints(run: Run) -> list[str]:
    """Survivors that nobody explained, and explanations of what a test kills, unless by last bits"""
    found = []
    for mutant, stage, by, _ in run.verdicts:
        if not stage and not explanation(mutant):
            found.append(f"survives: {mutant}")
        if stage and explanation(mutant) not in ("", LAST_BITS):
            found.append(f"explained, but killed by {by}: {mutant}")
    return found


def table(run: Run) -> str:
    lines = ["| module | mutants | " + " | ".join(STAGES) + " | survive, explained | survive | CPU minutes |",
             "|---|" + "--:|" * (len(STAGES) + 4)]
    modules = dict.fromkeys(verdict.mutant.module for verdict in run.verdicts)
    for module in [*modules, ""]:
        those = [verdict for verdict in run.verdicts if not module or verdict.mutant.module == module]
        at = Counter(verdict.stage for verdict in those)
        explained = sum(not verdict.stage and bool(explanation(verdict.mutant)) for verdict in those)
        cells = [f"`{module}`" if module else "all", len(those), *(at[stage] for stage in STAGES), explained,
                 at[""] - explained, f"{sum(verdict.seconds for verdict in those) / 60:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def page(run: Run) -> str:
    by_reason = [(why, [verdict.mutant for verdict in run.verdicts
                        if not verdict.stage and explanation(verdict.mutant) == why]) for why, _ in EXPLAINED]
    explained = "\n".join(f"\n{why}\n\n" + "\n".join(f"- `{mutant}`" for mutant in found)
                          for why, found in by_reason if found)
    left = [verdict.mutant for verdict in run.verdicts if not verdict.stage and not explanation(verdict.mutant)]
    survivors = "\n".join(f"- `{mutant}`" for mutant in left) or "None."
    took = run.prepared + sum(verdict.seconds for verdict in run.verdicts) / 60 / run.workers  # of a journal too
    return f"""# Mutants

Written by `make mutate` (tests/mutate.py, which says what is changed and how). Each mutant is the package with one
sign, operator, constant, comparison or order of arguments changed; the columns say which stage of the tests killed it.

{table(run)}

{took:.0f} minutes on {run.workers} process{'es' * (run.workers > 1)}, {run.prepared:.1f} of them before the first
mutant, with Python {platform.python_version()} and NumPy {np.__version__}.

## Survivors

{survivors}

## Survivors that are explained

What no test can tell from the code, or need not.
{explained}
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Change the code in one place at a time and see that a test fails.")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N of the mutants that are not explained")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample")
    parser.add_argument("--module", choices=MODULES, action="append", help="of this module only; may be given again")
    parser.add_argument("--match", default="", metavar="WORDS", help="those whose description holds the words")
    parser.add_argument("--sentences", action="store_true", help="what stands in `raise` too")
    parser.add_argument("--golden", action="store_true", help="the first stage alone: what it leaves may yet be killed")
    parser.add_argument("--keep-going", action="store_true", help="without the tests that fail without a mutant")
    parser.add_argument("--list", action="store_true", help="list the mutants and try none")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep verdicts there; what it holds is not redone")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes, 2 unless told")
    args = parser.parse_args(argv)

    found = every(sentences=args.sentences)
    stale = unanswered(found)
    for line in stale:
        print(f"explained, but there is no such mutant: {line}")
    these = [mutant for mutant in found
             if mutant.module in (args.module or MODULES) and args.match in f"{mutant.where}: {mutant.shown}"]
    whole = these == found and not args.golden and not args.sentences
    if args.sample is not None:
        these = [mutant for mutant in these if not explanation(mutant)]
        these = random.Random(args.seed).sample(these, min(args.sample, len(these)))
        whole = False
    if args.list or not these:
        print(*(f"{mutant.where}: {mutant.shown}" for mutant in these), f"{len(these)} mutants", sep="\n")
        return bool(stale)
    stages = STAGES[:1] if args.golden else STAGES
    done = execute(these, args.workers, stages, args.keep_going, Journal(args.journal))
    print(table(done), f"\n{done.took:.1f} minutes, {done.prepared:.1f} of them before the first mutant")
    wrong = [] if args.golden else complaints(done)
    print(*wrong, sep="\n")
    if whole:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(done), "utf-8")
    return bool(stale or wrong)


if __name__ == "__main__":
    sys.exit(main())
