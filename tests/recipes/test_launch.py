"""Starting several processes: what they find in their environment, and what ends them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training import launch
from rhapsode.recipes.training.launch import accelerate_environment

SLEEPS = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print(flush=True); time.sleep(60)"
)


def start(*programs: str) -> list[subprocess.Popen]:
    processes = [subprocess.Popen([sys.executable, "-c", p], stdout=subprocess.PIPE) for p in programs]
    for process, program in zip(processes, programs, strict=True):
        if program is SLEEPS:
            process.stdout.readline()  # it has set its handler
    return processes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        ("ddp", {}),
        ("fsdp2", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}),
        ("tensor_parallel", {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "3"}),
    ],
)
def test_accelerate_reads_its_own_configuration(config, expected):
    found = accelerate_environment(3, config)
    common = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}
    assert (common | expected).items() <= found.items()
    assert not any(key in found and key not in expected for key in ("ACCELERATE_USE_FSDP", "FSDP_VERSION"))
    assert accelerate_environment(3, config)["MASTER_PORT"] != found["MASTER_PORT"]


def test_a_file_of_ones_own_and_one_that_is_not_there(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text((launch.CONFIGS / "fsdp2.yaml").read_text())
    assert accelerate_environment(2, str(own))["FSDP_VERSION"] == "2"
    own.write_text(own.read_text().replace("num_machines: 1", "num_machines: 2"))
    with pytest.raises(UserError, match="2 machines: use `accelerate launch`"):
        accelerate_environment(2, str(own))
    with pytest.raises(UserError, match=r"zero3: no such file, and none of ddp, deepspeed, fsdp2, tensor_parallel"):
        accelerate_environment(2, "zero3")


def test_one_that_fails_ends_the_others_and_gives_its_status(monkeypatch):
    monkeypatch.setattr(launch, "SECONDS_FOR_OTHERS", 0.2)
    processes = start(SLEEPS, "raise SystemExit(2)")
    with pytest.raises(SystemExit) as ended:
        launch._wait(processes)
    assert ended.value.code == 2
    assert [process.returncode for process in processes] == [0, 2]


def test_all_that_end_well():
    launch._wait(start("pass", "pass"))


def test_a_signal_reaches_all_of_them_once():
    processes = start(SLEEPS, SLEEPS)
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch._wait(processes)
    assert time.monotonic() - begin < 30
    assert [process.returncode for process in processes] == [0, 0]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_the_command_starts_its_own_processes(corpus, tokenizer_directory, tmp_path):
    """With arguments that only the file of options carries, and a fault that all of them find."""
    flags = [
        "--num_processes",
        "2",
        "--accelerate_config",
        "fsdp2",
        "--preset",
        "rhapsode-10m-tiny",
        "--max_length",
        "48",
    ]
    flags += ["--tokenizer", str(tokenizer_directory), "--data_cache", str(tmp_path / "shards"), "--max_steps", "2"]
    assert run_command("pretrain", [*flags, "--dataset", str(corpus), "--output_dir", str(tmp_path / "run")]) == 0
    assert '"parallelism": "fsdp2"' in (tmp_path / "run" / "run.json").read_text()
    bad = [sys.executable, "-m", "rhapsode.recipes.cli", "pretrain", *flags, "--dataset", str(tmp_path / "no.txt")]
    done = subprocess.run([*bad, "--output_dir", str(tmp_path / "bad")], capture_output=True, text=True)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "rhapsode pretrain" in line] == [
        f"rhapsode pretrain: --dataset {tmp_path / 'no.txt'}: no such file or directory"
    ]
