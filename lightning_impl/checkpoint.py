"""Reading a checkpoint of Lightning's, and only a whole one."""

import zipfile
from pathlib import Path
from typing import Any

import torch

MAX_CHECKPOINT_BYTES = 4 * 1024**3


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that holds weights and Adam's slots, as numbers and words only.

    Raises:
        ValueError: it is missing, damaged, too large, or more than numbers.
    """
    try:
        _check_archive(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _check_slots(saved)
    except Exception as error:  # pickle, zipfile and torch each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path}: {reason}") from error
    return dict(saved)


def _check_archive(path: Path) -> None:
    """Check that a checkpoint is a zip as torch writes it, which unpacks to what it is.

    torch itself does not look at the checksums, and of a member that says it is a folder it makes
    numbers out of memory that nobody has written to.

    Raises:
        ValueError: it is too large, or packed, or has changed since it was written.
        zipfile.BadZipFile: it is none.
    """
    most = min(MAX_CHECKPOINT_BYTES, path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is packed, which torch's own are not")
        if any(member.external_attr for member in members):
            raise ValueError("it has members with attributes, which torch's own have not")
        if sum(member.file_size for member in members) > most:
            raise ValueError("it names more than it holds, or than is allowed")
        if changed := archive.testzip():
            raise ValueError(f"{changed} has another checksum than when it was written")


def _check_slots(saved: dict[str, Any]) -> None:
    """Check that each weight comes with Adam's slots, without which Lightning would go on too.

    Raises:
        ValueError: weights or slots are missing or misshapen.
        LookupError, TypeError, AttributeError: there are none at all.
    """
    weights = [value.shape for value in saved["state_dict"].values()]
    (optimizer,) = saved["optimizer_states"]
    slots = [
        (state["exp_avg"].shape, state["exp_avg_sq"].shape) for state in optimizer["state"].values()
    ]
    if not weights or slots != [(shape, shape) for shape in weights]:
        raise ValueError("its weights and the optimizer's slots do not belong together")
