"""Trainings on several processes, each a fork of one that has imported the framework.

`python -m tests.lightning.ranks CASES`, a JSON file of a list: each case has a `name`, a `size`,
the trainer's `flags`, and optionally `masks` (dropout from NumPy), a `mutant`, a name in MUTANTS, a
`fault`, "kill RANK EPOCH STEP" or another of FAULTS, `only`, flags of one rank, `other_torch`, a
rank that says another version, `started`, the ranks that are (all), `port`, and `launcher`, which
may be "slurm". A case trains in a folder of its name beside CASES; each rank leaves
`NAME.RANK.json` there: its exit code, what it said, how many images its metrics counted, and how
long it took.
"""

import json
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import sklearn.metrics  # noqa: F401
import torch

import pipeline.run  # noqa: F401
from lightning_impl import processes, train
from lightning_impl.model import Classifier, EpochMean
from lightning_impl.watch import InjectMasks
from pipeline import ranks, run_report
from pipeline.batches import Batches
from pipeline.command import trainer_main
from pipeline.errors import RunError
from pipeline.journal import Journal
from pipeline.processes import this_process

LIMIT_SECONDS = 300
processes.TIME_LIMIT_SECONDS, ranks.WORD_SECONDS = 20.0, 3.0
for picture in ("plot_curves", "plot_confusion", "plot_classified"):
    setattr(run_report, picture, lambda *_, **__: None)


def replaced(owner, name):
    """Make the decorated function, which gets the original first, the attribute `name`."""

    def replace(function):
        original = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: function(original, *args, **kwargs))

    return replace


def sum_for_mean():
    @replaced(processes.SharedClassifier, "training_step")
    def planted(original, self, batch, batch_idx):
        return original(self, batch, batch_idx) * self.trainer.world_size


def unweighted_shares():
    @replaced(processes.SharedClassifier, "training_step")
    def planted(original, self, batch, batch_idx):
        size = self.trainer.train_dataloader.dataset.batches.size(batch_idx)
        total = original(self, batch, batch_idx) * size / self.trainer.world_size
        return total / max(len(batch[0]), 1)


def padded():
    """As DistributedSampler: the batch's first images again, so that all shares are as large."""

    @replaced(Batches, "positions")
    def planted(original, self, index):
        whole = self.order[index * self.batch_size :][: self.size(index)]
        each = math.ceil(len(whole) / self.num_ranks)
        padded = [whole[place % len(whole)] for place in range(each * self.num_ranks)]
        return np.array(padded[each * self.rank : each * (self.rank + 1)], dtype=np.int64)


def whole_batches():
    @replaced(Batches, "positions")
    def planted(original, self, index):
        place = index * self.num_ranks + self.rank
        return self.order[place * self.batch_size : (place + 1) * self.batch_size]

    @replaced(Batches, "__len__")
    def fewer(original, self):
        return math.ceil(original(self) / self.num_ranks)


def order_without_epoch():
    @replaced(Batches, "set_epoch")
    def planted(original, self, epoch):
        original(self, 0)


def one_mask():
    @replaced(InjectMasks, "draw")
    def planted(original, self, epoch, step):
        self.first = 0
        original(self, epoch, step)


def other_first_weights():
    @replaced(train.JournalCallback, "on_train_start")
    def planted(original, self, trainer, module):
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(1e-3 * this_process().rank)
        original(self, trainer, module)


def metrics_of_rank_zero():
    @replaced(Classifier, "__init__")
    def planted(original, self, *args, **kwargs):
        original(self, *args, **kwargs)
        for metric in (self.train_loss, self.val_loss, self.train_accuracy, self.val_accuracy):
            metric.sync_on_compute = metric._to_sync = False


def generator_shared_with_the_loader():
    """An epoch's order is drawn by the generator that dropout draws by, for a rank's own share."""

    @replaced(processes.SharedClassifier, "training_step")
    def drawn(original, self, batch, batch_idx):
        torch.rand(len(batch[0]))
        return original(self, batch, batch_idx)

    @replaced(Batches, "set_epoch")
    def planted(original, self, epoch):
        original(self, epoch)
        if epoch:
            self.order = self.order[torch.randperm(len(self.order)).numpy()]


MUTANTS = {
    function.__name__: function
    for function in (
        sum_for_mean, unweighted_shares, padded,
        whole_batches, order_without_epoch, one_mask,
        other_first_weights, metrics_of_rank_zero, generator_shared_with_the_loader,
    )
}  # fmt: skip


def at_step(rank, epoch, step, action):
    """Let a rank do something before it ends a step."""

    @replaced(Journal, "end_step")
    def planted(original, self, now, step_now, loss):
        if (this_process().rank, now, step_now) == (rank, epoch, step):
            action()
        original(self, now, step_now, loss)


def raised(error):
    raise error


FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(LIMIT_SECONDS),
    "fail": lambda: raised(RunError("a disk of its own is full")),
}


def rank(case, folder, number, port):
    """Train as one rank, in a process of its own."""
    signal.alarm(LIMIT_SECONDS)
    began = time.monotonic()
    size, port = str(case["size"]), str(case.get("port", port))
    if case.get("launcher") == "slurm":
        # As srun sets it on one machine; Lightning takes the port from here where it is named.
        os.environ |= {
            "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": size, "SLURM_NNODES": "1",
            "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0",
            "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "fashion", "MASTER_PORT": port,
            "SLURM_NTASKS_PER_NODE": size,
        }  # fmt: skip
    elif size != "1":
        os.environ |= {
            "RANK": str(number), "LOCAL_RANK": str(number), "NODE_RANK": "0",
            "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
    this_process.cache_clear()
    if case.get("other_torch") == number:
        versions = ranks.package_versions()
        ranks.package_versions = lambda: {**versions, "torch": "1.0"}
    counts, compute = [], EpochMean.compute
    EpochMean.compute = lambda self: counts.append(int(self.count)) or compute(self)
    if mutant := case.get("mutant"):
        MUTANTS[mutant]()
    if fault := case.get("fault"):
        how, *place = fault.split()
        at_step(*map(int, place), FAULTS[how])
    if case.get("masks"):
        original = train.train

        def trained(recipe, *args):
            return original(recipe, *args, callbacks=[InjectMasks(recipe)])

        train.train = trained
    words = folder / f"{case['name']}.{number}.err"
    for stream in (1, 2):
        os.dup2(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    arguments = ["--run-dir", str(folder / case["name"]), *case["flags"]]
    if more := case.get("only", {}).get(str(number)):
        arguments += more
    sys.argv = ["train_lightning.py", *arguments]
    code = trainer_main("lightning", lambda: train, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    seconds = time.monotonic() - began
    found = {"code": code, "counts": counts, "said": words.read_text(), "seconds": seconds}
    (folder / f"{case['name']}.{number}.json").write_text(json.dumps(found))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main():
    cases = Path(sys.argv[1])
    for case in json.loads(cases.read_text()):
        began = time.monotonic()
        port = free_port()
        children = []
        for number in case.get("started", range(case["size"])):
            child = os.fork()
            if child == 0:
                try:
                    rank(case, cases.parent, number, port)
                finally:
                    os._exit(0)
            children.append(child)
        how, hanging, *_ = [*case.get("fault", "").split(), "", ""]
        if how == "hang":
            children.append(children.pop(int(hanging)))
        for child in children:
            if how == "hang" and child == children[-1]:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        print(f"{case['name']}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    os._exit(0)


if __name__ == "__main__":
    main()
