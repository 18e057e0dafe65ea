"""Pages that are compared whole with what they were when a person last read them."""

import os
from pathlib import Path


def check_page(name, text):
    """Compare with `tests/golden/NAME`; `WRITE_GOLDEN=1 pytest …` writes it, for `git diff`."""
    path = Path(__file__).with_name(name)
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
