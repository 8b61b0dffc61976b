"""The arithmetic of a step, against a count by hand and torch's own counter; and the file of metrics."""

import json
from itertools import pairwise

import pytest
import torch
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.training.metrics import MetricsLog, flops_per_token, progress_bar, read_metrics
from torch.utils.flop_counter import FlopCounterMode

# What torch counts and we leave out: the angles of RoPE, a product of positions and frequencies, C / 2 a token.
COUNTER_TOLERANCE = 2e-3


def meta_model(preset: str, **overrides) -> RhapsodeForCausalLM:
    with torch.device("meta"):
        return RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset, **overrides))


def test_llama_by_hand():
    """D=64, 2 layers, 4 heads and 4 KV heads of 16, FFN 3 x 172, untied head of 512."""
    model = meta_model("llama2-7b-tiny")
    f = model.config.intermediate_size
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * f) + 64 * 512
    for length in (16, 256):
        attention = 2 * 4 * 16 * length
        assert flops_per_token(model, length) == 6 * (matrices + attention)


def test_gpt2_by_hand():
    """Kaplan et al. 2020, table 1: 12 L D^2 for the blocks; the tied head counts, the tables of look-ups do not."""
    model = meta_model("gpt2")
    blocks, head = 12 * 12 * 768**2, 50257 * 768
    assert flops_per_token(model, 1024) == 6 * (blocks + head + 12 * 768 * 1024)


def test_tying_changes_the_memory_and_not_the_arithmetic():
    tied, untied = (meta_model("llama2-7b-tiny", tie_word_embeddings=t) for t in (True, False))
    assert flops_per_token(tied, 32) == flops_per_token(untied, 32)


@pytest.mark.parametrize(
    "preset", ["rhapsode-10m-tiny", "gpt2-tiny", "llama2-7b-tiny", "falcon-7b-tiny", "palm-8b-tiny"]
)
def test_against_the_matrix_products_that_torch_counts(seed, preset):
    """Eager attention multiplies the masked half too, which we leave out: that half is added to our figure here."""
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset)).train()
    model.set_attn_implementation("eager")
    batch, length = 2, 48
    ids = torch.randint(100, (batch, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    config = model.config
    masked = 6 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    expected = batch * length * (flops_per_token(model, length) + masked)
    assert counter.get_total_flops() == pytest.approx(expected, rel=COUNTER_TOLERANCE)


# metrics.jsonl


def rows(*steps) -> list[dict]:
    return [{"step": step, "loss": 1 / step, "kind": "measured"} for step in steps]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    log = MetricsLog(path)
    for row in rows(1, 2, 3):
        log.write(**row)
    assert read_metrics(path) == rows(1, 2, 3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows(1, 2, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_resuming_forgets_what_came_after(tmp_path):
    """Steps after the checkpoint are done again; each is in the file once, in order."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for row in rows(10, 20, 30, 40):
        log.write(**row)
    resumed = MetricsLog(path, resume_step=25)
    for row in rows(30, 40, 50):
        resumed.write(**row)
    steps = [row["step"] for row in read_metrics(path)]
    assert steps == [10, 20, 30, 40, 50]
    assert all(a < b for a, b in pairwise(steps))
    MetricsLog(path)
    assert read_metrics(path) == []


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for row in rows(1, 2):
        log.write(**row)
    whole = path.read_bytes()
    second = len(whole.splitlines(keepends=True)[0])
    for size in range(second, len(whole)):
        path.write_bytes(whole[:size])
        assert read_metrics(path) == rows(1)
    MetricsLog(path, resume_step=1).write(**rows(2)[0])
    assert read_metrics(path) == rows(1, 2)


def test_the_bar_begins_where_the_run_does(capsys):
    with progress_bar(10, 4, enabled=True) as bar:
        bar.update()
        assert (bar.n, bar.total) == (5, 10)
    assert "50%" in capsys.readouterr().err
    with progress_bar(10, 0, enabled=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
