"""No call that can run what a file says is anywhere in the package: pickles, evaluated text, unsafe YAML, shells."""

import ast
import pickle
from pathlib import Path

import pytest
import rhapsode
from rhapsode.recipes.training.sealing import MANIFEST, seal

ROOT = Path(rhapsode.__file__).parent
FOLDERS = ("modeling", "tokenization", "hub", "recipes")
SOURCES = [*ROOT.glob("*.py"), *(path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py")))]
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
EVALUATING = {"eval", "exec", "__import__"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an expression that is written so."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def given(call: ast.Call, name: str):
    """The constant that a keyword has; None without it, and for what is computed."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def faults(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"imports {name}" for name in names if name.partition(".")[0] in PICKLING]
        elif isinstance(node, ast.Call):
            name, last = name_of(node.func), name_of(node.func).rpartition(".")[2]
            is_faulty = (
                name in EVALUATING
                or (name in ("torch.load", "torch.jit.load") and given(node, "weights_only") is not True)
                or (last == "load" and name.startswith(("np.", "numpy.")) and given(node, "allow_pickle"))
                or (name.startswith("yaml.") and last in UNSAFE_YAML)
                or last in ("add_safe_globals", "load_from_disk")
                or name in ("os.system", "os.popen")
                or given(node, "shell") is True
                or given(node, "trust_remote_code") is True
                or given(node, "use_safetensors") is False
            )
            found += [f"line {node.lineno}: {name}"] * is_faulty
    return found


def test_nothing_in_the_package_runs_what_a_file_says():
    assert len(SOURCES) > 150
    found = {path.relative_to(ROOT): faults(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, use_safetensors=False)",
    ],
)
def test_the_search_would_find_it(code):
    assert faults(code)


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_to_resume_from_cannot_run_anything(place, tmp_path, capsys):
    """The alignment commands resume by transformers' Trainer, which reads optimizer and random states with torch."""
    from rhapsode.recipes.cli import main

    run = ["sft", "--model", place["m"], "--dataset", place["chats"], "--eval_dataset", place["chats"]]
    run += ["--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--save_steps", "1", "--eval_prompts", "0"]
    assert main(run) == 0
    (newest,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-2")
    harmful = [newest / name for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")]
    for path in harmful:
        assert path.exists(), path
        path.write_bytes(pickle.dumps(Bomb(tmp_path / f"{path.name} ran")))
    bomb = harmful[0].read_bytes()
    (newest / MANIFEST).unlink()
    seal(newest.rename(newest.with_name("sealed anew")), newest)  # whoever can write files can write hashes
    assert main([*run, "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("rhapsode sft: ") and str(newest) in line and "is not read" in line
    assert sorted(tmp_path.glob("* ran")) == []
    pickle.loads(bomb)  # it does go off where nobody takes care
    assert [path.name for path in tmp_path.glob("* ran")] == ["optimizer.pt ran"]
