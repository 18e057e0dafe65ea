"""The proof's results as Markdown, for the run's folder and for `docs/`."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity_tests.catalogue import FLOAT64_ONLY, JAX, TENSORFLOW
from parity_tests.full import (
    EVERY,
    FREE,
    FREE_EPOCHS,
    GRAIN,
    JAX_EXPLAINED,
    JAX_FREE,
    MOVED,
    STEPS_PER_EPOCH,
    SYNCHRONISED,
    horizon_shares,
    horizons,
    largest_gap,
)
from parity_tests.practice import CHECKS
from pipeline.origin import told_commit
from reporting.markdown import table

Rows = Sequence[Mapping[str, Any]]
WORDS = {True: "passes", False: "**seen**", None: "cannot be made", "left out": ""}


def mutants_page(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page of mutants."""
    rows: Rows = found["faults"]
    planted = [row for row in rows if not row["is_harmless"]]
    right = [row for row in planted if not row["not_as_expected"]]
    harmless = [row for row in rows if row["is_harmless"]]
    quiet = [row for row in harmless if not row["not_as_expected"]]
    named = sum(bool(row["cause"]) for row in right)
    yield "# Mutants"
    yield ""
    yield (
        f"{len(planted)} porting mistakes, planted one at a time in the production code of one "
        f"implementation, inside its process. The other stays as it is, and the ladder is climbed "
        f"up to where they part, in float64. {len(right)} are caught on the rung that the "
        f"catalogue says and, where it gives a place, there; of {named} the cause that it says is "
        "named, of the others none. Of the network, its loss and its optimizer `portproof` names "
        f"it. Of {len(harmless)} changes that must change nothing, {len(quiet)} raise no alarm."
    )
    yield ""
    yield from origin_lines(found)
    yield ""
    rows_shown = [[*_caught(row)] for row in planted]
    yield from table(("mistake", "planted in", "caught on rung", "at", "named"), rows_shown)
    yield ""
    yield "## Changes that must change nothing"
    yield ""
    shown = [[row["mistake"], row["engine"], _alarm(row)] for row in harmless]
    yield from table(("change", "planted in", "alarm"), shown)
    if found.get("practice"):
        yield ""
        yield from practice_lines(planted, found["practice"])


def _caught(row: Mapping[str, Any]) -> Iterator[str]:
    wrong = "".join(f" ({text})" for text in row["not_as_expected"])
    explained = ", explained" if row["status"] == "explained" else ""
    variant = f", {row['variant']}" if row["variant"] != "base" else ""
    yield row["mistake"]
    yield f"{row['engine']}{variant}"
    yield f"{row['rung'] or 'not caught'}{explained}{wrong}"
    yield _code(row["where"])
    cause = row["cause"]
    yield (_code(cause) if " " not in cause else cause) if cause else "cause unknown"


def _alarm(row: Mapping[str, Any]) -> str:
    return f"{row['rung']}: {_code(row['where'])}" if row["rung"] else "none"


def practice_lines(planted: Rows, practice: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the checks that people make of a port see of the same mutants."""
    checks = practice["checks"]
    of_doubles = [row for row in planted if row["fault"] in FLOAT64_ONLY]
    known = [row for row in planted if _place(row) in checks and row not in of_doubles]
    # What cannot be made counts as seen: a person would notice.
    blind = [row for row in known if all(checks[_place(row)].values())]
    yield "## What usual practice would have seen"
    yield ""
    yield (
        "The checks that people make of a port, really run on each mutant, in float32: parameter "
        "counts; shapes; logits of 64 test images after the weights are carried over, within 1e-3 "
        "and within 1e-5; gradients in evaluation mode, within 1e-5; and the test accuracy after "
        "one epoch on the real data, within the range that the true network reaches, for those "
        f"that no other check has seen. Of {len(known)} mutants, {len(blind)} are seen by none of "
        f"them; these stand first. {len(of_doubles)} more are none in float32 and are left out. On "
        "JAX the true pair's gradients part too, where activations are exactly 0."
    )
    yield ""
    rows = []
    for row in sorted(known, key=lambda row: row not in blind):
        made = checks[_place(row)]
        shown = [WORDS[made.get(name, "left out")] for name in CHECKS]
        rows.append([row["mistake"], row["engine"], *shown])
    yield from table(("mistake", "planted in", *CHECKS), rows)


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['engine']}/{row['fault']}"


def named(row: Mapping[str, Any]) -> str:
    """Return the cause that a replay's row names: an id with a sentence, or a sentence alone."""
    if row["sentence"]:
        return f"{_code(row['found_cause'])}: {row['sentence']}"
    return row["found_cause"] or "cause unknown"


def replays_page(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page of replayed disagreements."""
    rows: Rows = found["replays"]
    right = [row for row in rows if not row["not_as_expected"]]
    yield "# Reported disagreements, replayed"
    yield ""
    yield (
        f"{len(rows)} public threads in which Keras and PyTorch, or two backends, disagree. Each "
        "is reduced to this pipeline's network or to a second pair (strided convolutions, "
        "BatchNorm, average pooling, AdamW with a schedule and clipping). The ladder, or "
        "`portproof` for the second pair, is asked where the numbers part and why. The expected "
        f"place and cause are named in {len(right)}."
    )
    yield ""
    yield from origin_lines(found)
    yield ""
    shown = [
        [
            f"[{row['thread_title']}]({row['thread_url']})",
            row["reported"],
            f"{row['pair']}, {row['engine']}",
            row["found_rung"] or "none",
            named(row),
        ]
        for row in rows
    ]
    headings = ("thread", "reported", "replayed in", "numbers part at", "named")
    yield from table(headings, shown)


def origin_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where results come from."""
    machine, packages = found["machine"], found["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    code = told_commit(machine)
    yield f"`{found['command']}`, {machine['cpu']}, {machine['cores']} cores; {versions}{code}."


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


def ladder_lines(page: str) -> Iterator[str]:
    """Yield the tables of a ladder's page, without its single climbs."""
    tables, _, _ = page.partition("## Each climb")
    yield from tables.replace("## ", "### ").strip().splitlines()


def training_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what following whole trainings found."""
    stages, rows = found["stages"], []
    for name in (*FREE, "base-0-keras-torch"):
        for epochs in (1, FREE_EPOCHS):
            gap = largest_gap(stages[name], epochs * STEPS_PER_EPOCH) if name in stages else None
            if gap is not None:
                engine, variant = stages[name]["stage"]["engine"], name.partition("-")[0]
                masks = " (masks from NumPy)" if variant == "dropout" else ""
                words = f"{engine}, {variant}{masks}, free, {epochs} epoch{'s' * (epochs > 1)}"
                rows.append([words, f"{epochs * STEPS_PER_EPOCH:,}", f"{gap:.1e}"])
    steps = stages[SYNCHRONISED]["steps"]
    largest = max(row["weight"] for row in steps.values())
    words = f"keras-tensorflow, base, gone on from Lightning's state every {EVERY} steps"
    rows.append(
        [f"{words}, in all {len(steps)} pieces", f"{max(map(int, steps)):,}", f"{largest:.1e}"]
    )
    yield from table(("run, against Lightning", "steps", "largest gap of any weight"), rows)
    epochs = found["test_images_after_each_epoch"]["epochs"]
    others = sum(row["other_labels"] for row in epochs)
    logits = max(row["largest_logit_gap"] for row in epochs)
    origin = found["origin"]
    yield ""
    yield (
        f"After each of the {len(epochs)} epochs of the last run, {others} of "
        f"{epochs[0]['images']:,} test images get another label; logits lie within {logits:.1e}. "
        f"`{origin['command']}`, n = 1, {origin['machine']['cpu']}, "
        f"{origin['machine']['cores']} cores{told_commit(origin['machine'])}."
    )


def jax_lines(stages: Mapping[str, Any]) -> Iterator[str]:
    """Yield how far JAX lies from Lightning, on images with flat ground and without."""
    rows = []
    for name, words in (
        (JAX_FREE, "as they are"),
        (JAX_EXPLAINED, f"with up to {GRAIN - 1} grey levels of noise on each pixel"),
    ):
        if f"{name}-{JAX}" not in stages:
            continue
        steps = stages[f"{name}-{JAX}"]["steps"]
        last = max(map(int, steps))
        rows.append([words, f"{last:,}", f"{largest_gap({'steps': steps}, last):.1e}"])
    headings = ("keras-jax, the small training; the images", "steps", "largest gap of any weight")
    yield from table(headings, rows)


def processes_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield how far trainings on several devices lie from those on one."""
    rows, origin = [], found["origin"]
    for row in found["trainings"]:
        if row["training"] == "long":
            loss = max(row["metrics"]["loss"], row["metrics"]["val_loss"])
            gaps = [f"{gap:.1e}" for gap in (*row["gaps"].values(), loss)]
            rows.append([row["engine"], row["variant"], str(row["devices"]), *gaps])
    engine, group = (
        ("engine", "variant", "N"),
        ("weights", "Adam's m", "Adam's v", "epochs' losses"),
    )
    yield from table((*engine, *(f"largest gap of {name}" for name in group)), rows)
    every = [row for row in found["trainings"] if row["training"] == "every-step"]
    weights = max(row["gaps"]["weight"] for row in every)
    slots = max(row["gaps"][name] for row in every for name in ("adam.m", "adam.v"))
    counts = sum(row["metrics"][name] for row in found["trainings"]
                 for name in ("accuracy", "val_accuracy"))  # fmt: skip
    yield ""
    yield (
        f"After each of {max(row['looks'] for row in every)} steps of a short training: weights "
        f"within {weights:.1e}, slots within {slots:.1e}. Accuracies differ by {counts:g} in all. "
        f"`{origin['command']}`, n = 1 each, {origin['machine']['cpu']}, "
        f"{origin['machine']['cores']} cores{told_commit(origin['machine'])}."
    )


def horizon_lines(stages: Mapping[str, Any]) -> Iterator[str]:
    """Yield the step at which each pair of runs has parted, and the median of the shares."""
    rows = []
    for start, own in horizons(stages).items():
        between, alone = own.get(TENSORFLOW), own.get(MOVED)
        share = f"{between / alone:.2f}" if between and alone else "–"
        rows.append([start, *(f"{step:,}" if step else "–" for step in (between, alone)), share])
    headings = ("training, seed", "Keras against Lightning", "Lightning against itself", "share")
    yield from table(headings, rows)
    for kind, shares in horizon_shares(stages).items():
        if len(shares) > 1:
            yield ""
            yield (
                f"Median share of the {kind} training: {statistics.median(shares):.2f}, "
                f"n = {len(shares)} seeds, {min(shares):.2f} to {max(shares):.2f}."
            )
