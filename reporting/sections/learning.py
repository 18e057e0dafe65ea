"""Whether both learn equally well, over seeds."""

from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Certificates, Design, name_of
from reporting.wording import Fields, colour_of


def learning(found: Certificates) -> Fields:
    """Return the sentence of each design, and the accuracies that it judges."""
    honest = [item for item in found.certificates if not item.is_planted]
    planted = [item for item in found.certificates if item.is_planted]
    rows = [
        Row(
            f"{item.design}, {name_of(engine)}",
            [Mark(value, colour_of(engine), f"{name_of(engine)}: {value:.4f}") for value in values],
        )
        for item in honest
        if any(item.values)
        for engine, values in zip((item.reference, item.suspect), item.values, strict=True)
    ]
    return {
        "honest": [(_title(item), item.sentence) for item in honest],
        "planted": [(_title(item), item.sentence) for item in planted],
        "chart": charts.rows_chart(
            rows, "Test accuracy of each seed", "test accuracy", is_from_zero=False
        ),
    }


def _title(item: Design) -> str:
    return (
        f"{item.design} ({name_of(item.suspect)} against {name_of(item.reference)}, "
        f"{item.variant}, {item.num_epochs} epochs)"
    )
