"""From the page's text to notebooks that have run, and from these back to page and pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ladder.files import write_bytes, write_text
from tutorial.notebooks import (
    Notebook,
    keep_outputs,
    new_notebook,
    notebook_text,
    outputs_of,
    read_notebook,
    run_notebook,
)
from tutorial.numbers import made_parts
from tutorial.page import FRAMEWORKS, pictures_of, with_made, with_outputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def notebook_path(page: Path, impl: str) -> Path:
    """Return where the notebook of `impl` lies: beside the page."""
    return page.with_name(f"{page.stem}-{impl}.ipynb")


def pictures_dir(page: Path) -> Path:
    """Return the folder of the page's pictures."""
    return page.with_suffix("")


def run_all(page: str, page_name: str, say: Callable[[str], None]) -> dict[str, Notebook]:
    """Return the notebook of each implementation, run one after the other.

    Raises:
        UsageError: the page is not in order.
        RunError: a step failed.
    """
    notebooks = {impl: new_notebook(page, impl, page_name) for impl in FRAMEWORKS}
    for impl, notebook in notebooks.items():
        run_notebook(notebook, impl, say)
    return notebooks


def with_earlier_outputs(page: str, path: Path) -> dict[str, Notebook]:
    """Return both notebooks with the page's prose and the outputs that lie beside it.

    Raises:
        UsageError: the code has changed since, or there is no notebook.
    """
    notebooks = {impl: new_notebook(page, impl, path.name) for impl in FRAMEWORKS}
    for impl, notebook in notebooks.items():
        keep_outputs(notebook, read_notebook(notebook_path(path, impl)))
    return notebooks


def made_files(
    page: str, path: Path, notebooks: Mapping[str, Notebook]
) -> tuple[dict[Path, str], dict[Path, bytes]]:
    """Return the page with what `notebooks` put out, the notebooks, and the pictures, by path.

    Raises:
        UsageError: an output has no place on the page, or a place no output.
    """
    outputs = {impl: outputs_of(notebook) for impl, notebook in notebooks.items()}
    folder = pictures_dir(path)
    page = with_made(with_outputs(page, outputs, folder.name), made_parts(notebooks))
    texts = {notebook_path(path, impl): notebook_text(each) for impl, each in notebooks.items()}
    pictures = {folder / name: png for name, png in pictures_of(outputs).items()}
    return {path: page, **texts}, pictures


def write_made(path: Path, texts: Mapping[Path, str], pictures: Mapping[Path, bytes]) -> None:
    """Write all files of the page at `path`, and take away the pictures that it no longer has."""
    folder = pictures_dir(path)
    folder.mkdir(exist_ok=True)
    for picture, png in pictures.items():
        write_bytes(picture, png)
    for file, text in texts.items():
        write_text(file, text)
    for old in set(folder.glob("*.png")) - set(pictures):
        old.unlink()
