"""torch.export, which ExecuTorch and the ONNX exporter start from: one graph for every length."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM

SAME = 1e-5  # float32, of the largest logit
PRESETS = ("rhapsode-10m-tiny", "gpt2-tiny", "falcon-7b-tiny", "olmo-7b-tiny", "vaswani-base-tiny")
SECONDS_EACH = [name if name == "gpt2-tiny" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]


class Logits(torch.nn.Module):
    """Ids (B, T) -> logits (B, T, V): a graph has tensors for inputs and outputs, and no cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).logits


def build(name: str) -> Logits:
    return Logits(RhapsodeForCausalLM(RhapsodeConfig.from_preset(name))).eval()


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < SAME * wanted.abs().max()


@pytest.mark.parametrize("name", SECONDS_EACH)
def test_the_exported_graph_computes_the_same(name, seed):
    """Also for another batch and another length than it was exported with."""
    model = build(name)
    shapes = {0: torch.export.Dim("batch", max=16), 1: torch.export.Dim("length", min=2, max=64)}
    program = torch.export.export(model, (torch.randint(3, 99, (2, 9)),), dynamic_shapes=(shapes,))
    for size in ((2, 9), (3, 31)):
        ids = torch.randint(3, 99, size)
        with torch.no_grad():
            assert_same(program.module()(ids), model(ids))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_onnx(name, tmp_path, seed):
    """By torch.onnx.export, run by the reference implementation of ONNX, in NumPy."""
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model, ids = build(name), torch.randint(3, 99, (2, 9))
    torch.onnx.export(model, (ids,), tmp_path / "model.onnx", dynamo=True, external_data=False, verbose=False)
    (found,) = reference.ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"ids": ids.numpy()})
    with torch.no_grad():
        assert_same(torch.from_numpy(found), model(ids))
