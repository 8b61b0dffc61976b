"""Starting a command in several processes on this machine, as `accelerate launch` does, from the command's own options.

The processes find each other by torch's environment variables, and how they share the work by Accelerate's, which the
YAML of `--accelerate_config` is turned into by Accelerate itself. Several machines, and whatever else it takes a
launcher for, are `accelerate launch -m rhapsode.recipes.pretrain ...`'s.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..options.base import UserError, save_resolved

CONFIGS = Path(__file__).parent.parent / "configs" / "accelerate"
SECONDS_FOR_OTHERS = 5  # once one has failed: they may have found the same fault, and otherwise wait for it
SECONDS_TO_SAVE = 300  # after SIGTERM


def is_launched() -> bool:
    """Whether this process is one of several that a launcher has started."""
    return "LOCAL_RANK" in os.environ


def launch(command: str, options) -> None:
    """Run `rhapsode COMMAND` with these options in `options.num_processes` processes, and wait for them.

    Raises:
        UserError: a configuration that is not there, or that is for several machines.
        SystemExit: with the status of a process that failed; it has said why.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, which the processes get to save.
    """
    environment = os.environ | accelerate_environment(options.num_processes, options.accelerate_config)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "options.yaml"
        save_resolved(options, file, command)
        program = [sys.executable, "-m", f"{__package__.rpartition('.')[0]}.{command}", "--config", str(file)]
        processes = [
            subprocess.Popen(program, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)})
            for i in range(options.num_processes)
        ]
        _wait(processes)


def accelerate_environment(num_processes: int, config: str | None) -> dict[str, str]:
    """What the processes find in their environment, but for their own number."""
    import torch
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    file = _config_file(config or "ddp")
    flags = ["--config_file", str(file), "--num_processes", str(num_processes), "a_script"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(flags))
    if arguments.num_machines and arguments.num_machines > 1:
        raise UserError(f"--accelerate_config {file} is for {arguments.num_machines} machines: use `accelerate launch`")
    if config == "tensor_parallel":
        arguments.parallelism_config_tp_size = num_processes
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""  # which of them to take from the file: it has them all
        environment = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        environment = prepare_multi_gpu_env(arguments)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if not torch.accelerator.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    return environment


def _config_file(name: str) -> Path:
    own = CONFIGS / f"{name}.yaml"
    file = own if own.exists() else Path(name)
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise UserError(f"--accelerate_config {name}: no such file, and none of {names}")
    return file


def _wait(processes: list[subprocess.Popen]) -> None:
    interrupted = False

    def forward(number, frame):
        nonlocal interrupted
        interrupted = True
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _wait_for_all(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted:
        raise KeyboardInterrupt
    status = next((p.returncode for p in processes if p.returncode not in (0, -signal.SIGTERM)), 0)
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def _wait_for_all(processes: list[subprocess.Popen]) -> None:
    """Once one has failed the others can only wait for it: they are ended."""
    deadline = None
    while any(p.poll() is None for p in processes):
        time.sleep(0.1)
        if deadline is None and any(p.poll() not in (None, 0) for p in processes):
            deadline = time.monotonic() + SECONDS_FOR_OTHERS
        if deadline is not None and time.monotonic() > deadline:
            for p in processes:
                if p.poll() is None:
                    p.terminate() if time.monotonic() < deadline + SECONDS_TO_SAVE else p.kill()
            time.sleep(1)
