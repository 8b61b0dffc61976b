"""How far a step moves the weights, against norms of whole copies; and the figures that processes add up."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from rhapsode.recipes.training.updates import UpdateProbe
from torch import nn

ROUNDING = 1e-5  # sums of squares in float32
# Of a sample of n values whose squares have a standard deviation of c times their mean, the norm is off by about
# c / (2 sqrt(n)). Below c is 2.2 of the changes and 2.1 of the weights, n about 45,000: 0.5% each, 0.7% of the ratio.
# Six times that never happens.
SAMPLING = 0.043


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 64, bias=False))


def step(model: nn.Module, ids: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    model(ids).square().mean().backward()
    optimizer.step()


def norms(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, float]:
    change = torch.cat([(b - a).flatten() for a, b in zip(before, after, strict=True)]).norm().item()
    return {"update_norm": change, "update_ratio": change / torch.cat([a.flatten() for a in before]).norm().item()}


def test_against_whole_copies(seed):
    """A frozen tensor does not count, a tied one counts once."""
    model = network()
    model[1].bias.requires_grad_(False)
    model.tied = model[0].weight
    trained = [p for p in model.parameters() if p.requires_grad]
    copies = [p.detach().clone() for p in trained]
    probe = UpdateProbe(model.parameters())
    before = probe.take()
    step(model, torch.randint(64, (4, 8)))
    assert probe.compare(before) == pytest.approx(norms(copies, trained), rel=ROUNDING)


def test_a_step_that_was_skipped_moved_nothing(seed):
    probe = UpdateProbe(network().parameters())
    assert probe.compare(probe.take()) == {"update_norm": 0.0, "update_ratio": 0.0}


def test_weights_out_of_sight_give_no_figure():
    """ZeRO-3 leaves empty tensors in the model."""
    probe = UpdateProbe([nn.Parameter(torch.empty(0))])
    assert probe.compare(probe.take()) == {}


def test_a_sample_estimates_what_a_whole_copy_measures(seed):
    """Also where every second column stands still: a plain stride, 12 here, would see those alone."""
    weights = [nn.Parameter(torch.randn(2048, 256) * torch.linspace(0.1, 3, 256)), nn.Parameter(torch.randn(400_000))]
    copies = [p.detach().clone() for p in weights]
    probe = UpdateProbe(weights, sample=80_000)
    before = probe.take()
    assert sum(map(torch.Tensor.numel, before)) <= 80_000
    with torch.no_grad():
        weights[0] += 0.1 * torch.randn(2048, 256) * (torch.arange(256) % 2)
        weights[1] *= 0.99
    assert probe.compare(before) == pytest.approx(norms(copies, weights), rel=SAMPLING)


def test_what_is_copied_is_a_copy(seed):
    weight = nn.Parameter(torch.ones(4))
    probe = UpdateProbe([weight])
    before = probe.take()
    with torch.no_grad():
        weight.mul_(2)
    assert before[0].tolist() == [1, 1, 1, 1]
    assert probe.compare(before) == {"update_norm": 2.0, "update_ratio": 1.0}


PROCESSES = """
import json, os, sys
import torch
from accelerate import Accelerator
from rhapsode.recipes.training import energy, hardware
from rhapsode.recipes.training.updates import UpdateProbe
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

def work(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    torch.manual_seed(int(sys.argv[1]))
    # 3 rows of the bias's matrix and 1 of the last tensor do not divide by 2: one shard is larger, one is empty.
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(3, 1))
    optimizer_of = lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2)
    x = torch.randn(4, 8)
    answers = {}
    for name in ("whole", "sharded"):
        if name == "sharded":
            model.load_state_dict(first)
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        first = {k: v.clone() for k, v in model.state_dict().items()}
        probe = UpdateProbe(model.parameters())
        before = probe.take()
        model(x).square().mean().backward()
        optimizer = optimizer_of(model)
        optimizer.step()
        optimizer.zero_grad()
        answers[name] = probe.compare(before)
    hardware.peak_flops = lambda device, dtype: ((1 + 2 * rank) * 1e12, "measured")
    answers["peak"] = hardware.total_peak_flops(accelerator, torch.float32)
    meter = energy.EnergyMeter(accelerator, enabled=False)
    meter.reading = {"gpu_energy_kwh": 1.0 + rank, "gpu_energy_kind": "measured"}
    answers["energy"] = meter.row()
    with open(sys.argv[2] + str(rank), "w") as stream:
        json.dump(answers, stream)

for rank in (0, 1):  # imported once, then two of us
    if os.fork() == 0:
        try:
            work(rank)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in range(2)]))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[dict, dict]:
    """What each of two gloo processes finds."""
    path = tmp_path_factory.mktemp("two") / "answer"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = os.environ | address | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESSES, "17", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(path.with_name(f"answer{rank}").read_text()) for rank in (0, 1))


@pytest.mark.slow
def test_sharded_weights_have_the_norm_of_the_whole(two_processes):
    """FSDP2: each process sees half of the rows, and every process gives the same figures as without sharding."""
    for answers in two_processes:
        assert answers["sharded"] == pytest.approx(answers["whole"], rel=ROUNDING)
        assert answers["whole"] == two_processes[0]["whole"]
        assert answers["whole"]["update_norm"] > 0


@pytest.mark.slow
def test_the_peak_is_the_sum_of_what_the_processes_measure_together(two_processes):
    for answers in two_processes:
        speed, kind = answers["peak"]
        assert kind == "measured" and speed == pytest.approx(4e12, rel=ROUNDING)


@pytest.mark.slow
def test_energy_is_summed_over_processes(two_processes):
    assert all(answers["energy"]["energy_kwh"] == 3.0 for answers in two_processes)
    assert all(answers["energy"]["gpu_energy_kind"] == "measured" for answers in two_processes)
