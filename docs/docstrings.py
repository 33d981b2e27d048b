"""A docstring, plain text for a terminal, as reStructuredText that looks alike on a page.

What stands in columns (formulas, tables, indented blocks) keeps them; prose is set as prose; doctests are code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

__all__ = ["to_rst"]

WRAPPED = 88  # a line that ends although the next word would have fit in here was ended on purpose


def to_rst(docstring: str) -> list[str]:
    """Lines of reStructuredText; nothing in the docstring is taken for markup but `names` in backticks.

    >>> to_rst("L = a*b,   a = 1\\n\\nWords, `x`_i too.")
    ['.. code-block:: text', '   :class: formula', '', '   L = a*b,   a = 1', '', \
'\\\\Words, \\\\ ``x``\\\\ \\\\_i too.', '']
    """
    lines: list[str] = []
    for block in blocks(docstring):
        if block[0].lstrip().startswith(">>>"):
            lines += ["", ".. code-block:: pycon", "", *(f"   {line}".rstrip() for line in dedented(block)), ""]
        elif bulleted(block):
            lines += [f"- {inline(item[2:])}" for item in items(block)] + [""]
        elif pairs := defined(block):
            lines += ["", ".. list-table::", "   :class: defined", "   :widths: auto", ""]
            for term, words in pairs:
                lines += [f"   * - ``{term}``", f"     - {inline(words)}"]
            lines += [""]
        elif in_columns(block):
            kind = "columns" if len(dedented(block)) > 1 and any(line.startswith(" ") for line in block) else "formula"
            lines += ["", ".. code-block:: text", f"   :class: {kind}", ""]
            lines += [*(f"   {line}".rstrip() for line in dedented(block)), ""]
        else:
            lines += [inline(" ".join(line.strip() for line in block)), ""]
    return lines[1:] if lines[:1] == [""] else lines


def blocks(docstring: str) -> Iterator[list[str]]:
    """Paragraphs; indented ones that follow each other are one, and so are a doctest and its output."""
    found: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip("\n")):
        block: list[str] = []
        for line in paragraph.splitlines():
            prompt = line.lstrip().startswith(">>>")
            if prompt and block and not any(each.lstrip().startswith(">>>") for each in block):
                found.append(block)
                block = []
            block.append(line.rstrip())
        if not block:
            continue
        code = block[0].lstrip().startswith(">>>")
        if found and not code and block[0].startswith(" ") and found[-1][0].startswith(" "):
            found[-1] += ["", *block]
        else:
            found.append(block)
    yield from found


def dedented(block: list[str]) -> list[str]:
    indent = min((len(line) - len(line.lstrip()) for line in block if line), default=0)
    return [line[indent:] for line in block]


def bulleted(block: list[str]) -> bool:
    return block[0].startswith("- ") and all(line.startswith(("- ", "  ")) for line in block)


def items(block: list[str]) -> list[str]:
    found: list[str] = []
    for line in block:
        if line.startswith("- "):
            found.append(line)
        else:
            found[-1] += " " + line.strip()
    return found


def defined(block: list[str]) -> list[tuple[str, str]]:
    """Terms at the left and what they mean at the right, in a column of its own; else nothing"""
    lines = [line for line in dedented(block) if line]
    first = re.match(r"\S+(?: \S+)* {2,}(?=\S)|\S+ +: ", lines[0])
    found: list[tuple[str, str]] = []
    for line in lines if first else []:
        left, words = line[:first.end()], line[first.end():]  # type: ignore[union-attr]
        if re.search(r"\S {2,}", words) or not words or words[0] == " " or not (left.endswith(" ") or not left.strip()):
            return []
        if left.strip():
            if re.search(r"\S {2,}\S| = ", left.strip()) or "`" in left:
                return []
            found.append((left.strip(" :"), words))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {words}")
    return found if len(found) > 1 else []


def in_columns(block: list[str]) -> bool:
    """Indented, with gaps inside a line, or with lines that end before they must"""
    if any(line.startswith(" ") or re.search(r"\S {2,}\S", re.sub(r"([.:!?])  ", r"\1 ", line)) for line in block):
        return True
    return any(len(line) + 1 + len(after.split(" ")[0]) <= WRAPPED for line, after in pairwise(block))


def inline(text: str) -> str:
    """Prose: `x` is code, everything else is meant as it stands."""
    parts = re.split(r"(`[^`]+`)", text)
    said = "".join(rf"\ `{part}`\ " if k % 2 else re.sub(r"([\\*_|`<>:])", r"\\\1", part)
                   for k, part in enumerate(parts))
    return said if said.startswith("\\") else "\\" + said  # so that no first letter begins a list
