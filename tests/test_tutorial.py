"""The tutorial: its code runs in both frameworks; page, notebooks and pictures belong together."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from tests.programs import run_python
from tutorial.making import PAGE, made_files, notebook_path, pictures_dir, with_earlier_outputs
from tutorial.notebooks import notebook_code, outputs_of, read_notebook
from tutorial.page import FRAMEWORKS, code_of

ROOT = Path(__file__).resolve().parent.parent
SMALL = """# Small

```python both settings
EPOCHS = 1
```

```python keras fails
print(EPOCHS)
raise ValueError("planted")
```

```python lightning fails
print(EPOCHS)
```
"""


@pytest.fixture(scope="module")
def notebooks():
    return {impl: read_notebook(notebook_path(PAGE, impl)) for impl in FRAMEWORKS}


def run(page, data, *flags):
    script = ROOT / "scripts/make_tutorial.py"
    return run_python(script, "--page", page, *flags, env={"FASHION_MNIST_DIR": str(data)})


@pytest.mark.slow
def test_the_code_runs_in_both_implementations(tmp_path, drawn_data):
    page = tmp_path / "tutorial.md"
    shutil.copy(PAGE, page)
    done = run(page, drawn_data, "--epochs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for impl in FRAMEWORKS:
        notebook = read_notebook(notebook_path(page, impl))
        prints = {step for step, code in notebook_code(notebook).items() if "\nprint(" in code}
        assert prints
        assert prints <= set(outputs_of(notebook))
        assert outputs_of(notebook)["same-convolution"].text == "the same: True\n"


def test_a_step_that_fails_is_named_and_nothing_is_written(tmp_path, drawn_data):
    page = tmp_path / "page.md"
    page.write_text(SMALL)
    done = run(page, drawn_data)
    assert done.returncode == 1
    assert "step `fails` failed in the keras half: ValueError: planted" in done.stderr
    assert list(tmp_path.iterdir()) == [page]


def test_page_notebooks_and_pictures_are_one(notebooks):
    page = PAGE.read_text()
    texts, pictures = made_files(page, PAGE, with_earlier_outputs(page, PAGE))
    assert {path: path.read_text() for path in texts} == texts, "run `make readme`"
    assert {path: path.read_bytes() for path in pictures_dir(PAGE).iterdir()} == pictures
    for impl, notebook in notebooks.items():
        assert notebook_code(notebook) == code_of(page, impl)


def test_changed_code_is_seen(notebooks):
    page = PAGE.read_text().replace("BATCH_SIZE = 64", "BATCH_SIZE = 32")
    with pytest.raises(UsageError, match="has changed since it was run"):
        with_earlier_outputs(page, PAGE)


@pytest.mark.parametrize("old", ["<!-- output load -->", "<!-- made source -->"])
def test_a_missing_part_is_seen(old, notebooks):
    with pytest.raises(UsageError):
        made_files(PAGE.read_text().replace(old, "<!-- gone -->"), PAGE, notebooks)


def test_every_picture_is_linked_with_words():
    links = re.findall(r"!\[(.+?)\]\(tutorial/([\w-]+\.png)\)", PAGE.read_text())
    assert {name for _, name in links} == {path.name for path in pictures_dir(PAGE).iterdir()}
    assert all(len(words) > 20 for words, _ in links)


def test_the_notebooks_hold_no_error_and_no_path_of_a_machine(notebooks):
    for impl, notebook in notebooks.items():
        kinds = {out.output_type for cell in notebook.cells for out in cell.get("outputs", [])}
        assert kinds == {"stream", "display_data"}
        text = notebook_path(PAGE, impl).read_text()
        assert not re.search(r"/(?:home|root|work|tmp|Users)/|site-packages", text)
        assert len(text) < 1024 * 1024
