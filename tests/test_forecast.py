import pytest

from pipeline.execution import Execution
from pipeline.forecast import Forecast, duration
from pipeline.launch import Job
from pipeline.recipe import preset


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def job(engine, variant, tmp_path, num_epochs=4):
    recipe = preset(variant, num_epochs=num_epochs)
    return Job(engine, recipe, Execution(), (), tmp_path / f"{engine}-{variant}")


def epochs(*seconds):
    return [{"seconds": value} for value in seconds]


@pytest.fixture
def four(tmp_path):
    return [
        job(engine, variant, tmp_path)
        for engine in ("keras-jax", "lightning")
        for variant in ("base", "dropout")
    ]


def test_before_anything_is_measured_no_time_is_named(four):
    forecast = Forecast(four)
    assert forecast.seconds_left is None
    assert str(forecast) == "16 of 16 epochs to go"


def test_the_first_epoch_tells_for_all_and_each_later_one_for_its_own(four):
    clock = Clock()
    forecast = Forecast(four, clock)
    forecast.begin(four[0])
    clock.now += 5 + 20  # a start of 5 s
    assert forecast.note(four[0], epochs(20))
    assert forecast.seconds_left == 3 * 20 + 3 * (5 + 4 * 20)
    assert not forecast.note(four[0], epochs(20))
    clock.now += 3 * 10 + 2  # 2 s for test and report
    assert forecast.note(four[0], epochs(20, 10, 10, 10))
    forecast.end(four[0])
    assert forecast.seconds_left == 3 * (7 + 4 * 10)
    assert str(forecast) == "12 of 16 epochs to go, about 2 min"
    forecast.begin(four[1])
    clock.now += 5 + 4 * 30 + 2
    forecast.note(four[1], epochs(30, 30, 30, 30))
    forecast.end(four[1])
    assert forecast.seconds_left == 2 * (7 + 4 * 25)  # the median of 20, 10, 10, 10 and four 30
    forecast.begin(four[2])
    clock.now += 5 + 1
    forecast.note(four[2], epochs(1))
    assert forecast.seconds_left == 3 * 1 + (7 + 4 * 1)  # of its own engine, not of any


def test_a_training_that_fails_leaves_nothing(four):
    clock = Clock()
    forecast = Forecast(four[:2], clock)
    forecast.begin(four[0])
    clock.now += 10
    forecast.note(four[0], epochs(10))
    forecast.end(four[0])
    assert str(forecast) == "4 of 5 epochs to go, about 40 s"


def test_kept_epochs_count_as_measured_and_not_into_the_start(four):
    clock = Clock()
    forecast = Forecast(four[:2], clock)
    forecast.keep(four[0], epochs(8, 8, 8, 8))
    forecast.keep(four[1], epochs(50))
    assert forecast.seconds_left == 3 * 50
    forecast.begin(four[1])
    clock.now += 6 + 10
    forecast.note(four[1], epochs(50, 10))
    assert forecast.seconds_left == 2 * 30
    clock.now += 10 + 10
    forecast.note(four[1], epochs(50, 10, 10, 10))
    forecast.end(four[1])
    assert (forecast.num_epochs_left, forecast.seconds_left) == (0, 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "5 s"), (41, "40 s"), (94, "95 s"), (95, "2 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_a_duration_is_as_rough_as_an_estimate(seconds, text):
    assert duration(seconds) == text
