"""Arrays out of an npz: with limits, and never a pickle."""

import io
import math
import zipfile
from typing import Any

import numpy as np

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""NumPy's readers of what stands before an array, by the version of the form."""


def read_member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> np.ndarray[Any, Any]:
    """Read an array of an npz, after a look at the sizes that the archive and its header name.

    Raises:
        Exception: it is missing, too large or damaged, or a pickle; zipfile, zlib and NumPy each
            raise their own.
    """
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > most_bytes:
        raise ValueError(f"{name} is larger than the {most_bytes:,} bytes allowed for its kind")
    with archive.open(member) as stream:
        content = io.BytesIO(stream.read())  # no more than `file_size`
    # From memory NumPy would take what the header names before it finds that less is there.
    read_header = HEADERS[np.lib.format.read_magic(content)]
    shape, _, dtype = read_header(content)
    if math.prod(shape) * dtype.itemsize > len(content.getbuffer()) - content.tell():
        raise ValueError(f"{name} is too short for the {shape} values that its header names")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)
