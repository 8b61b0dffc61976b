"""`rhapsode COMMAND ...`: finds the command, reads its options, runs its recipe, and turns errors into one line.

A command is a row of `GROUPS`: what it does and the dataclass of its options, which lies in `options/COMMAND.py`. The
module `COMMAND.py` has the `run(options)` that does it. Only the modules of the command that is run get imported.
"""

import importlib
import os
import sys
from difflib import get_close_matches
from typing import NamedTuple

from .options.base import UserError, one_line, parse
from .process import bars_for_terminals, tune_process


class Command(NamedTuple):
    summary: str
    options: str


GROUPS = {
    "see what there is": {
        "demo": Command("all of it on the standard library, offline", "DemoOptions"),
        "presets": Command("print the named designs and what they cost", "PresetsOptions"),
    },
    "train": {
        "tokenizer": Command("train a tokenizer", "TokenizerOptions"),
        "pretrain": Command("train a language model from raw text", "PretrainOptions"),
        "scaling": Command("fit scaling laws on a ladder of sizes, and predict a larger model", "ScalingOptions"),
        "compare": Command("architectures side by side, at equal data and at equal time", "CompareOptions"),
    },
    "align and specialise": {
        "sft": Command("teach a base model to answer", "SftOptions"),
        "reward": Command("train a reward model on pairs of answers", "RewardOptions"),
        "dpo": Command("prefer the better of two answers, without a reward model", "DpoOptions"),
        "kto": Command("learn from single answers marked good or bad", "KtoOptions"),
        "ppo": Command("learn from a reward model, with a penalty for going far", "PpoOptions"),
        "grpo": Command("learn from rewards, by comparing answers to the same prompt", "GrpoOptions"),
        "rloo": Command("the same, against the mean of the other answers", "RlooOptions"),
        "distill": Command("a larger teacher into a smaller student", "DistillOptions"),
        "abstain": Command("find out what a model does not know, and teach it to say so", "AbstainOptions"),
        "classify": Command("train a classifier of texts", "ClassifyOptions"),
    },
    "measure": {
        "evaluate": Command("bits per byte of text, tasks, memorisation, each with its interval", "EvaluateOptions"),
        "inspect": Command("a page about what a model makes of a text, or the drawing of a design", "InspectOptions"),
        "report": Command("report.md and curves of runs, finished or not, or a comparison", "ReportOptions"),
        "bench": Command(
            "speed and memory beside other trainers and runtimes, and the machine's limits", "BenchOptions"
        ),
    },
    "use": {
        "generate": Command("continue a text", "GenerateOptions"),
        "chat": Command("talk with a model that answers, with tools and documents", "ChatOptions"),
        "serve": Command("an HTTP server in OpenAI's protocol", "ServeOptions"),
    },
    "convert and publish": {
        "convert": Command("open another family's checkpoint, or write one, or a GGUF file", "ConvertOptions"),
        "quantize": Command("int8 or int4 weights, and what they cost in bits per byte", "QuantizeOptions"),
        "export": Command("write a self-contained Hub repository", "ExportOptions"),
        "push": Command("publish a model on the Hub", "PushOptions"),
        "verify": Command("whether the code that a model brings is Rhapsode's, before it runs", "VerifyOptions"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

# What not all commands need, and the extra that brings it.
EXTRAS = {"trl": "align", "peft": "align", "sklearn": "align", "bm25s": "chat", "jsonschema": "chat"}
EXTRAS |= {"lm_eval": "harness"}
EXTRAS |= {"gguf": "gguf", "torchao": "quantize", "fastapi": "serve", "uvicorn": "serve", "openai": "serve"}


def run_command(name: str, arguments: list[str]) -> int:
    """Run one command; returns the exit status: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    command = COMMANDS[name]
    try:
        options_class = getattr(importlib.import_module(f".options.{name}", __package__), command.options)
        options = parse(options_class, arguments, f"rhapsode {name}", options_class.__doc__)
        tune_process()
        recipe = importlib.import_module(f".{name}", __package__)
        with bars_for_terminals():
            recipe.run(options)
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes all find the same fault
            print(f"rhapsode {name}: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a directory that is not ours to write: nothing that a traceback explains
        if isinstance(error, BrokenPipeError):  # `rhapsode ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print goes nowhere
            return 0
        print(f"rhapsode {name}: {one_line(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        print(f"rhapsode {name}: needs {error.name}; pip install 'rhapsode[{extra}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rhapsode {name}: stopped", file=sys.stderr)
        return 130
    return 0


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name == "--version":
        from .. import __version__

        print(f"rhapsode {__version__}")
        return 0
    if name not in COMMANDS:
        nearest = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "see rhapsode --help"
        print(f"rhapsode: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    return run_command(name, rest)


def _overview() -> str:
    groups = (
        "\n".join([f"{title}:", *(f"  {name:<12}{command.summary}" for name, command in group.items())])
        for title, group in GROUPS.items()
    )
    return "\n\n".join(
        [
            "usage: rhapsode COMMAND [--config FILE.yaml] [--option VALUE ...]\n"
            "       rhapsode COMMAND --help\n"
            "       rhapsode --version",
            "One decoder language model for every open design, from raw text to a published model.",
            *groups,
            "rhapsode COMMAND --help: what a command does, examples, and all options with their defaults and units.\n"
            "Several processes: accelerate launch -m rhapsode.recipes.COMMAND ...",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
