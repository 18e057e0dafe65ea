"""What both recording programs share: requests on stdin, the user's function, arrays in files.

A request is one line of JSON, and so is its answer. Arrays travel in `.npz` files, which need
nothing but NumPy on either side. What the user's code prints goes to stderr.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from portproof.graph.inputs import inputs_of_batch
from portproof.record.model import Arrays, Batch, Model
from portproof.stored import Stored, Writer, save

_NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    sysconfig.get_path("stdlib"),
    "site-packages",
    "<frozen",
)
"""What a line of the user's own code has in none of its file names."""
Blocks = list[tuple[int | None, int]]
"""For each block of a call's features, a seed or None, and how many there are; 0: all."""
ENOUGH = 20_000
"""Numbers of a weight by which its distribution is told."""
NOTHING_REAL = "its outputs are no real numbers, which have no gradients; add --upto forward"


class SetUpError(Exception):
    """What a user did that cannot work, in one line."""


def load_function(reference: str) -> Callable[[], Any]:
    """Return the function that `module:function` or `file.py:function` names.

    Raises:
        SetUpError: the file, module or function is missing, or its code raises on import.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise SetUpError(f"{reference!r}: write module:function or file.py:function")
    sys.path.insert(0, os.getcwd())
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise SetUpError(f"there is no file {place}")
            sys.path.insert(0, str(path.parent.resolve()))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except SetUpError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or place
        if place == missing or place.startswith(f"{missing}."):
            raise SetUpError(f"there is no module {missing} here ({os.getcwd()})") from error
        raise SetUpError(
            f"{place} needs {missing}, which {sys.executable} does not have; "
            "name another interpreter with --reference-python or --suspect-python"
        ) from error
    except BaseException as error:
        raise SetUpError(f"importing {place} raised {one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        near = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")
                and getattr(v, "__module__", None) == module.__name__]  # fmt: skip
        hint = f"; it has {', '.join(near[:8])}" if near else ""
        raise SetUpError(f"{place} has no function {name}{hint}")
    return function


def call_function(reference: str, function: Callable[[], Any]) -> Any:
    """Call the user's function without arguments.

    Raises:
        SetUpError: it raises.
    """
    try:
        return function()
    except BaseException as error:
        raise SetUpError(f"{reference}() raised {one_line(error)}{_place(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its text; Keras's own first is left out."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines()
    text = [t for t in text if t and not t.startswith("Exception encountered when calling")]
    said = " ".join(text[:2] if text and text[0].endswith(":") else text[:1])
    return (
        f"{type(error).__name__}: {' '.join(said.split())[:300]}" if text else type(error).__name__
    )


def not_taken(
    what: str, inputs: Sequence[np.ndarray], hint: str, error: BaseException
) -> SetUpError:
    """Return the line that says that a model does not take inputs.

    Args:
        what: the framework's word for it.
        inputs: that it was fed.
        hint: behind their shapes.
        error: that it raised.
    """
    said = one_line(error)
    largest = max((int(x.max()) for x in inputs if x.dtype.kind in "iu"), default=None)
    if largest is not None and re.search(r"not in \[0, \d+\)|out of range", said):
        return SetUpError(f"the {what} does not take all integers below {largest + 1}, which it "
                          f"was fed; --input intN:… feeds those below N: {said}")  # fmt: skip
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    return SetUpError(f"the {what} does not take inputs of shape {shapes}{hint}: {said}")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames[1:] if not any(part in f.filename for part in _NOT_THE_USERS)]
    if not own:
        return ""
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})"


def factors(blocks: Blocks, shape: Sequence[int]) -> np.ndarray:
    """Return the factors of a call's outputs in the sum that is differentiated.

    Args:
        blocks: of features; without a seed: zeros.
        shape: of the output, canonical.
    """
    if not shape:  # a single weight
        return np.asarray(np.random.default_rng(blocks[0][0]).normal())
    found = []
    for seed, width in blocks:
        size = (*shape[:-1], width or shape[-1])
        rng = np.random.default_rng(seed)
        found.append(np.zeros(size) if seed is None else rng.normal(size=size))
    return np.concatenate(found, -1)


def cuts_of(
    x: np.ndarray, outs: Sequence[np.ndarray], axis: int | None = -1
) -> list[list[int] | None]:
    """Return where an operation cuts numbers along an axis: each part's first place, its size.

    Args:
        x: what it takes.
        outs: what it gives; None of what is no part of `x`.
        axis: of the features; None where that is not known.
    """

    def place(out: np.ndarray) -> list[int] | None:
        if axis is None or axis >= x.ndim or out.ndim != x.ndim or x.ndim < 2:
            return None
        whole, part = (np.moveaxis(a, axis, -1) for a in (x, out))
        size, more = part.shape[-1], whole.shape[-1] - part.shape[-1]
        if more <= 0 or part.shape[:-1] != whole.shape[:-1]:
            return None
        row, own = (a.reshape(-1, a.shape[-1])[0] for a in (whole[:1], part[:1]))
        starts = (n for n in np.flatnonzero(row[: more + 1] == own[0]).tolist()
                  if np.array_equal(row[n : n + size], own)
                  and np.array_equal(whole[..., n : n + size], part))  # fmt: skip
        start = next(starts, None)
        return None if start is None else [start, size]

    return [place(out) for out in outs]


def reorder(role: Any, order: np.ndarray, axis: int = 0) -> None:
    """Let a weight's rows, columns, or what it has for each feature, stand in canonical order."""
    canonical, native, back = role.canonical, role.native, np.argsort(order)
    role.canonical = lambda a: np.take(canonical(a), order, axis)
    role.native = lambda a: native(np.take(a, back, axis))


def drops(rate: float, what: str = "") -> tuple[str, ...]:
    """Return a dropout rate with the parts that it drops, as in graphs; nothing at a rate of 0.

    Args:
        rate: the share.
        what: is dropped or added, where that is not single numbers set to 0.
    """
    return (f"{rate:.6g} {what}".strip(),) if rate else ()


def factor(made: np.ndarray, rate: float) -> str:
    """Say what samples of ones that are kept were multiplied by, to stand behind what is dropped.

    Args:
        made: a number for each sample, 0 where it was dropped.
        rate: share of samples that are dropped.

    Returns:
        Nothing where it is 1 / (1 − `rate`), or where it cannot be seen.
    """
    kept = made[made != 0]
    is_known = 0 < len(kept) < len(made) and np.all(kept == kept[0])
    if is_known and abs(float(kept[0]) * (1 - rate) - 1) > 1e-6:
        return f", the others times {float(kept[0]):.6g}"
    return ""


def inputs_of(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return `x0`, `x1`, … in order."""
    count = sum(1 for name in arrays if name[:1] == "x" and name[1:].isdigit())
    return [arrays[f"x{i}"] for i in range(count)]


def made_batches(reference: str, names: Sequence[str] = ()) -> Arrays:
    """Return the batches of a user's function: `x.k.i`, `y.k`, and weights, if any, `w.k`.

    Inputs in a dictionary are `x.k.i.name`; several targets are `y.k.list.i`, or `y.k.dict.name`.

    Args:
        reference: `module:function`.
        names: the order of inputs in a dictionary, if these are their names; else its own.

    Raises:
        SetUpError: it gives something else than inputs with rows, targets and perhaps weights.
    """
    made = call_function(reference, load_function(reference))
    arrays: Arrays = {}
    try:
        for k, (xs, y, *more) in enumerate(made):
            if isinstance(xs, Mapping):
                names = names if set(names) == set(xs) else list(xs)
                found = {f"x.{k}.{i}.{name}": xs[name] for i, name in enumerate(names)}
            else:
                several = xs if isinstance(xs, list | tuple) else [xs]
                found = {f"x.{k}.{i}": x for i, x in enumerate(several)}
            if isinstance(y, Mapping):
                found |= {f"y.{k}.dict.{name}": part for name, part in y.items()}
            elif isinstance(y, list | tuple) and any(np.shape(part) for part in y):
                found |= {f"y.{k}.list.{i}": part for i, part in enumerate(y)}
            else:
                found[f"y.{k}"] = y
            if more:
                (found[f"w.{k}"],) = more
            arrays |= {name: _in_float64(a) for name, a in found.items()}
    except (TypeError, ValueError) as error:
        raise SetUpError(
            f"{reference}() must return (inputs, targets) for each batch: {one_line(error)}"
        ) from error
    if not arrays or any(a.dtype.kind not in "biuf" for a in arrays.values()):
        raise SetUpError(f"{reference}() must return batches of numbers, one or more")
    for k in range(1 + max(int(name.split(".")[1]) for name in arrays)):
        inputs = inputs_of_batch(arrays, k)
        if not inputs or not all(a.ndim and len(a) for _, a in inputs):
            raise SetUpError(f"{reference}(): batch {k + 1} needs inputs with one or more rows")
        if [name for name, _ in inputs] != [name for name, _ in inputs_of_batch(arrays, 0)]:
            raise SetUpError(f"{reference}(): batch {k + 1} has other inputs than the first")
    return arrays


def _in_float64(numbers: Any) -> np.ndarray:
    """Return an array; real numbers in the precision that both models compute in."""
    a = np.asarray(numbers)
    return a.astype(np.float64) if a.dtype.kind == "f" else a


def batches_of(arrays: Mapping[str, np.ndarray]) -> list[Batch]:
    """Return batches from what `made_batches` gave."""
    count = 1 + max(int(name.split(".")[1]) for name in arrays)

    def named(start: str) -> dict[str, np.ndarray]:
        found = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))

    batches: list[Batch] = []
    for k in range(count):
        several = named(f"y.{k}.dict.") or list(named(f"y.{k}.list.").values())
        y: Any = arrays.get(f"y.{k}", several)
        weights = [arrays[f"w.{k}"]] if f"w.{k}" in arrays else []
        batches.append(([x for _, x in inputs_of_batch(arrays, k)], y, weights))
    return batches


def metrics(epochs: Sequence[Mapping[str, float]]) -> Arrays:
    """Return numbers that an implementation logs at the end of epochs, with their names.

    −∞ stands for none in an epoch.
    """
    names = sorted(set().union(*epochs))
    rows = [[epoch.get(name, -np.inf) for name in names] for epoch in epochs]
    return {"metrics": np.array(rows), "names": np.array(names, "U")}


def serve(open_model: Callable[[str], tuple[Model, dict[str, Any]]]) -> None:
    """Answer requests until stdin ends; each failure is answered in one line."""
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the user's code prints must not stand among the answers
    model: Model | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "open":
                model, answer = open_model(request["reference"])
            elif request["do"] == "batches":
                made = made_batches(request["reference"], request.get("names", ()))
                save(request["out"], made)
                answer = {}
            else:
                assert model is not None
                answer = _answer(model, request)
        except SetUpError as error:
            said = str(error)
            if said.startswith("Exception encountered"):  # Keras tells whose call raised it
                said = one_line(error).removeprefix("SetUpError: ")
            answer = {"error": said, "kind": "set-up"}
        except MemoryError:
            answer = {"error": "it ran out of memory", "kind": "set-up"}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": one_line(error) + _place(error), "kind": "failure"}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
        answers.write(_line({**answer, "gb": peak / 1024**2}) + "\n")
        answers.flush()


def _line(answer: Mapping[str, Any]) -> str:
    """Return an answer in JSON; numbers of NumPy's are a user's settings."""
    try:
        return json.dumps(answer, default=float)
    except (TypeError, ValueError) as error:
        return json.dumps({"error": one_line(error), "kind": "failure", "gb": answer["gb"]})


def _end_with(parent: int) -> None:
    """End this program's group once who started it is gone, whatever it waits for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _some(a: np.ndarray) -> np.ndarray:
    """Return rows of a large weight, by which its distribution is told as well."""
    return a.reshape(-1, a.shape[-1])[:: 1 + a.size // ENOUGH] if a.size > ENOUGH else a


def _answer(model: Model, request: Mapping[str, Any]) -> dict[str, Any]:
    path, what = request.get("given"), request["do"]
    given: Mapping[str, np.ndarray] = Stored(path) if path else {}
    if what == "describe":
        model.turned = request.get("turned", model.turned)
        model.named = request.get("named", model.named)
        opened, unfold = request.get("opened", {}), request.get("unfold", False)
        return {"graph": model.describe(inputs_of(given), opened, unfold)}
    if what == "fill":
        return {"lost": model.fill(given)}
    if what == "first":
        frozen = {f"{c.key}|{role}" for c in model.recorder.calls for role in c.frozen}
        digest = hashlib.sha256()
        with closing(Writer(request["out"])) as out:
            for name, read in sorted(model.readers().items()):
                a = read()
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
                out[f"first|{name}"] = a if name in frozen else _some(a)
        return {"digest": digest.hexdigest()}
    if what == "replay":
        with closing(Writer(request["out"])) as out:
            model.replay(inputs_of(Stored(request["inputs"])), request, given, out)
        return {}
    if what == "native":
        found = model.native()
    elif what == "convert":
        function = load_function(request["reference"])
        call_function(request["reference"], lambda: model.convert(function, dict(given)))
        found = {f"first|{name}": read() for name, read in model.readers().items()}
    elif what == "train":
        found = model.train(batches_of(dict(given)), request["swaps"], request["overrides"])
    else:
        found = model.vary(request["trials"], given)
    save(request["out"], found)
    return {}
