"""The notebooks: NN_name.py, in percent format, is what one writes; this executes it and writes NN_name.ipynb.

    python notebooks/build.py [NAME ...]

The same source makes the same bytes where the same versions are installed: no times, no random names, no versions.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
HEAD = """# Lessons

Thirteen notebooks, one path: from a preference pair to predicting three and running them. They are stored with their
outputs and can be read here. To run one: `pip install -e '.[notebooks]' jupyterlab`, then `jupyter lab`, from any
folder. A cell asks for your prediction, a later one reveals; exercises have `.hint()`, `.check(yours)`, `.solve()`.

The sources are `NN_name.py`, in percent format; `make notebooks` executes them and writes `NN_name.ipynb` and this
page, byte for byte the same under `constraints.txt`.

| lesson | claim | minutes |
|---|---|--:|
"""
KIND = {"name": "python3", "display_name": "Python 3", "language": "python"}


def sources():
    """Every notebook's source, in order"""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def cells(text):
    """[("markdown" or "code", its text)] of a source in percent format"""
    found = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    for marker, body in zip(found[::2], found[1::2], strict=True):
        if "[markdown]" in marker:
            yield "markdown", re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
        else:
            yield "code", body.strip()


def minutes(notebook):
    """Prose and outputs at 200 words a minute, code at 25 lines, half a minute a picture, a minute an exercise"""
    of = {kind: [cell for cell in notebook["cells"] if cell["cell_type"] == kind] for kind in ("markdown", "code")}
    outputs = [out for cell in of["code"] for out in cell["outputs"]]
    printed = "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")
    words = len(printed.split()) + sum(len("".join(cell["source"]).split()) for cell in of["markdown"])
    lines = sum(bool(line.strip()) for cell in of["code"] for line in "".join(cell["source"]).splitlines())
    pictures = sum("image/png" in out.get("data", {}) for out in outputs)
    return words / 200 + lines / 25 + pictures / 2 + printed.count("EXERCISE ")


def contents():
    """README.md of the folder: each notebook, what it claims, and how long it takes to read"""
    rows = []
    for source in sources():
        executed = source.with_suffix(".ipynb")
        title, claim = re.match(r"# (.+?)\n\n\*\*Claim: (.+?)\*\*", next(text for _, text in cells(
            source.read_text(encoding="utf-8"))), re.DOTALL).groups()
        claim, long = " ".join(claim.split()), minutes(json.loads(executed.read_text(encoding="utf-8")))
        rows.append(f"| [{title}]({executed.name}) | {claim[0].upper()}{claim[1:]} | {long:.0f} |")
    return HEAD + "\n".join(rows) + "\n"


def execute(source):
    """The notebook of a source, with its outputs; executed in an empty folder, without data from elsewhere"""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KIND, "language_info": {"name": "python"}})
    for number, (kind, text) in enumerate(cells(source.read_text(encoding="utf-8")), 1):
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        notebook.cells.append(make(text, id=f"cell-{number:02}"))
    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", record_timing=False, coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": empty}})
        client.execute(env=environment())
    notebook.metadata = {"kernelspec": KIND, "language_info": {"name": "python"}}
    return nbformat.writes(notebook) + "\n"


def environment():
    """Ours, without what would change an output"""
    free = ("DPO_NUMPY_DATA", "MPLBACKEND", "PYTHONWARNINGS")
    return {name: value for name, value in os.environ.items() if name not in free} | {"JUPYTER_PREFER_ENV_PATH": "1"}


if __name__ == "__main__":
    wanted = [source for source in sources() if not sys.argv[1:] or source.stem in sys.argv[1:]]
    for source in wanted:
        executed = execute(source)
        source.with_suffix(".ipynb").write_text(executed, encoding="utf-8")
        print(source.with_suffix(".ipynb").name)
    (FOLDER / "README.md").write_text(contents(), encoding="utf-8")
