"""The base model: a tokenizer, a model of about 10M parameters, what it is compared with, a sample, an export."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

from .. import export as export_command
from .. import pretrain
from .. import tokenizer as tokenizer_command
from ..baselines.ngram import ByteNGram
from ..data.corpus import read_documents
from ..generation.writing import continue_text
from ..options.base import parse
from ..options.demo import DemoOptions
from ..options.export import ExportOptions
from ..options.pretrain import PretrainOptions
from ..options.tokenizer import TokenizerOptions
from ..reporting.report import write_report
from ..training.setup import load_model, load_tokenizer

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
VOCABULARY = 24_576
PROMPT = "def read_text(path):\n"
WITHOUT_RHAPSODE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rhapsode":
            raise ModuleNotFoundError("rhapsode is blocked in this process")

sys.meta_path.insert(0, Blocked())
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer(prompt, return_tensors="pt")
out = model.generate(**ids, max_new_tokens=16, do_sample=False)
assert "rhapsode" not in sys.modules
print(tokenizer.decode(out[0], skip_special_tokens=True))
"""


def tokenizer(options: DemoOptions) -> dict:
    asked = TokenizerOptions(vocab_size=VOCABULARY, output_dir=f"{options.output_dir}/tokenizer", seed=options.seed)
    tokenizer_command.run(asked)
    return {}


def model(options: DemoOptions) -> dict:
    root = options.output_dir
    flags = ["--tokenizer", f"{root}/tokenizer", "--output_dir", f"{root}/model", "--overwrite_output_dir"]
    flags += ["--max_seconds", str(options.max_seconds), "--seed", str(options.seed), "--config", str(CONFIG)]
    pretrain.run(parse(PretrainOptions, flags, "rhapsode pretrain", None))
    results = json.loads(Path(root, "model", "results.json").read_text(encoding="utf-8"))
    return {key: results[key] for key in ("parameters", "tokens", "eval_bytes", "eval_bits_per_byte")}


def baselines(options: DemoOptions) -> dict:
    """What a byte 5-gram and gzip make of the same held-out text; put into results.json and the report."""
    train, held_out = (
        "\n".join(d.text for d in read_documents(["stdlib"], split)).encode() for split in ("train", "validation")
    )
    found = {
        "byte 5-gram, Kneser-Ney": ByteNGram(5).fit(train).bits_per_byte(held_out),
        "gzip -9": 8 * len(gzip.compress(held_out, 9)) / len(held_out),
    }
    directory = Path(options.output_dir, "model")
    results = json.loads((directory / "results.json").read_text(encoding="utf-8")) | {"baselines": found}
    (directory / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    write_report(directory)
    return found


def sample(options: DemoOptions) -> dict:
    directory = f"{options.output_dir}/model"
    writer, words = load_model(directory).eval(), load_tokenizer(directory)
    return {"text": PROMPT + continue_text(writer, words, PROMPT, 100, seed=options.seed)}


def export(options: DemoOptions) -> dict:
    directory = Path(options.output_dir, "export")
    shutil.rmtree(directory, ignore_errors=True)  # of a demo that was interrupted here
    export_command.run(ExportOptions(model=f"{options.output_dir}/model", output_dir=str(directory)))
    return {"text": open_without_rhapsode(directory)}


def open_without_rhapsode(directory: Path) -> str:
    command = [sys.executable, "-c", WITHOUT_RHAPSODE, str(directory.resolve()), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=directory, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the export does not open:\n{done.stderr}")
    return done.stdout.rstrip()
