"""DeepSpeed's ZeRO-2 in two processes (gloo), where it is installed: as one process does, and resumed to the bit."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_processes
import torch
import training_processes
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training import zero
from rhapsode.recipes.training.launch import accelerate_environment
from test_processes import LOSS_TOLERANCE, NORM_TOLERANCE, RATE, STEPS, WEIGHT_TOLERANCE, finish, logged, weights
from training_processes import Training
from transformers import AutoModelForCausalLM

WORKER = Path(__file__).with_name("zero_worker.py")
TOLERANCE = 1e-5  # float32 sums in another order, enlarged by AdamW's first steps
TIMEOUT = 300  # seconds; two processes of 20 seconds of CPU each
WISH = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}

command = test_processes.command


@pytest.fixture
def deepspeed(monkeypatch):
    """Installed, and a strategy of `Training`."""
    if importlib.util.find_spec("deepspeed") is None:  # importing it takes seconds, and here nobody needs it imported
        pytest.skip("deepspeed is not installed")
    monkeypatch.setitem(training_processes.STRATEGIES, "deepspeed", WISH)


def test_accelerate_reads_its_own_configuration():
    found = accelerate_environment(3, "deepspeed")
    assert (WISH | {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}).items() <= found.items()


@pytest.mark.parametrize(
    ("variable", "value", "options", "expected"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", {}, "zero_stage 3 .* set 2; fsdp2 spreads the weights as well"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", {}, "offload_optimizer_device cpu .* set none"),
        ("ACCELERATE_GRADIENT_CLIPPING", "0.5", {}, "gradient_clipping 0.5 .* --max_grad_norm"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", {}, "gradient_accumulation_steps 4 "),
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2", {"optim": "muon"}, "--optim muon with DeepSpeed"),
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2", {"pure_bf16": True}, "--pure_bf16 with DeepSpeed"),
    ],
)
def test_what_it_does_not_do_is_refused(monkeypatch, variable, value, options, expected):
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=expected):
        zero.check_wishes(PretrainOptions(**options))


def test_without_it_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rhapsode\[deepspeed\]'"):
        zero.check_wishes(PretrainOptions())


@pytest.mark.slow
def test_the_parts_against_torch(deepspeed, tmp_path):
    """Accumulated, clipped, frozen, one step left out, one not finite, in small buckets; then from its checkpoint."""
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [worker.communicate(timeout=TIMEOUT)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)[-6000:]
    found = torch.load(tmp_path / "found.pt")
    assert sum(norm == float("inf") for norm in found["zero", "norms"]) == 1
    finite = [norm for norm in found["whole", "norms"] if norm == norm and norm != float("inf")]
    assert [norm for norm in found["zero", "norms"] if norm != float("inf")] == pytest.approx(finite, rel=TOLERANCE)
    for key in ("weights", "later weights"):
        torch.testing.assert_close(found["zero", key], found["whole", "weights"], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(found["whole", key], found["whole", "weights"], rtol=0, atol=TOLERANCE)
    assert found["zero", "later norms"] == found["zero", "norms"][-len(found["zero", "later norms"]) :]
    again = found["zero", "later weights"]
    assert [name for name, w in found["zero", "weights"].items() if not torch.equal(w, again[name])] == []


@pytest.mark.slow
def test_two_processes_compute_what_one_does(deepspeed, command, tmp_path, seed):
    """The whole command: ragged labels, evaluation on the way, the average of the weights; stopped and resumed."""
    extra = ("--gradient_accumulation_steps=2", "--ema_decay=0.9", "--eval_steps=2", f"--seed={seed}")
    finish(Training(command("one", *extra, batch=8), tmp_path / "one.log"))
    finish(Training(command("zero", *extra, "--save_steps=2"), tmp_path / "zero.log", 2, "deepspeed"))
    expected, final = logged(tmp_path / "one"), weights(tmp_path / "one")
    assert logged(tmp_path / "zero") == pytest.approx(expected, rel=LOSS_TOLERANCE)
    for figure, tolerance in (("grad_norm", NORM_TOLERANCE), ("eval_loss", LOSS_TOLERANCE)):
        values = logged(tmp_path / "one", figure)
        assert len(values) >= 2
        assert logged(tmp_path / "zero", figure) == pytest.approx(values, rel=tolerance)
    found = weights(tmp_path / "zero")
    assert max((found[name] - final[name]).abs().max().item() for name in final) < WEIGHT_TOLERANCE * RATE * STEPS
    assert json.loads((tmp_path / "zero" / "run.json").read_text())["parallelism"] == "deepspeed"
    AutoModelForCausalLM.from_pretrained(tmp_path / "zero")

    stopped = command("stopped", *extra, "--save_steps=2")
    training = Training(stopped, tmp_path / "stopped.log", 2, "deepspeed")
    patience = time.monotonic() + TIMEOUT
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while training.is_running and not (metrics.exists() and "loss" in metrics.read_text()):
        assert time.monotonic() < patience, training.said()[-4000:]
        time.sleep(0.005)
    for process in training.processes:
        process.terminate()
    assert set(training.wait()) <= {0, 128 + 15, 130, -15}, training.said()[-4000:]
    finish(Training([*stopped, "--resume"], tmp_path / "stopped.log", 2, "deepspeed"))
    assert logged(tmp_path / "stopped") == logged(tmp_path / "zero")
    again = weights(tmp_path / "stopped")
    assert [name for name in found if not torch.equal(found[name], again[name])] == []
