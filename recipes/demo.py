"""The demo: every station from raw text to a published model, with the time that each takes.

It only calls the other commands, so that each of its stations can be run by hand.
"""

import gzip
import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from . import export as export_command
from . import pretrain, tokenizer
from .baselines.ngram import ByteNGram
from .cli import run_command
from .data.corpus import read_documents
from .generate import continue_text
from .options.base import UserError, parse
from .options.demo import DemoOptions
from .options.export import ExportOptions
from .options.pretrain import PretrainOptions
from .options.tokenizer import TokenizerOptions
from .training.report import write_report
from .training.setup import load_model, load_tokenizer

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
MARKER = "rhapsode-demo"
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


def run(options: DemoOptions) -> None:
    clock = Clock()
    root = fresh_directory(Path(options.output_dir))
    run_directory, export_directory = root / "model", root / "export"
    with clock.station("train the tokenizer"):
        vocabulary = str(root / "tokenizer")
        tokenizer.run(TokenizerOptions(vocab_size=VOCABULARY, output_dir=vocabulary, seed=options.seed))
    with clock.station("train the model"):
        flags = ["--tokenizer", vocabulary, "--output_dir", str(run_directory), "--seed", str(options.seed)]
        flags += ["--max_seconds", str(options.max_seconds), "--config", str(CONFIG)]
        pretrain.run(parse(PretrainOptions, flags, "rhapsode pretrain", None))
    with clock.station("measure the baselines"):
        results = add_baselines(run_directory)
    with clock.station("write a sample"):
        model, words = load_model(str(run_directory)).eval(), load_tokenizer(str(run_directory))
        sample = PROMPT + continue_text(model, words, PROMPT, 100, seed=options.seed)
    with clock.station("export, and open the export without Rhapsode"):
        export_command.run(ExportOptions(model=str(run_directory), output_dir=str(export_directory)))
        continued = open_without_rhapsode(export_directory)
    print(f"\nsample\n\n{indent(sample)}\n\nthe export, opened where Rhapsode cannot be imported, goes on greedily\n")
    print(f"{indent(continued)}\n\nvalidation, in bits per byte ({results['eval_bytes']:,} bytes held out)\n")
    scores = {f"this model ({results['parameters'] / 1e6:.1f}M parameters)": results["eval_bits_per_byte"]}
    for name, score in (scores | results["baselines"]).items():
        print(f"  {name:<36}{score:6.3f}")
    print(f"\nwhere the time went\n\n{clock.table()}\n\nreport: {run_directory / 'report.md'}")


class Clock:
    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def station(self, name: str):
        print(f"\n== {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def table(self) -> str:
        rows = self.seconds | {"together": sum(self.seconds.values())}
        return "\n".join(f"  {name:<46}{seconds:6.1f} s" for name, seconds in rows.items())


def fresh_directory(root: Path) -> Path:
    """An empty directory; what an earlier demo left there is deleted, anything else is not."""
    if root.exists() and any(root.iterdir()) and not (root / MARKER).exists():
        raise UserError(f"--output_dir {root} holds files that are not a demo's; name another directory")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARKER).touch()
    return root


def add_baselines(directory: Path) -> dict:
    """What a byte 5-gram and gzip make of the same held-out text; put into results.json and the report."""
    train, held_out = (
        "\n".join(d.text for d in read_documents(["stdlib"], split)).encode() for split in ("train", "validation")
    )
    baselines = {
        "byte 5-gram, Kneser-Ney": ByteNGram(5).fit(train).bits_per_byte(held_out),
        "gzip -9": 8 * len(gzip.compress(held_out, 9)) / len(held_out),
    }
    path = directory / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) | {"baselines": baselines}
    path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    write_report(directory)
    return results


def open_without_rhapsode(directory: Path) -> str:
    command = [sys.executable, "-c", WITHOUT_RHAPSODE, str(directory.resolve()), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=directory, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the export does not open:\n{done.stderr}")
    return done.stdout.rstrip()


def indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(run_command("demo", sys.argv[1:]))
