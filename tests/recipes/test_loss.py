"""The chunked loss against transformers' loss on the whole logits: value, gradients, memory."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.training.loss import NextTokenLoss
from transformers import LlamaConfig, LlamaForCausalLM

# float32 sums of the same terms, chunk by chunk in place of all at once.
TOLERANCE = 2e-6
# bfloat16 has 8 bits of mantissa: the logits and the gradients of both ways are rounded, at different places.
BF16_TOLERANCE = 2e-2
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
