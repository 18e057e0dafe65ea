"""Published models that both frameworks have, and the page of what differs between them.

keras.applications and torchvision, keras-hub and transformers, of random weights. None is a port of
the other; what is listed is what a port has to heed. Completeness is proved by repair: the suspect,
changed in exactly what was listed, has to pass.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.origin import told_commit
from reporting.markdown import table

MODELS = Path(__file__).parent / "pairs"


# Of the small models of keras-hub and transformers.
WORDS, TOKENS, PLACES, HIDDEN, SMALL_IMAGE = 53, 12, 16, 32, 32


@dataclass(frozen=True)
class Published:
    """A pair of published models.

    Attributes:
        name: in keras.applications or keras-hub.
        port: in torchvision or transformers.
        size: pixels of each side of the input, where it is one image.
        repair: whether the suspect's file holds a repair.
        from_hub: whether it is of keras-hub and transformers, from an environment of its own.
        several: inputs that are no image, as `--input` takes them.
    """

    name: str
    port: str
    size: int = 64
    repair: bool = True
    from_hub: bool = False
    several: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The Keras model, as `portproof check` takes it."""
        return f"{MODELS / ('hub' if self.from_hub else 'published')}_keras.py:{self.name}"

    def suspect(self, repaired: bool) -> str:
        """Return the model in torch, as it is or repaired, as `portproof check` takes it."""
        file = f"{MODELS / ('hub' if self.from_hub else 'published')}_torch.py"
        return f"{file}:{self.port}{'_repaired' if repaired else ''}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `--input` takes, input by input."""
        return self.several or (f"{self.size},{self.size},3",)


PAIRS = (
    Published("VGG16", "vgg16", 224, repair=False),
    Published("DenseNet121", "densenet121"),
    Published("ResNet50", "resnet50"),
    Published("MobileNetV2", "mobilenet_v2"),
    Published("EfficientNetB0", "efficientnet_b0"),
    Published("InceptionV3", "inception_v3", 96),
    Published("ConvNeXtTiny", "convnext_tiny"),
    Published("MobileNetV3Small", "mobilenet_v3_small"),
    Published("VGG19", "vgg19", 224, repair=False),
    Published("ResNet101", "resnet101"),
    Published("DenseNet201", "densenet201"),
    Published("EfficientNetB3", "efficientnet_b3"),
    Published("EfficientNetV2S", "efficientnet_v2_s"),
    Published("MobileNetV3Large", "mobilenet_v3_large"),
    Published(
        "Bert", "BertModel", from_hub=True,
        several=(f"int{WORDS}:{TOKENS}", f"int2:{TOKENS}", f"int2:{TOKENS}"),
    ),
    Published(
        "GPT2", "GPT2Model", from_hub=True, repair=False, several=(f"int{WORDS}:{TOKENS}",)
    ),
    Published("ViT", "ViTModel", SMALL_IMAGE, from_hub=True),
)  # fmt: skip

HEAD = (
    "# Published pairs\n\n"
    "keras.applications against torchvision, and small models of keras-hub against transformers, "
    "with random weights in\nfloat64, on a CPU; made by `make published`. Gaps are relative to the "
    "array's largest number, with the frameworks' own\nrules (constants in float32, n/(n − 1) of "
    "the moving variance) made equal in both. None of these is a port of the\nother: what differs "
    "is what a port has to heed."
)
REPAIRED = (
    "## Repaired\n\n"
    "The model in torch, changed in exactly what is listed below (`published_torch.py` and "
    "`hub_torch.py` in `parity_tests/pairs`), has\nto pass: nothing else differs. Gradients "
    "through norms over four samples grow rounding: inputs moved by one ulp move\n"
    "those of torchvision's repaired "
    "InceptionV3 by 2e-11, of MobileNetV3Small by 5e-13, of MobileNetV2 by 2e-13."
)
LONGEST = 100
"""Characters of a stretch in the page."""
COLUMNS = (
    "pair", "input", "calls matched", "failing", "end to end", "gradients, statistics", "s", "GB",
)  # fmt: skip


def published_page(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return `docs/published-pairs.md`.

    Args:
        verdicts: what `scripts/published.py` kept, by `name` and `name-repaired`.
    """
    if not verdicts:
        raise ValueError("no verdicts: nothing to write a page of")
    rows: tuple[list[list[str]], list[list[str]]] = ([], [])
    sections: list[str] = []
    for pair in PAIRS:
        for own, name in zip(rows, (pair.name, f"{pair.name}-repaired"), strict=True):
            if name in verdicts:
                own.append(_row(pair, verdicts[name]))
        if pair.name in verdicts:
            found = _differences(verdicts[pair.name]["verdict"])
            sections += ["", f"## {pair.name} → {pair.port}", "", *found]
    ran = _ran(list(verdicts.values()))
    names = [n for p in PAIRS for n in (p.name, *([f"{p.name}-repaired"] if p.repair else []))]
    missing = ", ".join(name for name in names if name not in verdicts)
    left_out = ["", f"Not checked: {missing}."] if missing else []
    as_is, repaired = (table(COLUMNS, own) for own in rows)
    lines = [HEAD, "", *as_is, "", ran, *left_out, "", REPAIRED, "", *repaired, *sections]
    return "\n".join(lines) + "\n"


def _ran(kept: Sequence[Mapping[str, Any]]) -> str:
    """Return a line on the checks' machines, versions and load."""
    versions = dict.fromkeys(f"{n} {v}" for k in kept for n, v in k["versions"].items())
    machines = dict.fromkeys(k["machine"] for k in kept)
    commits = dict.fromkeys(told_commit(k) for k in kept)
    load = max(k["load"] for k in kept)
    return (
        f"Seconds and peak memory (Keras, torch) of one run each on {', '.join(machines)}, with a "
        f"load of other work up to\n{load:.0f}. {', '.join(versions)}{''.join(commits)}."
    )


def _row(pair: Published, kept: Mapping[str, Any]) -> list[str]:
    verdict = kept["verdict"]
    failing = sum(d["fails"] for d in verdict["differences"])
    output = max(verdict["outputs"].values(), key=_size)
    gradient = verdict["whole_gradient"]
    if verdict["settled"]:
        output, gradient = verdict["settled"]
    return [
        f"{pair.name} → {pair.port}",
        ", ".join(pair.several) or f"{pair.size}×{pair.size}",
        f"{verdict['matched']}/{max(verdict['calls'])}",
        str(failing or "none"),
        *(g["text"] or f"{g['size']:.1e}" for g in (output, gradient)),
        f"{verdict['seconds']:.0f}",
        ", ".join(f"{gb:.1f}" for gb in verdict["memory"]),
    ]


def _size(gap: Mapping[str, Any]) -> float:
    """Return a gap's size; None stands for one that is no number."""
    return float("inf") if gap["size"] is None else float(gap["size"])


def _differences(verdict: Mapping[str, Any]) -> list[str]:
    """Return a table of all that differs, what fails first."""
    rows = []
    for d in sorted(verdict["differences"], key=lambda d: not d["fails"]):
        place = d["places"][0]
        gap = "" if d["gap"] is None else f"{d['gap']:.1e}"
        kind = "rule of the frameworks" if d["is_rule"] else "" if d["fails"] else "no effect here"
        found = "; ".join(p for p in (d["cause"], d["detail"], kind) if p)
        cells = [
            d["what"],
            f"{len(d['places'])} × {d['kind']}: {place['left']}",
            _short(d["left"]),
            _short(d["right"]),
            gap,
            found,
        ]
        rows.append([cell.replace("|", "·") for cell in cells])
    headings = ("differs", "where", "Keras", "torch", "gap", "what was found")
    return list(table(headings, rows)) if rows else ["Nothing differs."]


def _short(text: str) -> str:
    """Return the end of a text, where what differs mostly stands."""
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:].partition(' ')[2]}"


def read_verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the verdicts in a folder, by pair, in the order of `PAIRS`."""
    names = [n for p in PAIRS for n in (p.name, f"{p.name}-repaired")]
    paths: Sequence[Path] = [folder / f"{name}.json" for name in names]
    return {path.stem: json.loads(path.read_text()) for path in paths if path.is_file()}
