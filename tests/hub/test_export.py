"""A self-contained repository: what is in it, for every class of model, and what is refused."""

import json
import shutil
import subprocess

import pytest
import torch
import yaml
from rhapsode import (
    RhapsodeConfig,
    RhapsodeForCausalLM,
    RhapsodeForQuestionAnswering,
    RhapsodeForSequenceClassification,
    RhapsodeForTokenClassification,
    RhapsodeModel,
    export,
)
from rhapsode.hub.code import code_hash, package_files, verify
from rhapsode.recipes.baselines.configuration_baselines import LSTMConfig
from rhapsode.recipes.baselines.recurrent import LSTMForCausalLM
from rhapsode.recipes.cli import main
from rhapsode.tokenization.training import train_tokenizer
from safetensors import safe_open
from transformers import AutoTokenizer

TASKS = {
    RhapsodeModel: "feature-extraction",
    RhapsodeForCausalLM: "text-generation",
    RhapsodeForSequenceClassification: "text-classification",
    RhapsodeForTokenClassification: "token-classification",
    RhapsodeForQuestionAnswering: "question-answering",
}
AUTO = {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"}
AUTO |= {"AutoModelForTokenClassification", "AutoModelForQuestionAnswering"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x\n" * 20], vocab_size=320, show_progress=False)


@pytest.fixture
def make(tokenizer, seed):
    def build(model_class=RhapsodeForCausalLM, **settings):
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        fields = {"vocab_size": len(tokenizer), **ends, **settings}
        return model_class(RhapsodeConfig.from_preset("rhapsode-10m-tiny", **fields)).eval()

    return build


def metadata(folder) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def weights(folder) -> dict:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return found


@pytest.mark.parametrize("model_class", TASKS, ids=lambda c: c.__name__)
def test_every_class_of_model(model_class, make, tokenizer, tmp_path):
    """By way of a directory, as `rhapsode export` does it: the class is the one that was saved, with its own head."""
    labels = {} if model_class in (RhapsodeModel, RhapsodeForCausalLM) else {"num_labels": 3}
    model = make(model_class, **({} if model_class is RhapsodeForQuestionAnswering else labels))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    folder = export(tmp_path / "saved", tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [model_class.__name__]
    assert set(config["auto_map"]) == AUTO
    found, expected = weights(folder), weights(tmp_path / "saved")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert metadata(folder)["pipeline_tag"] == TASKS[model_class]
    auto = model_class.__name__.replace("Rhapsode", "Auto", 1).replace("AutoFor", "AutoModelFor")
    assert f"{auto}.from_pretrained(" in (folder / "README.md").read_text()
    assert (folder / "generation_config.json").is_file() == (model_class is RhapsodeForCausalLM)


def test_contents(make, tokenizer, tmp_path):
    """Weights, settings, code, tokenizer and a card whose metadata the Hub can read."""
    folder = export(make(), tmp_path / "out", tokenizer, license="apache-2.0", name="owner/mine")
    for reference in json.loads((folder / "config.json").read_text())["auto_map"].values():
        assert (folder / f"{reference.split('.')[0]}.py").is_file()
    assert metadata(folder)["library_name"] == "transformers"
    assert metadata(folder)["license"] == "apache-2.0"
    assert (
        'AutoModelForCausalLM.from_pretrained("owner/mine", trust_remote_code=True)'
        in (folder / "README.md").read_text()
    )
    stops = [
        json.loads((folder / name).read_text())["eos_token_id"] for name in ("config.json", "generation_config.json")
    ]
    assert stops == [tokenizer.eos_token_id] * 2
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    assert not list(folder.rglob("*.bin"))


def test_the_code_is_the_packages_and_its_hash_is_in_the_card(make, tokenizer, tmp_path):
    """The oracle for the hash is the shell's, as the card says it."""
    folder = export(make(), tmp_path / "out", tokenizer)
    ours = package_files(folder)
    assert ours.keys() == {path.name for path in folder.glob("*.py")}
    assert len(ours) == 10
    for name, path in ours.items():
        assert path.read_bytes() == (folder / name).read_bytes()
        assert path.parent.name == "modeling"
    command = "LC_ALL=C sha256sum *.py | sha256sum"
    shell = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert shell.stdout.split()[0] == code_hash(folder) == metadata(folder)["code_sha256"]
    assert code_hash(folder) in verify(folder)


def test_a_baseline_brings_its_own_code(tokenizer, tmp_path, seed):
    model = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer), hidden_size=8, embedding_size=8))
    folder = export(model, tmp_path / "out", tokenizer)
    export(folder, tmp_path / "again")
    assert {path.name for path in folder.glob("*.py")} == package_files(folder).keys()
    assert "recurrent.py" in package_files(folder)
    assert verify(tmp_path / "again").startswith(f"{tmp_path / 'again'}: unchanged")


def test_shards(make, tokenizer, tmp_path):
    model = make()
    folder = export(model, tmp_path / "out", tokenizer, max_shard_size="100KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2 and files == {path.name for path in folder.glob("*.safetensors")}
    again = export(folder, tmp_path / "one")
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_an_export_in_another_number_format_leaves_the_model_as_it_was(make, tokenizer, tmp_path):
    model = make()
    export(model, tmp_path / "out", tokenizer, dtype="bfloat16")
    assert model.dtype == torch.float32
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.bfloat16}


def test_two_exports_are_equal_byte_for_byte(make, tokenizer, tmp_path):
    """So that an upload that is repeated finds everything there."""
    model = make()
    first, second = (export(model, tmp_path / name / "mine", tokenizer) for name in "ab")
    assert [p.name for p in sorted(first.iterdir())] == [p.name for p in sorted(second.iterdir())]
    assert all(path.read_bytes() == (second / path.name).read_bytes() for path in first.iterdir())


def test_refusals_leave_nothing(make, tokenizer, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        export(make(), tmp_path / "full")
    with pytest.raises(ValueError, match="nowhere"):
        export(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(ValueError, match="merge_and_unload"):
        export(object(), tmp_path / "new")
    with pytest.raises(ValueError, match="this is a model"):
        export(make(), tmp_path / "new", revision="v1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_weights_of_another_head_are_refused(make, tokenizer, tmp_path):
    """A head with random numbers in it is not published."""
    make().save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["architectures"] = ["RhapsodeForSequenceClassification"]
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lack score"):
        export(tmp_path / "saved", tmp_path / "out")
    (tmp_path / "saved" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter"):
        export(tmp_path / "saved", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_in_the_options_of_a_run_is_not_published(make, tokenizer, tmp_path):
    run = tmp_path / "run"
    make().save_pretrained(run)
    tokenizer.save_pretrained(run)
    token = "hf_" + "aB3" * 12
    (run / "config_resolved.yaml").write_text(f"# rhapsode pretrain --config config_resolved.yaml\nrun_name: {token}\n")
    with pytest.raises(ValueError, match=r"README\.md holds what looks like a Hugging Face token") as caught:
        export(run, tmp_path / "out")
    assert token not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_command(make, tokenizer, tmp_path, capsys):
    make().save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    out = tmp_path / "out"
    arguments = ["export", "--model", str(tmp_path / "saved"), "--output_dir", str(out), "--max_shard_size", "100KB"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert len(list(out.glob("*.safetensors"))) > 1
    assert main(["verify", str(out)]) == 0
    assert "unchanged" in capsys.readouterr().out
    missing = str(tmp_path / "nowhere" / "x")  # no name that the Hub could have: nothing is asked
    for extra, words in ((["--revision", "v1"], "leave it out"), (["--tokenizer", missing], f"tokenizer {missing}")):
        shutil.rmtree(out, ignore_errors=True)
        assert main([*arguments, *extra]) == 2
        error = capsys.readouterr().err
        assert words in error and error.strip().count("\n") == 0
        assert not out.exists()
