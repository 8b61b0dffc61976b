"""The recipes of the comparison with nanoGPT: no more parameters than it has, and they run as the README says.

nanoGPT counts its 4 layers of width 128 over 65 characters as 795,904: everything but the position embeddings.
"""

import json
import random
from pathlib import Path

import pytest
from rhapsode.recipes import pretrain
from rhapsode.recipes.options.base import parse
from rhapsode.recipes.options.pretrain import PretrainOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

NANOGPT_PARAMETERS = 795_904
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # those of the text, all 65
CONFIGS = Path(pretrain.__file__).parent / "configs"


@pytest.fixture
def text(seed, tmp_path) -> Path:
    """Lines of all the characters, each of which is early in the text."""
    lines = [CHARACTERS, *("".join(random.choices(CHARACTERS, k=40)) for _ in range(200))]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare_baseline"])
def test_the_recipe_runs_and_is_no_larger(name, text, tmp_path):
    path = CONFIGS / f"{name}.yaml"
    command = f"# rhapsode pretrain --config recipes/configs/{name}.yaml --dataset tinyshakespeare.txt --output_dir "
    assert command in path.read_text()
    run = tmp_path / "run"
    arguments = ["--config", str(path), "--dataset", str(text), "--output_dir", str(run), "--max_steps", "3"]
    arguments += ["--data_cache", str(tmp_path / "shards"), "--per_device_train_batch_size", "2"]
    pretrain.run(parse(PretrainOptions, arguments, "rhapsode pretrain", ""))
    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForCausalLM.from_pretrained(run)
    assert len(tokenizer(CHARACTERS, add_special_tokens=False).input_ids) == 65 == len(set(CHARACTERS))
    positions = getattr(model.model.embed_positions, "weight", None)
    parameters = model.num_parameters() - (0 if positions is None else positions.numel())
    if name == "shakespeare":
        assert parameters <= NANOGPT_PARAMETERS
    else:  # the same design, and rows for our special tokens
        assert parameters - (len(tokenizer) - 65) * model.config.hidden_size == NANOGPT_PARAMETERS
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 3
    size = len(text.read_text())
    cut = text.read_text().rindex("\n", 0, size - int(0.1 * size)) + 1
    assert results["eval_bytes"] == size - cut
    assert results["eval_tokens"] == results["eval_bytes"] + 1  # every character, and the end
