"""The tutorial's page: what of it is code, what of it is made, and what each implementation runs.

A fenced block is code of a step: `python both NAME`, or `python keras NAME` beside
`python lightning NAME`. What the step put out stands between `<!-- output NAME: ALT -->` and
`<!-- /output -->`, ALT being the words for its picture; what is made from both frameworks' numbers
between `<!-- made NAME -->` and `<!-- /made -->`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import UsageError

FRAMEWORKS = {"keras": "Keras", "lightning": "Lightning"}

BLOCK = re.compile(r"(?ms)^```python (both|keras|lightning) ([a-z0-9-]+)\n(.*?)^```\n")
OUTPUT = re.compile(r"(?ms)^<!-- output ([a-z0-9-]+)(?:: ([^\n]*?))? -->\n(.*?)^<!-- /output -->\n")
MADE = re.compile(r"(?ms)^<!-- made ([a-z0-9-]+) -->\n(.*?)^<!-- /made -->\n")
# What sets two blocks side by side on the page and means nothing in a notebook.
SIDE_BY_SIDE = re.compile(
    r"(?m)^(?:</?table>|</?tr>|</?td>|<tr><th>Keras</th><th>Lightning</th></tr>)\n"
)
# Prose that means nothing in a notebook, which holds one implementation alone.
PAGE_ONLY = re.compile(r"(?ms)^<!-- page only -->\n.*?^<!-- /page only -->\n")
SETTING = r"(?m)^({name} = )\d+$"


@dataclass(frozen=True)
class Cell:
    """A piece of the page for one implementation: prose, or the code of the step that is named."""

    text: str
    step: str | None = None


@dataclass(frozen=True)
class Output:
    """What a step put out in one implementation: its printed text and its picture, a PNG."""

    text: str = ""
    picture: bytes = b""


Outputs = Mapping[str, Output]


def cells_of(page: str, impl: str) -> list[Cell]:
    """Return the prose and code of `page` that are for `impl`, in order.

    Raises:
        UsageError: a step is named twice, or only one implementation has it.
    """
    _require_both_implementations(page)
    page = OUTPUT.sub("", MADE.sub("", PAGE_ONLY.sub("", page)))
    cells, end = [], 0
    for block in BLOCK.finditer(page):
        cells.append(Cell(page[end : block.start()]))
        if block[1] in ("both", impl):
            cells.append(Cell(block[3], step=block[2]))
        end = block.end()
    cells.append(Cell(page[end:]))
    return list(_without_scaffolding(cells))


def code_of(page: str, impl: str) -> dict[str, str]:
    """Return the code that `impl` runs, by step."""
    return {cell.step: cell.text for cell in cells_of(page, impl) if cell.step}


def with_setting(page: str, name: str, value: int) -> str:
    """Return `page` with the one line `name = …` of its code set to `value`.

    Raises:
        UsageError: there is no such line, or more than one.
    """
    changed, found = re.subn(SETTING.format(name=name), rf"\g<1>{value}", page)
    if found != 1:
        raise UsageError(f"the page must hold one line `{name} = …`; received {found}")
    return changed


def with_outputs(page: str, outputs: Mapping[str, Outputs], folder: str) -> str:
    """Return `page` with every output part made from both frameworks' `outputs`, by step.

    Pictures are linked in `folder`, under the names that `pictures_of` gives them.

    Raises:
        UsageError: a step that puts something out has no part, or a part no such step.
    """
    parts = [part[1] for part in OUTPUT.finditer(page)]
    steps = list(dict.fromkeys(step for impl in outputs.values() for step in impl))
    for name in sorted(set(parts) ^ set(steps)) + [n for n in parts if parts.count(n) > 1]:
        problem = "an output and no one part for it" if name in steps else "a part and no output"
        raise UsageError(f"step `{name}` has {problem}")

    def made(part: re.Match[str]) -> str:
        name, alt = part[1], part[2] or ""
        alternative = f": {alt}" if alt else ""
        lines = _output_lines(name, alt, outputs, folder)
        return f"<!-- output {name}{alternative} -->\n{lines}\n<!-- /output -->\n"

    return OUTPUT.sub(made, page)


def with_made(page: str, parts: Mapping[str, str]) -> str:
    """Return `page` with its made parts taken from `parts`, by name.

    Raises:
        UsageError: the page lacks one of them or has another.
    """
    names = [part[1] for part in MADE.finditer(page)]
    if sorted(names) != sorted(parts):
        raise UsageError(f"the page must have the made parts {sorted(parts)}; received {names}")
    return MADE.sub(
        lambda part: f"<!-- made {part[1]} -->\n{parts[part[1]]}\n<!-- /made -->\n", page
    )


def pictures_of(outputs: Mapping[str, Outputs]) -> dict[str, bytes]:
    """Return the pictures of all steps by file name; equal ones of both implementations are one."""
    files = {}
    for impl, steps in outputs.items():
        for step, output in steps.items():
            if output.picture:
                files[_file_name(step, impl, outputs)] = output.picture
    return files


def _require_both_implementations(page: str) -> None:
    found: dict[str, list[str]] = {}
    for block in BLOCK.finditer(page):
        found.setdefault(block[2], []).append(block[1])
    for step, impls in found.items():
        if sorted(impls) not in (["both"], sorted(FRAMEWORKS)):
            raise UsageError(
                f"step `{step}` must be one block, or one of each implementation; has {impls}"
            )


def _without_scaffolding(cells: list[Cell]) -> Iterator[Cell]:
    """Yield code as it is, and prose, neighbours joined, without what only the page needs."""
    prose = ""
    for cell in [*cells, Cell("", step="")]:
        if cell.step is None:
            prose += cell.text
            continue
        text = re.sub(r"\n{3,}", "\n\n", SIDE_BY_SIDE.sub("", prose)).strip()
        if text:
            yield Cell(text)
        if cell.step:
            yield Cell(cell.text.rstrip("\n"), cell.step)
        prose = ""


def _output_lines(name: str, alt: str, outputs: Mapping[str, Outputs], folder: str) -> str:
    found = {impl: steps.get(name, Output()) for impl, steps in outputs.items()}
    texts = {impl: output.text for impl, output in found.items()}
    lines = []
    if any(texts.values()):
        lines.append(_once_or_beside(texts, lambda text: f"```text\n{text.rstrip()}\n```"))
    if any(output.picture for output in found.values()):
        if not alt:
            raise UsageError(
                f"the picture of step `{name}` has no words: <!-- output {name}: … -->"
            )
        names = {impl: _file_name(name, impl, outputs) for impl in found}
        links = {
            impl: f"![{alt if len(set(names.values())) == 1 else f'{FRAMEWORKS[impl]}: {alt}'}]"
            f"({folder}/{file})"
            for impl, file in names.items()
        }
        lines.append(_once_or_beside(links, str))
    return "\n\n".join(lines)


def _once_or_beside(texts: Mapping[str, str], show: Callable[[str], str]) -> str:
    """Return the text of both implementations once where it is the same, else side by side."""
    if len(set(texts.values())) == 1:
        return show(next(iter(texts.values())))
    heads = "".join(f"<th>{FRAMEWORKS[impl]}</th>" for impl in texts)
    cells = "\n".join(f"<td>\n\n{show(text)}\n\n</td>" for text in texts.values())
    return f"<table>\n<tr>{heads}</tr>\n<tr>\n{cells}\n</tr>\n</table>"


def _file_name(step: str, impl: str, outputs: Mapping[str, Outputs]) -> str:
    pictures = {steps[step].picture if step in steps else b"" for steps in outputs.values()}
    return f"{step}.png" if len(pictures) == 1 else f"{step}-{impl}.png"
