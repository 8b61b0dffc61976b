"""A model trained at length L reads texts of 2L and 4L better with each scaling of RoPE than without."""

import copy

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from torch.nn.functional import cross_entropy

L, VOCABULARY = 32, 24
SCALINGS = ("linear", "dynamic", "yarn")
BETTER = 0.9  # at most this share of the perplexity without scaling; measured 0.4 to 0.7


def text(rows: int, length: int) -> torch.Tensor:
    """Motifs of 5 to 12 tokens, repeated: whoever looks back as far as the motif is long knows what follows."""
    period = torch.randint(5, 13, (rows, 1))
    return torch.randint(3, VOCABULARY, (rows, 13)).gather(1, torch.arange(length)[None] % period)


def train(model, length: int, rows: int, steps: int, learning_rate: float):
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20) * (1 - i / steps))
    for _ in range(steps):
        batch = text(rows, length)
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


@torch.no_grad()
def perplexity(model, batch: torch.Tensor) -> float:
    logits = model(batch).logits[:, 15:-1]  # the first motif cannot be known
    return cross_entropy(logits.flatten(0, 1), batch[:, 16:].flatten()).exp().item()


def scaled(model, **rope):
    """The same weights under another scaling."""
    config = copy.deepcopy(model.config)
    config.rope_parameters = {"rope_theta": 1e4, **rope}
    other = RhapsodeForCausalLM(config)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.slow
def test_each_scaling_of_rope_extends_a_trained_model(seed):
    """As published: a factor of the extension, then a short tuning at the new length (dynamic NTK needs none)."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4, "intermediate_size": 128, "max_position_embeddings": L, "qk_norm": "none"}
    model = train(RhapsodeForCausalLM(RhapsodeConfig(**sizes)), L, rows=64, steps=700, learning_rate=3e-3)
    print(f"trained at {L}: perplexity {perplexity(model, text(64, L)):.2f}")
    for times in (2, 4):
        batch, before, after = text(64, times * L), {}, {}
        for kind in ("default", *SCALINGS):
            other = scaled(model, rope_type=kind, **({} if kind == "default" else {"factor": float(times)}))
            before[kind] = perplexity(other, batch)
            after[kind] = perplexity(train(other, times * L, rows=16, steps=40, learning_rate=1e-3), batch)
            print(f"{kind:8} at {times} L: {before[kind]:6.2f}, after 40 steps there {after[kind]:6.2f}")
        assert before["dynamic"] < BETTER * before["default"]
        for kind in SCALINGS:
            assert after[kind] < BETTER * after["default"], kind
