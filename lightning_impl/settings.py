"""What PyTorch and Lightning are told before a run."""

from typing import Any

import torch
import torch.distributed as dist

from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.memory import keep_freed_memory
from pipeline.processes import this_process
from pipeline.recipe import Recipe

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}


def configure(recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Set torch up for one run and return what it resolved to.

    Raises:
        UsageError: a GPU is asked for and there is none, or there are fewer than processes here.
    """
    if not execution.plain:
        keep_freed_memory()
    has_gpu = torch.cuda.is_available()
    if execution.device == "gpu" and not has_gpu:
        raise UsageError(
            "`--device gpu`: torch sees no GPU here; use --device cpu, or see scripts/doctor.py"
        )
    num_processes = this_process().local_size
    if accelerator(execution) == "gpu" and num_processes > torch.cuda.device_count():
        raise UsageError(
            f"`--devices`: torch sees {torch.cuda.device_count()} GPUs here for {num_processes} "
            "processes; use fewer, or --device cpu"
        )
    if execution.num_threads is not None:
        torch.set_num_threads(execution.num_threads)
    # TensorFloat-32 is on by default in TensorFlow and in cuDNN, off in torch's matmul.
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.use_deterministic_algorithms(execution.deterministic)
    # Else deterministic mode fills each `torch.empty`, for programs that read what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(recipe.seed)
    return {
        "device": accelerator(execution),
        "gpu": torch.cuda.get_device_name() if accelerator(execution) == "gpu" else None,
        "threads": torch.get_num_threads(),
        "precision": PRECISIONS[recipe.precision],
    }


def accelerator(execution: Execution) -> str:
    """Return Lightning's name of the device to run on."""
    is_gpu = execution.device != "cpu" and torch.cuda.is_available()
    return "gpu" if is_gpu else "cpu"


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and how many train together: (0, 1) by itself."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
