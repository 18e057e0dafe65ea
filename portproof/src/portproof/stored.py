"""Named arrays in an `.npz` file, written and read one at a time, so that not all are held."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np


class Writer:
    """An `.npz` file, uncompressed, that takes arrays by name; each name once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = zipfile.ZipFile(path, "w")

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        with self._file.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)

    def clear(self) -> None:
        """Begin anew."""
        self._file.close()
        self._file = zipfile.ZipFile(self._path, "w")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def save(path: str, arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> str:
    """Write arrays, or pairs of a name and an array as they come; return the path."""
    with closing(Writer(path)) as file:
        for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
            file[name] = array
    return path


class Stored(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file, each read whenever it is asked for."""

    def __init__(self, path: str) -> None:
        self._file: Any = np.load(path, allow_pickle=False)
        self._names = dict.fromkeys(self._file.files)  # in the order in which they were written

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        array: np.ndarray = self._file[name]
        is_count = name.startswith("final.") and array.dtype.kind in "biu"
        return array.astype(np.float64) if is_count else array  # bytes wrap when subtracted

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names
