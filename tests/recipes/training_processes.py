"""Training in other processes, which tests can kill. They are forked from a server that has imported everything."""

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rhapsode.recipes.pretrain", "rhapsode.modeling"])
STRATEGIES = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "tensor_parallel": {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"},
}


def train(command: str, arguments: list[str], environment: dict[str, str], log: str, before: Callable | None) -> None:
    """What a process does; module level, as a new process has to find it."""
    from rhapsode.recipes.cli import run_command

    os.environ.update(environment)
    if before:
        before()
    with Path(log).open("a") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
        raise SystemExit(run_command(command, arguments))


class Training:
    """`rhapsode COMMAND ARGUMENTS` in `count` processes, started at once; each calls `before`, which pickles, first."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        count: int = 1,
        strategy: str = "ddp",
        command: str = "pretrain",
        before: Callable | None = None,
    ):
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        if count > 1:
            common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), **STRATEGIES[strategy]}
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            process = CONTEXT.Process(target=train, args=(command, arguments, common | own, str(log), before))
            process.start()
            self.processes.append(process)

    @property
    def is_running(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join()

    def wait(self, seconds: float = 240) -> list[int]:
        """The exit statuses; processes that are still there after so many seconds are killed."""
        end = time.monotonic() + seconds
        while self.is_running and time.monotonic() < end:
            if any(process.exitcode not in (None, 0) for process in self.processes):
                end = min(end, time.monotonic() + 5)  # the others wait for one that has failed
            time.sleep(0.02)
        self.kill()
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""
