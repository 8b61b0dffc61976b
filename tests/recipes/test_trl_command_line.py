"""trl's own command line goes on from our directories, in processes in which Rhapsode cannot be imported.

What makes that work is the code beside the weights, which `--trust_remote_code` runs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rhapsode.recipes import reward, sft
from rhapsode.recipes.options.reward import RewardOptions
from rhapsode.recipes.options.sft import SftOptions
from small_chats import chats, pairs, save_model, write_splits
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

SHORT = {"max_steps": 2, "learning_rate": 1e-3, "bf16": False, "save_steps": 100}
ROWS = {"sft": chats, "dpo": pairs, "reward": pairs}


@pytest.fixture(scope="module")
def directories(tmp_path_factory, tokenizer_directory) -> dict[str, str]:
    """What `rhapsode sft` and `rhapsode reward` leave."""
    base = save_model(tmp_path_factory.mktemp("base"), tokenizer_directory)
    made = {name: str(tmp_path_factory.mktemp(name)) for name in ("sft", "reward")}
    rows = {kind: write_splits(tmp_path_factory.mktemp("rows"), kind()) for kind in (chats, pairs)}
    sft.run(SftOptions(model=base, dataset=rows[chats], output_dir=made["sft"], eval_prompts=0, **SHORT))
    reward.run(RewardOptions(model=made["sft"], dataset=rows[pairs], output_dir=made["reward"], **SHORT))
    return made


def trl(command: str, model: str, tmp_path: Path, without_rhapsode: str) -> Path:
    (tmp_path / "sitecustomize.py").write_text(without_rhapsode)  # every Python that starts runs it
    data = write_splits(tmp_path / "data", ROWS[command]())
    flags = ["--model_name_or_path", model, "--trust_remote_code", "--dataset_name", data, "--max_steps", "2"]
    flags += ["--use_cpu", "--bf16", "false", "--output_dir", str(tmp_path / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [Path(sys.executable).parent / "trl", command, *flags],
        capture_output=True,
        text=True,
        env=os.environ | offline | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path / "out"


@pytest.mark.slow  # fresh processes that import trl
@pytest.mark.parametrize(
    ("command", "source"), [("sft", "sft"), ("dpo", "sft"), ("reward", "sft"), ("reward", "reward")]
)
def test_trl_goes_on_from_a_directory_of_ours(directories, tmp_path, without_rhapsode, command, source):
    out = trl(command, directories[source], tmp_path, without_rhapsode)
    kind = AutoModelForSequenceClassification if command == "reward" else AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    before = AutoTokenizer.from_pretrained(directories[source])
    assert tokenizer.pad_token_id == before.pad_token_id != tokenizer.eos_token_id == before.eos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert "modeling_rhapsode.py" in {path.name for path in out.iterdir()}
    assert json.loads((out / "config.json").read_text())["model_type"] == "rhapsode"


@pytest.mark.slow
def test_rhapsode_cannot_be_imported_there(tmp_path, without_rhapsode):
    (tmp_path / "sitecustomize.py").write_text(without_rhapsode)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", "import rhapsode"], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and "ModuleNotFoundError: rhapsode" in done.stderr
