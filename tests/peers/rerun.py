"""Run the scripts of a report again and hold what they print against what the report shows.

    .venv-peers/liger/bin/python tests/peers/rerun.py docs/libraries/liger.md [--write]

In a report, a block of Python that is followed by a block of text is a script and what it prints. A block whose first
line is a comment with the name of a file, as in `# tiny_trl.py`, is a module for the scripts of that report, wherever
in it the block stands. Every script runs alone, in a new folder, by the interpreter that runs this: the library's.

Numbers may differ by one in their sixth digit, since the last ones are the processor's; all else must be equal.
Exit code 1 if something differs, or a script fails. `--write` puts what was printed into the report instead.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = re.compile(r"```python\n# (\w+\.py)\n.*?```", re.DOTALL)
SCRIPT = re.compile(
    r"```python\n(?P<code>(?!# \w+\.py\n)(?:(?!```).)*)```\n+```text\n(?P<text>(?:(?!```).)*)```", re.DOTALL
)
NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?!\w)")
DIGITS = 1.01e-5  # one in the sixth digit
FAILED = "failed: "


def same(told: str, printed: str) -> bool:
    """Equal, but for the last digits of numbers."""
    if NUMBER.sub("#", told).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(told), NUMBER.findall(printed), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=DIGITS, abs_tol=1e-30) for a, b in pairs)


def output(code: str, folder: str) -> str:
    """What a script prints, and the last line of its error if it fails."""
    told = {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, env=os.environ | told, text=True,
                          capture_output=True, check=False)
    if done.returncode:
        return done.stdout + FAILED + (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] + "\n"
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("--write", action="store_true", help="put what is printed into the document")
    args = parser.parse_args()
    document = args.document.read_text()
    count = wrong = 0

    with tempfile.TemporaryDirectory() as folder:
        for module in MODULE.finditer(document):
            source = module[0].removeprefix("```python\n").removesuffix("```")
            Path(folder, module[1]).write_text(source)

        def again(block: re.Match[str]) -> str:
            nonlocal count, wrong
            printed = output(block["code"], folder)
            line = document.count("\n", 0, block.start()) + 1
            count += 1
            if printed.splitlines()[-1:] and printed.splitlines()[-1].startswith(FAILED):
                wrong += 1
                print(f"{args.document}:{line}: {printed}")
            elif not same(block["text"], printed):
                wrong += 0 if args.write else 1
                print(f"{args.document}:{line}: it prints\n{printed}and not\n{block['text']}")
            start = block.start("text") - block.start()
            return block[0][:start] + printed + "```"

        rewritten = SCRIPT.sub(again, document)
    if args.write:
        args.document.write_text(rewritten)
    print(f"{args.document}: {count} scripts, {wrong} differ")
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    sys.exit(main())
