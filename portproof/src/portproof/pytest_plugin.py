"""The fixture `portproof`, which pytest finds once the package is installed.

def test_the_port_is_right(portproof):
portproof("keras_model.py:build", "torch_model.py:build", ["64,64,3"])
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from portproof.graph.verdict import Verdict


@pytest.fixture
def portproof(request: pytest.FixtureRequest) -> "Callable[..., Verdict]":
    """Return `portproof.check` that raises where the two models differ; else it gives the verdict.

    Files named in `file.py:function` are looked for beside the test first.

    Raises:
        PortError: they do not compute the same; the message is the whole verdict.
        CheckError: it cannot be checked as asked for.
    """

    def checked(reference: str, suspect: str, inputs: Sequence[str], **options: Any) -> "Verdict":
        from portproof.checking import check

        folder = request.path.parent
        verdict = check(_beside(folder, reference), _beside(folder, suspect), inputs, **options)
        verdict.raise_for_difference()
        return verdict

    return checked


def _beside(folder: Path, name: str) -> str:
    file, colon, function = name.rpartition(":")
    path = folder / file
    return f"{path}{colon}{function}" if file.endswith(".py") and path.is_file() else name
