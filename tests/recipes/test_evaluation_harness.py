"""lm-evaluation-harness on the same model: the same accuracies, the same log-likelihoods, the same texts."""

import json

import numpy as np
import pytest
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import EXTRAS, run_command
from rhapsode.tokenization import token_ids
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-3  # nats; its batches are padded otherwise


def test_the_extra_is_named():
    assert EXTRAS["lm_eval"] == "harness"


@pytest.mark.slow  # it reads thousands of task files
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("python_builtin", "--harness python_builtin: no such task; did you mean python_builtins"),
        ("gsm9k", "--harness gsm9k: no such task; did you mean gsm8k"),
        ("/nowhere.yaml", "--harness /nowhere.yaml: no such task"),
    ],
)
def test_names_are_looked_up_before_anything_is_measured(name, expected):
    pytest.importorskip("lm_eval")
    from rhapsode.recipes.evaluation.harness import check_harness
    from rhapsode.recipes.options.base import UserError
    from rhapsode.recipes.options.evaluate import EvaluateOptions

    with pytest.raises(UserError, match=expected):
        check_harness(EvaluateOptions(harness=["python_statements", name]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rhapsode", "llama"])
def test_agrees_with_the_harness(kind, tokenizer_directory, tmp_path, capsys, seed):
    pytest.importorskip("lm_eval")
    from rhapsode.recipes.evaluate import open_model
    from rhapsode.recipes.evaluation.asking import ask
    from rhapsode.recipes.evaluation.harness import check_harness, measure_in_harness
    from rhapsode.recipes.evaluation.rendering import read_examples
    from rhapsode.recipes.evaluation.task import open_task
    from rhapsode.recipes.options.evaluate import EvaluateOptions

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "initializer_range": 0.1}
    config = (RhapsodeConfig if kind == "rhapsode" else LlamaConfig)(**sizes, **token_ids(tokenizer))
    (RhapsodeForCausalLM if kind == "rhapsode" else LlamaForCausalLM)(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    rows = [
        {"q": f"{a} and {b} <|eos|>", "o": ["more", "less — or", "equal to"], "a": a % 3}
        for a in range(5)
        for b in "xyz"
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chosen.yaml").write_text("dataset: rows.jsonl\nprompt: 'Q: {{ q }} A:'\nchoices_from: o\nanswer: a\n")
    names = [str(tmp_path / "chosen.yaml"), "python_statements", "python_expressions"]
    options = EvaluateOptions(model=str(tmp_path / "model"), tasks=names, harness=names, max_examples=15)
    opened = open_model("model", options)
    opened.model.double()  # so that greedy texts do not part where two tokens are as likely but for rounding
    (found,) = measure_in_harness(opened, options, check_harness(options))

    for name in names:
        task = open_task(name)
        ours = ask(opened, task, read_examples(task, None, 15, 0))
        its, samples = found["results"][task.name], sorted(found["samples"][task.name], key=lambda s: s["doc_id"])
        assert len(samples) == 15
        if task.options.kind == "generation":
            assert [row["written"] for row in ours.details] == [s["filtered_resps"][0] for s in samples]
            assert its["exact_match,none"] == ours.values["exact_match"].numerators.mean()
            continue
        theirs = [[likelihood for likelihood, _ in s["filtered_resps"]] for s in samples]
        np.testing.assert_allclose([row["log_likelihoods"] for row in ours.details], theirs, atol=TOLERANCE)
        for measure, named in (("accuracy", "acc,none"), ("accuracy_per_byte", "acc_bytes,none")):
            if measure in ours.values:
                assert its[named] == pytest.approx(ours.values[measure].numerators.mean())

    flags = ["--model", options.model, "--tasks", names[0], "--harness", names[0], "--json"]
    capsys.readouterr()
    assert run_command("evaluate", flags) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    both = results["results"]["chosen"]["accuracy"], results["results"]["lm_eval: chosen"]["acc"]
    assert both[0]["value"] == pytest.approx(both[1]["value"]) and "lm_eval" in results["versions"]
