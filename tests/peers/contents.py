"""The table of docs/libraries/README.md, from the reports beside it: `python tests/peers/contents.py`."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "libraries"
ORDER = ("trl-1.16", "trl-0.28", "liger", "torchtune", "openrlhf", "verl", "mlx-lm-lora")
BEGIN, END = "<!-- made of the reports -->\n", "<!-- until here -->\n"


def main() -> None:
    lines = ["| library | version | subjects | agree | findings |", "| --- | --- | --- | --- | --- |"]
    for name in ORDER:
        report = (FOLDER / f"{name}.md").read_text()
        title, _, version = report.partition("\n")[0].removeprefix("# ").rpartition(" ")
        counted = re.search(r"(\d+) subjects: (\d+) agree", report)
        assert counted, f"{name}.md has no table yet: run its kit with --write"
        findings = len(re.findall(r"^### \d+\. ", report, re.MULTILINE))
        lines.append(f"| [{title}]({name}.md) | {version} | {counted[1]} | {counted[2]} | {findings} |")
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
