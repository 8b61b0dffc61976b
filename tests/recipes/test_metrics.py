"""The arithmetic of a step, against a count by hand and torch's own counter; and the file of metrics."""

import json
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.reporting.metrics_file import MetricsLog, read_metrics
from rhapsode.recipes.training.metrics import Stopwatch, flops_per_token, progress_bar
from torch import nn
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


class Recurrent(nn.Module):
    """Elman's: D=8, H=16, V=32, nothing in the configuration that speaks of attention."""

    config = SimpleNamespace(hidden_size=16)

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(32, 8), nn.RNN(8, 16), nn.Linear(16, 32)

    def get_output_embeddings(self):
        return self.head


def test_without_attention_only_the_matrices_count():
    assert flops_per_token(Recurrent(), 10) == flops_per_token(Recurrent(), 1000) == 6 * (8 * 16 + 16 * 16 + 16 * 32)


def test_a_model_of_counts_has_no_arithmetic():
    model = nn.Module()
    model.config, model.get_output_embeddings = SimpleNamespace(), lambda: None
    assert flops_per_token(model, 100) == 0


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


def test_what_a_run_goes_on_with(tmp_path):
    """The newest value of each figure up to the resumed step; figures of evaluations stand in rows of their own."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for row in ({"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 3.5}, {"step": 2, "loss": 2.0}, {"step": 3, "x": 1}):
        log.write(**row)
    assert MetricsLog(path, resume_step=2).last == {"step": 2, "loss": 2.0, "eval_loss": 3.5}
    assert MetricsLog(path).last == {}


def test_every_line_is_json_whatever_the_loss(tmp_path):
    """NaN is no JSON: `jq`, browsers and other languages refuse a file that has it."""
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write(step=1, loss=float("nan"), grad_norm=float("inf"), learning_rate=0.1)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"step": 1, "loss": None, "grad_norm": None, "learning_rate": 0.1}


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        read_metrics(path)


def test_the_stopwatch_goes_on_after_a_resume():
    watch = Stopwatch({"eval_seconds": 100.0, "loss": 3.0})
    start = time.perf_counter()
    with watch("eval"):
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), watch("checkpoint"):
        time.sleep(0.01)
        raise ZeroDivisionError
    row = watch.row()
    assert row.keys() == {"eval_seconds", "checkpoint_seconds"}
    assert row["eval_seconds"] >= 100.01 and row["checkpoint_seconds"] >= 0.01
    assert row["eval_seconds"] - 100 + row["checkpoint_seconds"] <= time.perf_counter() - start


def test_the_bar_begins_where_the_run_does(capsys):
    with progress_bar(10, 4, enabled=True) as bar:
        bar.update()
        assert (bar.n, bar.total) == (5, 10)
    assert "50%" in capsys.readouterr().err
    with progress_bar(10, 0, enabled=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
