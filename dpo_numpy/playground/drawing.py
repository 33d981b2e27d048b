"""Numbers as markup: text, tables, MathML and SVG. No colors here: classes, which style.css gives colors and dashes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Line", "chart", "formula", "number", "number_line", "table"]

MINUS = "\N{MINUS SIGN}"
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float, digits: int = 4, sign: bool = False) -> str:
    """A number to be read: so many decimals, powers of ten where those would show nothing or too much

    >>> number(-0.04452, 3), number(2.5, 1, sign=True), number(2.1e-17), number(-0.00001, 2)
    ('−0.045', '+2.5', '2.1 × 10⁻¹⁷', '−1.0 × 10⁻⁵')
    """
    small = x != 0 and abs(x) < 0.5 * 10.0 ** -digits
    if small or abs(x) >= 1e6:
        mantissa, exponent = f"{x:.1e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(RAISED)}"
    else:
        text = f"{x:.{digits}f}"
    text = text.replace("-", MINUS) if float(x) else text.lstrip("-")
    return f"+{text}" if sign and x > 0 else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", classes: str = "") -> str:
    """A table of numbers: its first column names the rows. Cells are markup already."""
    said = f"<caption>{caption}</caption>" if caption else ""
    first = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
                   for name, *cells in rows)
    of = f' class="{classes}"' if classes else ""
    return f'<div class="wide"><table{of}>{said}<thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


# ---- mathematics

TOKEN = re.compile(r"\s*(\\frac|[{}_^]|\[[^\]]*\]|\d+(?:\.\d+)?|[A-Za-z]+|[^\s])")
UPRIGHT = {"E", "P"}
THIN = '<mspace width="0.17em"/>'


def formula(text: str, block: bool = True) -> str:
    """MathML of a line such as `r(y) = β log \\frac{π*(y)}{π_{ref}(y)} + β log Z`; [words] are words

    >>> formula("β^2", block=False)
    '<math><mrow><msup><mi>β</mi><mn>2</mn></msup></mrow></math>'
    """
    tokens = TOKEN.findall(text)
    tree, rest = _row(tokens)
    if rest:
        raise ValueError(f"formula is {text!r}; expected matching braces, and there is one too many")
    display = ' display="block"' if block else ""
    return f"<math{display}>{tree}</math>"


def _row(tokens: list[str]) -> tuple[str, list[str]]:
    parts: list[str] = []
    while tokens and tokens[0] != "}":
        kind = {"_": "msub", "^": "msup"}.get(tokens[0])
        atom, tokens = _atom(tokens[1:] if kind else tokens)
        parts.append(f"<{kind}>{parts.pop()}{atom}</{kind}>" if kind else atom)
    return f"<mrow>{''.join(parts)}</mrow>", tokens


def _atom(tokens: list[str]) -> tuple[str, list[str]]:
    token, rest = tokens[0], tokens[1:]
    if token == "{":
        inner, rest = _row(rest)
        return inner, rest[1:]
    if token == "\\frac":
        above, rest = _atom(rest)
        below, rest = _atom(rest)
        return f"<mfrac>{above}{below}</mfrac>", rest
    if token[0] == "[":
        return f"<mtext>{escape(token[1:-1])}</mtext>", rest
    if token[0].isdigit():
        return f"<mn>{token}</mn>", rest
    if token.isalpha():
        upright = ' mathvariant="normal"' if len(token) == 1 and token in UPRIGHT else ""
        space = THIN if token in ("log", "KL") else ""
        return f"{space}<mi{upright}>{token}</mi>{space if token == 'log' else ''}", rest
    return f"<mo>{escape(token.replace('-', MINUS))}</mo>", rest


# ---- pictures

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 12, 42


class Line(NamedTuple):
    """A curve, with the classes that tell it from others: by its color and by its dashes."""

    classes: str
    y: Sequence[float]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between low and high, a few

    >>> ticks(0.0, 4.1)
    [0.0, 2.0, 4.0]
    """
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def chart(title: str, x: Sequence[float], lines: Sequence[Line], axis: str, at: float | None = None,
          dots: Sequence[tuple[str, float]] = (), zero: bool = True, name: str = "") -> str:
    """Curves over x in a frame with round ticks; at `at` a thin upright line, and on it a dot for each of `dots`."""
    found = [y for line in lines for y in line.y] + [y for _, y in dots] + ([0.0] if zero else [])
    low, high = min(found), max(found)
    gap = (high - low) * 0.06 or 1.0
    low, high = low - gap, high + gap
    across = (WIDTH - LEFT - RIGHT) / (x[-1] - x[0] or 1.0)
    down = (HEIGHT - TOP - BOTTOM) / (high - low)

    def px(v: float) -> str:
        return f"{LEFT + (v - x[0]) * across:.1f}"

    def py(v: float) -> str:
        return f"{HEIGHT - BOTTOM - (v - low) * down:.1f}"

    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
             f'height="{HEIGHT - TOP - BOTTOM}"/>']
    for v in ticks(low, high):
        kind = "axis" if v == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{LEFT} {py(v)}H{WIDTH - RIGHT}"/>'
                     f'<text class="y" x="{LEFT - 6}" y="{py(v)}" dy="4">{_tick(v)}</text>')
    for v in ticks(x[0], x[-1]):
        parts.append(f'<path class="grid" d="M{px(v)} {TOP}V{HEIGHT - BOTTOM}"/>'
                     f'<text class="x" x="{px(v)}" y="{HEIGHT - BOTTOM + 17}">{_tick(v)}</text>')
    parts.append(f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 6}">{escape(axis)}</text>')
    for line in lines:
        points = "L".join(f"{px(u)} {py(v)}" for u, v in zip(x, line.y, strict=True))
        parts.append(f'<path class="line {line.classes}" d="M{points}"/>')
    if at is not None:
        parts.append(f'<path class="now" d="M{px(at)} {TOP}V{HEIGHT - BOTTOM}"/>')
        for classes, y in dots:
            parts.append(mark(classes, float(px(at)), float(py(y))))
    where = f' data-left="{px(x[0])}" data-right="{px(x[-1])}" data-chart="{name}"' if name else ""
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"{where}>'
            f"{''.join(parts)}</svg>")


def mark(classes: str, x: float, y: float) -> str:
    """A circle; for the rejected a square, so that color is not the only sign."""
    if "rejected" in classes:
        return f'<rect class="dot {classes}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    return f'<circle class="dot {classes}" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'


def number_line(title: str, low: float, rows: Sequence[tuple[str, float, float, float]], full: float) -> str:
    """Rows (class, policy, reference, push) on log-probs from `low` to 0, an arrow from the policy's place; an arrow
    of a quarter of the line is a push of `full`.
    """
    left, right, step = 16, 344, 68
    height = 30 + step * len(rows) + 34

    def px(v: float) -> float:
        return left + (v - low) / -low * (right - left)

    parts = []
    for v in range(math.ceil(low), 1, 2):
        parts.append(f'<path class="grid" d="M{px(v):.1f} 8V{height - 40}"/>'
                     f'<text class="x" x="{px(v):.1f}" y="{height - 24}">{_tick(v)}</text>')
    parts.append(f'<text class="x" x="180" y="{height - 6}">log-prob (nats): further right is more probable</text>')
    for k, (name, policy, ref, push) in enumerate(rows):
        y = 46 + step * k
        x, end = px(policy), px(policy) + (right - left) / 4 * push / full
        end = min(max(end, 3), 357)
        parts.append(f'<path class="axis" d="M{left} {y}H{right}"/>'
                     f'<text class="name" x="{left}" y="{y - 18}">{name}</text>'
                     f'<path class="ref" d="M{px(ref):.1f} {y - 9}V{y + 9}"/>'
                     f'<text class="x" x="{px(ref):.1f}" y="{y + 22}">ref</text>')
        if abs(end - x) >= 1:
            head = 7 if end > x else -7
            parts.append(f'<path class="arrow {name}" d="M{x:.1f} {y}H{end:.1f}"/>'
                         f'<path class="head {name}" d="M{end + head * 0.4:.1f} {y}l{-head} -5v10z"/>')
        parts.append(mark(name, x, y))
    return (f'<svg class="chart" viewBox="0 0 360 {height}" role="img" aria-label="{escape(title)}">'
            f"{''.join(parts)}</svg>")


def _tick(v: float) -> str:
    return f"{v:g}".replace("-", MINUS)
