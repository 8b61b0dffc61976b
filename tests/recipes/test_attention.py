"""The blocked kernel computes what the definition does: outputs, gradients, and what a mask hides."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.training import attention
from rhapsode.recipes.training.attention import LONGEST, NAME, best_attention, set_attention

SUM_TOLERANCE = 1e-10  # float64: the order of sums
HALF_TOLERANCE = 1.5  # times the definition's own error in bfloat16: the same products, rounded at the same places
DESIGNS = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "multi-head": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "multi-query": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "window": {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 5},
    "scaled": {"num_attention_heads": 2, "num_key_value_heads": 2, "attention_multiplier": 0.3},
}


def build(design: str, dtype=torch.float64) -> RhapsodeForCausalLM:
    config = RhapsodeConfig(
        **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 512},
        **{"initializer_range": 0.4, "pad_token_id": 0},
        **DESIGNS[design],
    )
    return RhapsodeForCausalLM(config).to(dtype)


def results(model, kernel: str, batch: dict) -> list[torch.Tensor]:
    """Logits at every target, the loss, and the gradients."""
    set_attention(model, kernel)
    model.zero_grad()
    output = model(**batch, use_cache=False)
    output.loss.backward()
    real = batch["labels"] != -100
    return [output.logits[real].detach(), output.loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("length", [1, 7, 8, 29, 300])
@pytest.mark.parametrize("design", DESIGNS)
def test_it_is_the_definition(seed, monkeypatch, design, length):
    if length < 300:
        monkeypatch.setattr(attention, "BLOCK", 8)
    model = build(design)
    ids = torch.randint(1, 40, (3, length))
    batch = {"input_ids": ids, "labels": ids} if length > 1 else {"input_ids": ids.T, "labels": ids.T}
    for theirs, ours in zip(results(model, "eager", batch), results(model, NAME, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=SUM_TOLERANCE, atol=SUM_TOLERANCE)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("what", ["documents", "left padding", "right padding", "both"])
def test_masks(seed, monkeypatch, design, what):
    monkeypatch.setattr(attention, "BLOCK", 8)
    model, ids = build(design), torch.randint(1, 40, (3, 21))
    batch = {"input_ids": ids, "labels": ids.clone()}
    if what in ("documents", "both"):
        starts = torch.tensor([0, 6, 7, 17, 21])
        batch["position_ids"] = torch.cat([torch.arange(n) for n in starts.diff()]).expand(3, -1)
    if "padding" in what or what == "both":
        mask = torch.ones(3, 21, dtype=torch.long)
        for row, n in enumerate((0, 4, 13)):
            mask[row, : n if what == "left padding" else 0] = 0
            mask[row, 21 - n if what != "left padding" else 21 :] = 0
        batch["attention_mask"] = mask
        batch["labels"][mask == 0] = -100
        batch["labels"][:, 1:][mask[:, :-1] == 0] = -100  # what padding predicts is nothing
    for theirs, ours in zip(results(model, "eager", batch), results(model, NAME, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=SUM_TOLERANCE, atol=SUM_TOLERANCE)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("design", DESIGNS)
def test_generation_is_the_same(seed, design, cache):
    model, ids = build(design).eval(), torch.randint(1, 40, (2, 9))
    settings = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": cache, "eos_token_id": None}
    texts = []
    for kernel in ("eager", NAME):
        set_attention(model, kernel)
        texts.append(model.generate(ids, attention_mask=torch.ones_like(ids), **settings).tolist())
    assert texts[0] == texts[1]


def test_bfloat16_is_near(seed):
    model, ids = build("grouped", torch.float32), torch.randint(1, 40, (2, 200))
    batch = {"input_ids": ids, "labels": ids}
    exact = results(model, "eager", batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = [
            sum((x - e).norm() / e.norm() for x, e in zip(results(model, kernel, batch), exact, strict=True))
            for kernel in ("eager", NAME)
        ]
    assert 0 < errors[1] < HALF_TOLERANCE * errors[0]


def test_what_is_chosen():
    model = build("grouped")
    for device, length, dropout, expected in [
        ("cpu", LONGEST, 0.0, NAME),
        ("cpu", LONGEST + 1, 0.0, "sdpa"),
        ("cpu", 8, 0.1, "sdpa"),
        ("cuda", 8, 0.0, "sdpa"),
    ]:
        model.config.attention_dropout = dropout
        assert best_attention(model, torch.device(device), length) == expected, (device, length, dropout)


def test_the_choice_is_not_saved(tmp_path):
    model = build("grouped", torch.float32)
    set_attention(model, NAME)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("wanted", [{"dropout": 0.1}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_what_it_cannot_do_is_refused(wanted):
    q = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ValueError, match=f"{next(iter(wanted))} of attention"):
        attention.blocked_attention_forward(None, q, q, q, None, scaling=1.0, **wanted)
