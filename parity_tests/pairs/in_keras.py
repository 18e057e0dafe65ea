"""Answer questions about the second pair in Keras, with a mistake planted; see `serve`.

A program: it patches its own processes and nothing imports it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras

from ladder.adapters.calling import answer_reference
from ladder.adapters.keras import KerasSubject, configure
from ladder.exchange import read_question
from ladder.serve import serve
from parity_tests.pairs import strided_keras
from parity_tests.pairs.mutants_keras import MUTANTS, VARIANTS

PLANTED: list[Callable[..., keras.Model]] = []


def answer(question_path: Path, trace_path: Path) -> int:
    """Build the variant that the question names, with what is planted, and answer about it."""
    question = read_question(question_path)
    configure(str(question.settings["precision"]))
    variant = question.settings["variant"]
    changes = [*([VARIANTS[variant]] if variant else []), *PLANTED]
    build: Callable[[], keras.Model] = strided_keras.build
    for change in changes:
        build = partial(change, build)
    engine = f"keras-{keras.backend.backend()}"
    return answer_reference(engine, question, lambda: KerasSubject(build()), trace_path)


if __name__ == "__main__":
    serve(lambda name: PLANTED.append(MUTANTS[name]), answer)
