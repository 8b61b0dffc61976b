"""The chunked loss against transformers' loss on the whole logits: value, gradients, memory."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.training import loss as loss_module
from rhapsode.recipes.training.loss import NextTokenLoss, chunk_size, chunked_loss, cross_entropy
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

# float32 sums of the same terms, chunk by chunk in place of all at once.
TOLERANCE = 2e-6
# bfloat16 has 8 bits of mantissa: the logits and the gradients of both ways are rounded, at different places.
BF16_TOLERANCE = 2e-2
EXACT = 1e-10  # the same sums in float64
SWITCHES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "bias": {"tie_word_embeddings": False, "lm_head_bias": True},
    "scaled": {"logit_scale": 0.3, "final_logit_softcapping": 2.0},
}


def batch_of(config) -> dict:
    ids = torch.randint(0, config.vocab_size, (3, 40))
    labels = ids.clone()
    labels[0, 7], labels[1], labels[2, 20:] = IGNORED, IGNORED, IGNORED
    return {"input_ids": ids, "position_ids": torch.arange(40).expand(3, -1), "labels": labels}


def gradients(model, loss) -> dict:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def relative_difference(one: dict, other: dict) -> float:
    return max(((one[n] - other[n]).abs().max() / other[n].abs().max().clamp(min=1e-12)).item() for n in other)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_equals_the_loss_of_the_whole_logits(switches, chunk, seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", **SWITCHES[switches])).train()
    batch = batch_of(model.config)
    num_items = (batch["labels"][:, 1:] != IGNORED).sum()
    expected = model(**batch, use_cache=False, num_items_in_batch=num_items).loss
    found = NextTokenLoss(model, chunk)(batch, num_items)
    assert found.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert relative_difference(gradients(model, found), gradients(model, expected)) < 10 * TOLERANCE


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_its_gradient_is_the_derivative(switches, chunk, seed, is_the_derivative):
    """By central differences in float64, through the whole model."""

    def make():
        model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", **SWITCHES[switches])).double()
        batch, loss = batch_of(model.config), NextTokenLoss(model, chunk)
        return model, lambda: loss(batch, torch.tensor(50))

    assert is_the_derivative(make)


def test_under_autocast(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", tie_word_embeddings=False)).train()
    batch = batch_of(model.config)
    num_items = torch.tensor(50)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(**batch, use_cache=False, num_items_in_batch=num_items).loss
        found = NextTokenLoss(model, 16)(batch, num_items)
    assert found.item() == pytest.approx(expected.item(), rel=BF16_TOLERANCE)
    ours, theirs = gradients(model, found), gradients(model, expected)
    assert ours["lm_head.weight"].dtype == torch.float32
    error = (ours["lm_head.weight"] - theirs["lm_head.weight"]).norm() / theirs["lm_head.weight"].norm()
    assert error < BF16_TOLERANCE


def test_other_models_compute_their_own(seed):
    """A model that does not say what follows its head keeps its own loss."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes))
    batch, num_items = batch_of(model.config), torch.tensor(17)
    expected = model(**batch, num_items_in_batch=num_items).loss
    assert torch.equal(NextTokenLoss(model)(batch, num_items), expected)


def test_a_batch_without_targets_is_zero(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny")).train()
    batch = batch_of(model.config)
    batch["labels"][:] = IGNORED
    loss = NextTokenLoss(model)(batch, torch.tensor(1))
    assert loss.item() == 0
    assert all((g == 0).all() for g in gradients(model, loss).values())


def test_whole_logits_are_never_held(seed):
    """No tensor of the forward or backward pass has more elements than a chunk's logits, or the parameters."""
    V, chunk = 4096, 8
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=V)).train()
    batch, largest = batch_of(model.config), 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (V,):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        NextTokenLoss(model, chunk)(batch, torch.tensor(50)).backward()
    assert 0 < largest <= max(chunk * V, model.config.hidden_size * V)
    assert model.config.hidden_size < 3 * 39


# z-loss


def plain_loss(hidden, labels, weight, bias, scale_logits, z_loss) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy, and what is added to it, as the paper has them."""
    logits = scale_logits(hidden @ weight.T + (0 if bias is None else bias))
    log_z = logits.exp().sum(-1).log()
    return -(logits.gather(1, labels[:, None])[:, 0] - log_z).sum(), z_loss * (log_z**2).sum()


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: 2 * torch.tanh(0.7 * x / 2)], ids=["plain", "capped"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("numbers", [1, 60, 10**6])  # 1, 7 and all 30 rows of the head's gradient at once
def test_z_loss_against_the_formula(scale, with_bias, chunk, numbers, monkeypatch, seed):
    """The value is the cross entropy alone, the gradient that of the sum; in float64."""
    monkeypatch.setattr(loss_module, "held", lambda device: numbers)
    inputs = [torch.randn(17, 8).double(), torch.randn(30, 8).double(), torch.randn(30).double() if with_bias else None]
    labels = torch.randint(30, (17,))
    leaves = [x.requires_grad_() for x in inputs if x is not None]
    nats, z = plain_loss(inputs[0], labels, *inputs[1:], scale, 0.02)
    expected = torch.autograd.grad(3 * (nats + z), leaves)
    found = chunked_loss(inputs[0], labels, *inputs[1:], scale, chunk, 0.02)
    assert found.item() == pytest.approx(nats.item(), rel=EXACT)
    assert z > 0.1
    for ours, theirs in zip(torch.autograd.grad(3 * found, leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=EXACT, atol=EXACT)


def test_z_loss_of_a_model_that_computes_its_own(seed):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes))
    batch, num_items = batch_of(model.config), torch.tensor(17)
    output = model(**batch, num_items_in_batch=num_items)
    log_z = output.logits[:, :-1].logsumexp(-1)[batch["labels"][:, 1:] != IGNORED]
    expected = gradients(model, output.loss + 0.1 * (log_z**2).sum() / 17)
    loss = NextTokenLoss(model, z_loss=0.1)(batch, num_items)
    assert loss.item() == output.loss.item()
    assert relative_difference(gradients(model, loss), expected) < 10 * TOLERANCE


# What is frozen, and weights in bfloat16


@pytest.mark.parametrize("frozen", ["lm_head", "lm_head.bias", "lm_head.weight", "model"])
def test_a_frozen_part_gets_no_gradient_and_the_rest_the_same(frozen, seed):
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", tie_word_embeddings=False, lm_head_bias=True)
    model = RhapsodeForCausalLM(config).train()
    batch, num_items = batch_of(config), torch.tensor(50)
    expected = gradients(model, NextTokenLoss(model, 16)(batch, num_items))
    model.zero_grad()
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    NextTokenLoss(model, 16)(batch, num_items).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) if name.startswith(frozen) else torch.equal(p.grad, expected[name])


def test_without_gradients_it_is_the_same_loss(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    batch, loss = batch_of(model.config), NextTokenLoss(model, 16)
    expected = loss(batch, torch.tensor(50)).item()
    with torch.no_grad():
        assert loss(batch, torch.tensor(50)).item() == expected
    model.requires_grad_(False)
    assert loss(batch, torch.tensor(50)).item() == expected


def test_pure_bfloat16(seed):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny")).train()
    batch, num_items = batch_of(model.config), torch.tensor(50)
    expected = gradients(model, NextTokenLoss(model)(batch, num_items))
    model.bfloat16()
    loss = NextTokenLoss(model, 16)(batch, num_items)
    assert loss.dtype == torch.float32  # the sum over tokens needs it
    found = gradients(model, loss)["model.embed_tokens.weight"]
    assert found.dtype == torch.bfloat16
    exact = expected["model.embed_tokens.weight"]
    assert (found.float() - exact).norm() < BF16_TOLERANCE * exact.norm()


def test_a_model_wrapped_at_the_wrong_place_is_noticed(monkeypatch, seed):
    """Under FSDP2 a head that is sharded within the forward pass would get a gradient of this process's tokens only."""

    class Sharded:
        class device_mesh:
            mesh_dim_names = ("dp",)

    monkeypatch.setattr(loss_module, "DTensor", Sharded)
    with pytest.raises(AssertionError, match="fully_shard the NextTokenLoss"):
        loss_module._whole(Sharded())


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_its_gradient_in_closed_form(seed, z_loss, scale):
    """Large logits too: the probability of a target is then below the smallest number, and its loss is not."""
    dtype = torch.float64 if scale == 1.0 else torch.float32
    logits = (scale * torch.randn(9, 50, dtype=dtype)).requires_grad_()
    labels = torch.randint(50, (9,))
    expected = F.cross_entropy(logits, labels, reduction="sum")
    (expected + z_loss * logits.logsumexp(-1).square().sum()).backward()
    loss, gradient = cross_entropy(logits.detach(), labels, z_loss)
    tolerance = EXACT if scale == 1.0 else TOLERANCE * scale  # an exponent is as inexact as it is large
    torch.testing.assert_close(loss, expected.detach(), rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, logits.grad, rtol=tolerance, atol=tolerance)


def test_the_vocabulary_says_how_many_tokens_are_taken_at_once():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunk_size(8192, cpu) == 256 and chunk_size(8192, gpu) == 4096
    assert chunk_size(128_000, cpu) * 128_000 < 2**24 + 1
    assert chunk_size(10**7, cpu) == chunk_size(10**6, cpu) == chunk_size(10**7, gpu)
