"""The memory of one piece of work: the most that the process held while it ran, beyond what it held before."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from .turns import device, synchronize

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"  # proc(5): forget the peak of the resident set


def peak_over(work: Callable[[], object]) -> int | None:
    """Bytes, or None on a system that does not let a process forget its peak."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        work()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator has kept would hide what is asked for
    CLEAR.write_text(RESET_PEAK)
    before = _kilobytes("VmRSS")
    work()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(key: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
