"""How this process asks the machine for memory and threads. Changes no result, only the time that it takes.

Measured on two CPU cores, training ten million parameters: without the first two about 1.5 times slower; without
the third about as fast on a quiet machine, and ten times slower as soon as another process wants one of the cores.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h


def tune_process() -> None:
    """Call before torch is imported; what whoever started the process has set stays."""
    # glibc hands every large block back to the kernel when it is freed, and the kernel clears it when it is asked for
    # again, which a training step does for each activation: keep them.
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for tensors
    if "OMP_WAIT_POLICY" not in os.environ:  # waiting threads spin a little, and then let others have the core
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


@contextmanager
def bars_for_terminals() -> Iterator[None]:
    """The bars of libraries are drawn only where somebody can watch them; in a file each is a line among the messages.

    Call after these libraries are imported, if they are to be.
    """
    with ExitStack() as undo:
        if not sys.stderr.isatty():
            if (datasets := sys.modules.get("datasets")) and not datasets.are_progress_bars_disabled():
                datasets.disable_progress_bars()
                undo.callback(datasets.enable_progress_bars)
            if (logging := sys.modules.get("transformers.utils.logging")) and logging.is_progress_bar_enabled():
                logging.disable_progress_bar()
                undo.callback(logging.enable_progress_bar)
        yield
