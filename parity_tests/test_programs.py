"""Each engine's own program answers as the served one does."""

import numpy as np
import pytest

from ladder.compare import compare_arrays, compare_facts
from ladder.engines import EngineError, answer
from ladder.exchange import Question, read_trace, write_question
from pipeline.engines import ENGINES
from pipeline.network import shared_first_weights
from pipeline.recipe import preset, recipe_to_dict

RECIPE = preset("dropout")


@pytest.mark.parametrize("engine", ["keras-tensorflow", "lightning"])
def test_a_program_answers_like_its_server(ask, tmp_path, engine):
    weights = shared_first_weights(RECIPE)
    arrays = {f"weights.{name}": array for name, array in weights.items()}
    arrays["images"] = np.arange(5 * 784, dtype=np.uint8).reshape(5, 28, 28, 1)
    served = ask(engine, RECIPE, "layers", "logits", arrays=arrays)
    question = Question(("layers", "logits"), {"recipe": recipe_to_dict(RECIPE)}, arrays)
    write_question(tmp_path / "question", question)
    answer(
        ENGINES[engine],
        tmp_path / "question",
        tmp_path / "trace",
        precision="32",
        timeout_seconds=300,
    )
    trace = read_trace(tmp_path / "trace", question)
    assert trace.engine == served.engine == engine
    assert compare_facts(trace.facts, served.facts) == []
    assert compare_arrays(trace.arrays, served.arrays) == []


@pytest.mark.parametrize("engine", ["keras-tensorflow", "lightning"])
def test_an_unknown_question_is_refused(ask, engine):
    with pytest.raises(EngineError, match=f"{engine} cannot answer 'the weather'"):
        ask(engine, RECIPE, "the weather")
