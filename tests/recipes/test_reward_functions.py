"""Rewards by name: what each form opens, and what is refused."""

import shutil

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForSequenceClassification
from rhapsode.recipes.alignment.judge import judge_reward
from rhapsode.recipes.alignment.reward_functions import open_reward_functions
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization import token_ids
from small_chats import save_model
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture
def scorer(tmp_path, tokenizer_directory):
    """Writes a reward model with that many scores."""

    def write(labels: int):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = RhapsodeConfig(vocab_size=len(tokenizer), num_labels=labels, **sizes, **token_ids(tokenizer))
        RhapsodeForSequenceClassification(config).save_pretrained(tmp_path / "scorer")
        tokenizer.save_pretrained(tmp_path / "scorer")
        return tmp_path / "scorer"

    return write


def test_each_form(scorer, tmp_path):
    (tmp_path / "mine.py").write_text("def ones(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    specs = ["judge", f"{tmp_path}/mine.py:ones", "rhapsode.recipes.alignment.judge:judge_reward", f"{scorer(1)}/"]
    judge, ones, again, (model, tokenizer) = open_reward_functions(specs, False)
    assert judge is again is judge_reward
    assert ones(completions=["a", "b"], prompts=None) == [1.0, 1.0]
    assert model.config._name_or_path.endswith("scorer"), "or its figures would have no name"
    assert not model.training and model.dtype == torch.float32
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_module_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "mine.py").write_text("name = 'x'\n\ndef exact(completions):\n    return completions\n")
    for spec, message in (
        ("no_such_module:score", r"no_such_module cannot be imported \(ModuleNotFoundError"),
        (f"{tmp_path}/none.py:score", r"none.py cannot be imported \(FileNotFoundError"),
        (f"{tmp_path}/bad.py:score", r"bad.py cannot be imported \(ZeroDivisionError: division by zero\)"),
        (f"{tmp_path}/mine.py:score", r"mine.py has no function 'score'"),
        (f"{tmp_path}/mine.py:name", r"mine.py has no function 'name'"),
        (f"{tmp_path}/mine.py:exact", r"let it take \*\*kwargs as well"),
    ):
        with pytest.raises(UserError, match=message):
            open_reward_functions([spec], False)


def test_models_that_would_score_at_random(model, scorer, tmp_path):
    with pytest.raises(UserError, match="no head with a single score; train it with rhapsode reward"):
        open_reward_functions([model], False)
    with pytest.raises(UserError, match=r"no head with a single score|that can be opened"):
        open_reward_functions([str(scorer(3))], False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is neither judge, module:function or file\.py:function, nor a reward model"):
        open_reward_functions([str(tmp_path / "empty")], False)


def test_a_reward_model_knows_how_to_write_a_chat(scorer, tmp_path):
    plain = shutil.copytree(scorer(1), tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.chat_template = None
    for path in plain.glob("*.jinja"):
        path.unlink()
    tokenizer.save_pretrained(plain)
    with pytest.raises(UserError, match="it has no chat_template"):
        open_reward_functions([str(plain)], False)
