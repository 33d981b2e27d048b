"""The notebooks: NN_name.py, in percent format, is what one writes; this executes it and writes NN_name.ipynb.

    python notebooks/build.py [NAME ...]

The same source makes the same bytes where the same versions are installed: no times, no random names, no versions.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
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
