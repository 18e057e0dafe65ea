"""Answer questions about the second pair in Lightning, with a mistake planted; see `serve`.

A program: it patches its own processes and nothing imports it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ladder.adapters.calling import answer_reference
from ladder.adapters.lightning import subject_of
from ladder.exchange import read_question
from ladder.serve import serve
from parity_tests.pairs import strided_lightning
from parity_tests.pairs.mutants_lightning import MUTANTS, VARIANTS, Built

PLANTED: list[Callable[..., Built]] = []


def answer(question_path: Path, trace_path: Path) -> int:
    """Build the variant that the question names, with what is planted, and answer about it."""
    question = read_question(question_path)
    variant = question.settings["variant"]
    changes = [*([VARIANTS[variant]] if variant else []), *PLANTED]
    build: Callable[[], Built] = strided_lightning.build
    for change in changes:
        build = partial(change, build)
    return answer_reference(
        "lightning", question, lambda: subject_of(build(), question), trace_path
    )


if __name__ == "__main__":
    serve(lambda name: PLANTED.append(MUTANTS[name]), answer)
