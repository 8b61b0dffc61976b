"""The model card: its metadata is what huggingface_hub reads, and its figures are the run's."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
from rhapsode.hub.card import fenced, model_card
from rhapsode.hub.measured import headline_figures
from rhapsode.hub.run import Run, read_run

PRETRAIN = {
    "step": 50,
    "tokens": 102400,
    "seconds": 12.0,
    "eval_loss": 2.0,
    "eval_perplexity": 7.389,
    "eval_bits_per_byte": 1.25,
    "eval_bytes": 4096,
    "energy_kwh": 0.5,
    "energy_kind": "estimated",
    "gpu_energy_kwh": 0.4,
    "gpu_energy_kind": "measured",
    "co2_kg": 0.2,
    "co2_kind": "estimated",
    "baselines": {"byte 5-gram": 1.5},
    "samples": [["a", "b"]],
}
OPTIONS = {"preset": "gpt2", "dataset": ["stdlib"], "output_dir": "/home/me/runs/x", "tokenizer": "/home/me/tok"}
ALIGNED = {
    "eval_loss": 1.0,
    "win_rate": 0.75,
    "before": {"judge": 0.1, "exact_on_real": 0.2, "abstention_precision": 0.0, "abstention_recall": 0.0, "n": 8},
    "after": {"judge": 0.6, "exact_on_real": 0.7, "abstention_precision": 0.5, "abstention_recall": 0.25, "n": 8},
}


@pytest.fixture(scope="module")
def model():
    return RhapsodeForCausalLM(RhapsodeConfig.from_preset("gpt2-tiny"))


def write_run(folder, command: str, options: dict, results: dict, facts: dict | None = None) -> Run:
    text = f"# rhapsode {command} --config config_resolved.yaml\n{yaml.safe_dump(options)}"
    (folder / "config_resolved.yaml").write_text(text)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "run.json").write_text(json.dumps(facts or {}))
    return read_run(folder)


def figures(card: ModelCard) -> dict:
    return {result.metric_type: result.metric_value for result in card.data.eval_results}


def test_a_pretrained_model(model, tmp_path):
    facts = {"device": "cuda", "precision": "bfloat16", "data": {"documents": 1200, "padding_share": 0.1}}
    run = write_run(tmp_path, "pretrain", OPTIONS, PRETRAIN, facts)
    text = model_card(model, "owner/mine", run, "mit", "0" * 64)
    card = ModelCard(text)
    assert figures(card) == {"bits_per_byte": 1.25, "perplexity": 7.389, "loss": 2.0}
    assert {r.dataset_name for r in card.data.eval_results} == {"held-out part of stdlib"}
    assert card.data.model_name == "mine"
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "text-generation" and data["license"] == "mit"
    assert data["code_sha256"] == "0" * 64
    assert "datasets" not in data and "base_model" not in data  # stdlib is none of the Hub's, and there is no base
    emissions = data["co2_eq_emissions"]
    assert emissions["emissions"] == 200.0  # grams
    assert emissions["training_type"] == "pre-training" and emissions["hardware_used"] == "cuda"
    assert "| energy | 0.5 kWh, estimated |" in text and "| of it accelerators | 0.4 kWh, measured |" in text
    assert "| bits per byte of byte 5-gram | 1.5000 |" in text
    assert "| documents | 1,200 |" in text
    assert "/home/me" not in text  # no path of the machine
    assert "tokenizer: tok" in text and "output_dir" not in text
    for section in ("How to load it", "Design", "Data", "Recipe", "Evaluation", "Energy", "Intended use and limits"):
        assert f"\n## {section}\n" in text
    assert "not been aligned" in text


def test_an_aligned_model(model, tmp_path):
    options = {"model": "owner/base", "dataset": "trl-lib/pairs:large"}
    run = write_run(tmp_path, "dpo", options, ALIGNED)
    text = model_card(model, "mine", run, chats=True)
    card = ModelCard(text)
    assert card.data.base_model == "owner/base" and card.data.datasets == ["trl-lib/pairs"]
    assert figures(card)["judge"] == 0.6 and figures(card)["win_rate"] == 0.75
    assert "| judge, mean score | 0.100 | 0.600 |" in text
    assert "direct preference optimisation" in text and "not been aligned" not in text
    assert "apply_chat_template" in text
    assert "trust_remote_code" not in text.split("## Recipe")[0]  # it brings no code


def test_local_sources_are_no_hub_ids(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "data").mkdir(parents=True)
    options = {"model": "runs/sft", "dataset": ["here/data", "texts/a.jsonl", "owner/real.data"]}
    run = write_run(tmp_path, "sft", options, ALIGNED)
    card = ModelCard(model_card(model, "mine", run))
    assert card.data.datasets == ["owner/real.data"] and card.data.base_model is None
    assert "It started from `runs/sft`." in card.content


def test_a_reward_model_and_a_classifier(tmp_path):
    config = RhapsodeConfig.from_preset("gpt2-tiny", num_labels=1)
    run = write_run(tmp_path, "reward", {"model": "runs/sft", "dataset": "stdlib"}, {"accuracy": 0.9, "margin": 1.5})
    text = model_card(RhapsodeForSequenceClassification(config), "mine", run)
    assert "A reward model" in text and ModelCard(text).data.pipeline_tag == "text-classification"
    results = {"classification": {"model": {"accuracy": 0.8, "f1": 0.7}, "constant": {"accuracy": 0.5, "f1": 0.0}}}
    run = write_run(tmp_path, "classify", {"model": "runs/sft", "dataset": "a.csv"}, results)
    config = RhapsodeConfig.from_preset("gpt2-tiny", num_labels=3)
    text = model_card(RhapsodeForSequenceClassification(config), "mine", run)
    assert figures(ModelCard(text)) == {"accuracy": 0.8, "f1": 0.7}
    assert "| constant | 0.500 | 0.000 |" in text and "| num_labels | 3 |" in text


def test_no_run_no_figures(model):
    text = model_card(model, "mine")
    assert ModelCard(text).data.eval_results is None
    for section in ("Evaluation", "Recipe", "Energy", "Data", "Curves"):
        assert f"## {section}" not in text


def test_what_is_not_a_number_is_not_a_figure():
    assert headline_figures({"eval_loss": float("nan"), "accuracy": None, "win_rate": True}) == []


def test_only_a_picture_is_published_as_one(model, tmp_path):
    (tmp_path / "curves.png").write_text("-----BEGIN SECRET-----")
    assert not read_run(tmp_path).has_curves
    (tmp_path / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    assert "![curves](curves.png)" in model_card(model, "mine", read_run(tmp_path))


def test_a_damaged_run_is_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        read_run(tmp_path)


def test_nothing_in_an_option_ends_the_block_of_code():
    hostile = "prompt: 'x\n```\n# Not a heading\n````'\n"
    (block,) = (token for token in MarkdownIt().parse(fenced(hostile, "yaml")) if token.type == "fence")
    assert (block.info, block.content) == ("yaml", hostile)
    assert not [token for token in MarkdownIt().parse(fenced(hostile, "yaml")) if token.type == "heading_open"]
