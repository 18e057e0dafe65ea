"""The reader of Lightning's checkpoints as a parser of tests/parsers.py, with torch in it."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import torch

from lightning_impl.checkpoint import read_checkpoint
from tests.parsers import Parser

DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8", "IntStorage": "<i4",
    "ByteStorage": "|u1", "BoolStorage": "|b1", "HalfStorage": "<f2", "ShortStorage": "<i2",
    "CharStorage": "|i1",
}  # fmt: skip


def plain(value):
    """Return what was read, with arrays for tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Reference(pickle.Unpickler):
    """Builds arrays of the pickle in an archive, and nothing that is not needed for them."""

    def __init__(self, archive, root):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        """Return one of the few things that a checkpoint is made of."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        assert module == "torch", (module, name)
        return DTYPES[name]

    def persistent_load(self, pid):
        """Return the flat array that a tensor is a view of."""
        word, dtype, key, _device, length = pid
        assert word == "storage"
        return np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype, length)

    @staticmethod
    def tensor(storage, offset, size, stride, _grad, _hooks, *_):
        """Return the view."""
        where = offset + sum(
            (np.arange(n) * step).reshape([-1 if at == axis else 1 for at in range(len(size))])
            for axis, (n, step) in enumerate(zip(size, stride, strict=True))
        )
        return np.asarray(storage[where]).reshape(size)


def reference(content):
    """Read a checkpoint with neither torch nor its own reader."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        return plain(Reference(archive, path.removesuffix("/data.pkl")).load())


def small_checkpoint():
    """Return what Lightning would save of a network with two weights after a step."""
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float64)}
    slots = {
        number: {"exp_avg": 0.1 * weight, "exp_avg_sq": weight**2, "step": torch.tensor(1.0)}
        for number, weight in enumerate(weights.values())
    }
    content = io.BytesIO()
    torch.save(
        {
            "epoch": 0,
            "global_step": 1,
            "pytorch-lightning_version": "2",
            "state_dict": OrderedDict(weights),
            "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [
                {"state": slots, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]}
            ],
        },
        content,
    )
    return content.getvalue()


CHECKPOINT = Parser(
    "checkpoint",
    "last.ckpt",
    lambda path: plain(read_checkpoint(path)),
    reference,
    (small_checkpoint(),),
    (ValueError,),
)
