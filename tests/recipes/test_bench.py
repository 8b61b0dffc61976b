"""`rhapsode bench` from the options to the report, on models that take no time; its figures mean nothing here."""

import json
import math

import numpy as np
import pytest
import torch
from rhapsode import RhapsodeForCausalLM
from rhapsode.recipes import bench
from rhapsode.recipes.benchmarking.memory import peak_over
from rhapsode.recipes.benchmarking.packing import FULL, KINDS, PADDED, Batches, padded, tokens_of
from rhapsode.recipes.benchmarking.work import config_of, family_of, prepare_design, prepare_text
from rhapsode.recipes.options.base import UserError, parse
from rhapsode.recipes.options.bench import BenchOptions
from transformers import AutoModelForCausalLM

SAME_ORDER = 2e-5  # logits of two classes in float32: sums in another order
SAME_MATHEMATICS = 0.02  # nats; bfloat16 autocast beside float32, three steps on
SMALL = ["hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "num_key_value_heads=1"]
SMALL += ["intermediate_size=48", "vocab_size=512"]


@pytest.fixture
def options(corpus, tokenizer_directory, tmp_path):
    """`options(flags)` for a model and for work that are very small."""

    def make(*flags: str) -> BenchOptions:
        shared = ["--dataset", str(corpus), "--tokenizer", str(tokenizer_directory), "--batch", "2", "--length", "32"]
        shared += ["--config_overrides", *SMALL, "--output_dir", str(tmp_path / "runs" / "bench"), "--rounds", "1"]
        shared += ["--prompt_tokens", "8", "--new_tokens", "4", "--loss_vocabulary", "1024", "--text_bytes", "50000"]
        shared += ["--growth_lengths", "16", "32", "--growth_vocabularies", "64", "--growth_widths", "32"]
        return parse(BenchOptions, [*shared, "--no-torch_compile", *flags], "rhapsode bench", BenchOptions.__doc__)

    return make


def check(results: dict) -> None:
    """What holds of every results.json."""
    assert results["finished"] and results["seconds"] > 0
    assert {"torch", "transformers", "python"} <= results["versions"].keys()
    assert results["machine"]["threads"] >= 1 and results["machine"]["memory_bytes"] > 2**28
    for figure in results["figures"]:
        assert figure["better"] in ("more", "less") and figure["contenders"]
        for row in figure["contenders"]:
            assert row["fault"] is None, row
            assert all(math.isfinite(value) and value >= 0 for value in row["values"] + row["shares"])
            assert row["low"] <= row["median"] <= row["high"]
            if row["kind"] == "rhapsode":
                peers = [other["name"] for other in figure["contenders"] if other["kind"] == "peer" and other["values"]]
                assert list(row["ratios"]) == peers


def test_training_beside_the_trainer_end_to_end(options, tmp_path, capsys):
    bench.run(options("--measure", "training", "--peers", "trainer", "--json"))
    results = json.loads(capsys.readouterr().out)
    check(results)
    directory = tmp_path / "runs" / "bench"
    assert json.loads((directory / "results.json").read_text()) == results
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["bench"]  # the work is deleted
    assert (directory / "bench.png").read_bytes().startswith(b"\x89PNG")
    speed, memory = results["figures"]
    assert [row["name"] for row in speed["contenders"]] == ["rhapsode", "Trainer"]
    assert all(0 < row["share_of_limit"] < 1 for row in speed["contenders"])
    assert memory["better"] == "less"
    losses = results["checks"]["training llama-30m"]["losses"]
    assert len(losses["rhapsode"]) == len(losses["Trainer"]) == 3  # two to warm up, one that counts
    np.testing.assert_allclose(losses["Trainer"], losses["rhapsode"], atol=SAME_MATHEMATICS)
    sample = results["samples"]["training llama-30m"]["Trainer"][0]
    assert sample["seconds"] > 0 and sample["memory_bytes"] > 2**20
    assert "## Training" in (directory / "report.md").read_text()
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        bench.run(options())


@pytest.mark.slow  # two minutes on an idle machine: thirty processes
def test_everything_end_to_end(options, capsys):
    flags = ["--peers", "trainer", "llama", "--decode_batches", "1", "2", "--decode_dtypes", "float32"]
    bench.run(options(*flags, "--json"))
    results = json.loads(capsys.readouterr().out)
    check(results)
    assert list(dict.fromkeys(figure["section"] for figure in results["figures"])) == results["options"]["measure"]
    text = results["checks"]["decoding llama-30m float32"]
    assert text["tokens"] == 4 and set(text["equal_tokens"].values()) == {4}
    loss = results["checks"]["loss"]
    assert loss["losses"]["rhapsode"] == pytest.approx(loss["losses"]["whole logits"], abs=SAME_MATHEMATICS)
    norms = loss["gradient_norms"]
    assert norms["rhapsode"] == pytest.approx(norms["whole logits"], rel=SAME_MATHEMATICS)
    assert {figure["axis"] for figure in results["figures"]} == {None, "length", "vocabulary", "width"}


def test_the_families_class_computes_the_same(options, tmp_path):
    """Llama, with normalised queries and keys Qwen 3, and where nobody does, it says why."""
    wanted = options(
        "--preset", "llama-30m", "rhapsode-10m-tiny", "vaswani-base-tiny", "--config_overrides", "vocab_size=512"
    )
    prepare_text(wanted, tmp_path)
    wanted.config_overrides.append("num_hidden_layers=1")
    ids = torch.from_numpy(np.load(tmp_path / "rows.npy")[:2])
    families = {}
    for name in wanted.preset:
        design = prepare_design(wanted, name, tmp_path)
        families[name] = design.family
        assert (design.family is None) == (design.no_family is not None)
        if design.family:
            ours, theirs = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (design.ours, design.foreign))
            with torch.no_grad():
                torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=SAME_ORDER, rtol=0)
    assert [families[name] for name in wanted.preset] == ["llama", "qwen3", None]
    config = config_of(BenchOptions(), "llama-30m")
    assert (config.hidden_size, config.qk_norm, config.tie_word_embeddings) == (512, "none", True)


def test_what_does_not_fit_is_one_line_and_nothing_is_written(options, tmp_path):
    for flags, message in (
        (["--preset", "lama2-7b"], "--preset lama2-7b with .*llama2-7b"),
        (["--batch", "100000"], "fewer than one batch of 100000 x 32"),
        (["--config_overrides", "vocab_size=99"], "has 512 entries and a design 99"),
    ):
        with pytest.raises(UserError, match=message):
            bench.run(options(*flags))
        assert not list((tmp_path / "runs").iterdir())


def test_rows_of_each_kind_have_the_tokens_that_are_counted(options, tmp_path):
    prepare_text(options(), tmp_path)
    rows = Batches(str(tmp_path / "documents.npz"), 32, seed=0)
    for kind in KINDS:
        rows.kind = kind
        batch = rows.batch(0, 4)
        counted = tokens_of(rows, kind, 0, 4)
        if kind == PADDED:
            assert counted == int(batch["attention_mask"].sum())
        elif kind == FULL:
            assert counted == 4 * 32 and "position_ids" not in batch
        else:
            assert 0 < counted <= 4 * 32 and (batch["position_ids"] == 0).any()
    made = padded([np.array([5, 6, 7]), np.array([8])])
    assert made["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert made["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]


@pytest.mark.skipif(peak_over(lambda: None) is None, reason="this system does not let a process forget its peak")
def test_the_memory_of_a_piece_of_work():
    def hold() -> None:
        first = torch.ones(2**24)  # 64 MiB, and then 32 more
        torch.ones(2**23).add_(first[0])

    for _ in range(2):  # also when the allocator has kept what was freed
        assert 90 * 2**20 < peak_over(hold) < 120 * 2**20
    assert peak_over(lambda: None) < 2**23


def test_the_configuration_for_a_gpu_is_one():
    """Its designs are Llamas, of about the sizes that it promises."""
    path = bench.__file__.replace("bench.py", "configs/bench_gpu.yaml")
    options = parse(BenchOptions, ["--config", path], "rhapsode bench", BenchOptions.__doc__)
    assert options.max_seconds < 600
    for name, size in zip(options.preset, (350e6, 1e9), strict=True):
        config = config_of(options, name)
        with torch.device("meta"):
            model = RhapsodeForCausalLM(config)
        assert 0.8 < sum(p.numel() for p in model.parameters()) / size < 1.2
        assert family_of(config) == ("llama", None)
