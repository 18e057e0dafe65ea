"""What a person looks at after a run: `report.txt` and the pictures in `plots/`."""

from collections.abc import Sequence
from pathlib import Path

from ladder.files import write_text
from pipeline.evaluation import Evaluation
from pipeline.plots import Curve, plot_classified, plot_confusion, plot_curves
from pipeline.preprocess import LabeledImages
from pipeline.record import PLOTS, REPORT, Record, series


def write_run_report(
    run_dir: Path,
    record: Record,
    evaluation: Evaluation,
    test: LabeledImages,
    class_names: Sequence[str],
) -> None:
    """Write `report.txt` and `plots/{accuracy,loss,confusion,correct,incorrect}`, PNG and SVG."""
    write_text(run_dir / REPORT, report_text(record, evaluation))
    plots = run_dir / PLOTS
    plots.mkdir(exist_ok=True)
    title = f"{record.engine}, {record.variant}"
    for metric in ("accuracy", "loss"):
        curve = Curve(title, series(record, metric), series(record, f"val_{metric}"))
        plot_curves(plots / f"{metric}.png", {title: [curve]}, metric)
    plot_confusion(plots / "confusion.png", evaluation.confusion, class_names)
    for kind, chosen in (("correct", evaluation.correct), ("incorrect", evaluation.incorrect)):
        plot_classified(
            plots / f"{kind}.png",
            test.images[chosen],
            test.labels[chosen],
            evaluation.predicted[chosen],
            class_names=class_names,
            title=f"Test images classified {kind}ly",
        )


def report_text(record: Record, evaluation: Evaluation) -> str:
    """Return the headline and scikit-learn's classification report."""
    num_correct, num_incorrect = len(evaluation.correct), len(evaluation.incorrect)
    return (
        f"{record.engine}, {record.variant}, {record.dataset['name']}, "
        f"{len(record.history)} epoch{'s' if len(record.history) != 1 else ''}\n"
        f"test loss {evaluation.loss:.4f}, test accuracy {evaluation.accuracy:.4f}: "
        f"{num_correct:,} images classified correctly, {num_incorrect:,} incorrectly\n\n"
        f"{evaluation.report_text}"
    )
