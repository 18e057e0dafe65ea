"""Write a run's model in forms that other programs take, each checked by running the file."""

import argparse
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of
from pipeline.flags import chosen


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Write a run's model as files for other programs: .keras, SavedModel and ONNX "
        "from Keras, torch.export and ONNX from Lightning. A file is kept only if, run by itself, "
        "it gives the run's test logits.",
        epilog="Exit codes: 0 done, 1 a form could not be written or checked, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--form", metavar="F,…",
        help="keras, savedmodel, onnx of a Keras run; pt2, onnx of a Lightning run (all)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", help="folder for the files (RUN/export)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def show(arguments: argparse.Namespace) -> None:
    from pipeline.errors import RunError
    from pipeline.terminal import say
    from trained.export import export, forms_of, write_about
    from trained.run_folder import read_run

    run = read_run(arguments.run)
    forms = forms_of(run)
    if arguments.form is not None:
        forms = tuple(chosen(arguments.form, forms, "--form"))
    folder = arguments.output_dir or arguments.run / "export"
    exported, failed = [], []
    for form in forms:
        try:
            done = export(run, form, folder, arguments.data_dir)
        except RunError as error:
            print(f"export.py: {form} is not exported: {error}", file=sys.stderr)
            failed.append(form)
            continue
        exported.append(done)
        say(
            f"{folder / done.file}: {done.images:,} test images, logits at most "
            f"{done.logit_gap:.2g} from the run's; {done.allowed_gap:.2g} is allowed"
        )
    if exported:
        say(f"what they take and give: {write_about(folder, run, exported)}")
    if failed:
        raise RunError(f"not exported: {', '.join(failed)}")


main = main_of("export.py", parser, show)

if __name__ == "__main__":
    sys.exit(main())
