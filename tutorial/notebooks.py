"""The tutorial as notebooks: one a half, made from the page and run in a fresh kernel."""

import base64
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from ladder.reading import read_json
from pipeline.engines import KERAS_TENSORFLOW, LIGHTNING
from pipeline.environment import describe_machine, package_versions
from pipeline.errors import RunError, UsageError
from tutorial.page import FRAMEWORKS, Cell, Output, cells_of

ENGINES = {"keras": KERAS_TENSORFLOW, "lightning": LIGHTNING}
MAX_NOTEBOOK_BYTES = 4 * 1024 * 1024

Notebook = Any
"""nbformat's node, which has no types."""


def new_notebook(page: str, impl: str, page_name: str) -> Notebook:
    """Return the notebook of `impl`, not yet run; the page is linked as `page_name`."""
    intro = (
        f"*The {FRAMEWORKS[impl]} half of [the tutorial]({page_name}), which sets both frameworks "
        "side by side. Made by `make tutorial`.*"
    )
    cells = [Cell(intro), *cells_of(page, impl)]
    notebook = nbformat.v4.new_notebook(
        cells=[_new_cell(number, cell) for number, cell in enumerate(cells)]
    )
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def run_notebook(notebook: Notebook, impl: str, say: Callable[[str], None]) -> None:
    """Run `notebook` cell by cell in a kernel of its own, and keep what the cells put out.

    Log messages, which go to stderr and tell of the machine, are not kept.

    Raises:
        RunError: a cell failed, named by its step.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
        )
        with client.setup_kernel(env=_environment(impl, folder), cwd=folder):
            for number, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    say(f"{impl}: {cell.id}")
                    _run_cell(client, cell, number, impl)
    notebook.metadata["made"] = nbformat.from_dict(
        {
            "machine": describe_machine(),
            "packages": package_versions(),
        }
    )


def keep_outputs(notebook: Notebook, earlier: Notebook) -> None:
    """Give `notebook` the outputs of `earlier`, whose code is the same.

    Raises:
        UsageError: the code is not the same.
    """
    if notebook_code(notebook) != notebook_code(earlier):
        raise UsageError("the tutorial's code has changed since it was run: `make tutorial`")
    ran = {cell.id: cell for cell in earlier.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = ran[cell.id].outputs
            cell.execution_count = ran[cell.id].execution_count
    notebook.metadata = earlier.metadata


def notebook_text(notebook: Notebook) -> str:
    """Return the file's text; equal notebooks are equal files."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def read_notebook(path: Path) -> Notebook:
    """Read a notebook that was made here.

    Raises:
        UsageError: it is not there, or not such a notebook.
    """
    try:
        notebook = nbformat.from_dict(read_json(path, MAX_NOTEBOOK_BYTES))
        nbformat.validate(notebook)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"cannot read the notebook {path}: {reason}") from error
    return notebook


def notebook_code(notebook: Notebook) -> dict[str, str]:
    """Return the code by step."""
    return {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}


def outputs_of(notebook: Notebook) -> Mapping[str, Output]:
    """Return what the steps that put something out did."""
    found = {cell.id: _output(cell) for cell in notebook.cells if cell.cell_type == "code"}
    return {step: output for step, output in found.items() if output.text or output.picture}


def _new_cell(number: int, cell: Cell) -> Notebook:
    if cell.step is None:
        return nbformat.v4.new_markdown_cell(cell.text, id=f"text-{number}")
    return nbformat.v4.new_code_cell(cell.text, id=cell.step)


def _environment(impl: str, folder: str) -> dict[str, str]:
    """Return the engine's environment, without a person's own settings of IPython."""
    return {
        **os.environ,
        **ENGINES[impl].variables,
        "KERAS_HOME": os.devnull,
        "IPYTHONDIR": folder,
        # A backend or a style of a person's own would give other pictures, or none.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": folder,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _run_cell(client: NotebookClient, cell: Notebook, number: int, impl: str) -> None:
    try:
        client.execute_cell(cell, number)
    except CellExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
        raise RunError(f"step `{cell.id}` failed in the {impl} half: {reason}") from error
    except DeadKernelError as error:
        raise RunError(f"step `{cell.id}` ended the {impl} half's process") from error
    cell.metadata = nbformat.from_dict({})
    cell.outputs = [kept for kept in map(_kept, cell.outputs) if kept]


def _kept(output: Notebook) -> Notebook | None:
    """Return what a reader sees of an output: printed text, or the picture without its repr."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if "image/png" in output.get("data", {}):
        picture = {"image/png": output.data["image/png"]}
        return nbformat.v4.new_output("display_data", data=picture)
    raise RunError(f"a cell may print and show pictures; received {output.output_type}")


def _output(cell: Notebook) -> Output:
    text = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    pictures = [out.data["image/png"] for out in cell.outputs if out.output_type == "display_data"]
    if len(pictures) > 1:
        raise UsageError(f"step `{cell.id}` may show one picture; received {len(pictures)}")
    return Output(text, base64.b64decode(pictures[0]) if pictures else b"")
