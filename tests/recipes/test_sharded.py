"""Two processes (gloo) compute what one does: loss, norm of the gradients, Muon, AdamW and the average of the weights,
by DDP, FSDP2 and tensor parallel, with ragged labels, tied, untied, frozen, capped and recomputed.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("sharded_worker.py")
DESIGNS = ("tied", "untied", "frozen head")
# float32 sums of the same terms in another order; AdamW's first steps are the sign of a gradient, and so enlarge
# differences where it is nearly 0.
TOLERANCE = 1e-5
TIMEOUT = 300  # seconds; about 20 on a quiet machine


pytestmark = pytest.mark.slow  # the whole loop in several processes is in test_processes.py


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    directory = tmp_path_factory.mktemp("sharded")
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [worker.communicate(timeout=TIMEOUT)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    return torch.load(directory / "found.pt")


def assert_same(one: dict, other: dict) -> None:
    assert one["losses"] == pytest.approx(other["losses"], rel=TOLERANCE)
    assert one["norms"] == pytest.approx(other["norms"], rel=TOLERANCE)
    for kind in one.keys() & {"weights", "average"}:
        torch.testing.assert_close(one[kind], other[kind], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_as_one_process(found, design, kind):
    whole, shared = found[design, "whole"], found[design, kind]
    assert_same(shared, whole)
    for key in ("groups", "matrices", "blocks"):
        assert shared[key] == whole[key]


@pytest.mark.parametrize("design", ["tied", "untied"])
def test_tensor_parallel_as_one_process(found, design):
    assert_same(found[design, "tensor parallel"], found[design, "one"])


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("kind", ["whole", "ddp", "fsdp2"])
def test_the_average_is_put_in_and_taken_out(found, design, kind):
    result = found[design, kind]
    for name, weight in result["weights"].items():
        assert torch.equal(result["swapped"][name], result["average"].get(name, weight))
        assert torch.equal(result["restored"][name], weight)
    assert len(result["weights"]) - len(result["average"]) == (design == "frozen head")
