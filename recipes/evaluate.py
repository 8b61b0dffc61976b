"""Evaluating a language model on held-out text: perplexity, and bits per byte, which compares across tokenizers."""

import json
import sys
from functools import partial
from itertools import islice

import torch
import transformers

from .cli import run_command
from .data.corpus import read_documents
from .data.tokens import tokenize
from .options.base import UserError
from .options.evaluate import EvaluateOptions
from .training.scoring import Score, score_documents
from .training.setup import load_model, load_tokenizer

LONGEST_BY_DEFAULT = 2048


def run(options: EvaluateOptions) -> None:
    tokenizer = load_tokenizer(options.model, trust_remote_code=options.trust_remote_code)
    model = load_model(options.model, trust_remote_code=options.trust_remote_code).eval()
    length, stride = _window(options, model)
    documents = read_documents(options.dataset, options.split, options.text_column)
    stream = tokenize(islice(documents, options.max_documents), tokenizer, f"tokens of {options.split}")
    autocast = partial(torch.autocast, model.device.type, torch.bfloat16) if options.bf16 else None
    score = score_documents(model, stream, length, stride, options.batch_size, autocast, show_progress=True)
    result = summary(score) | {
        "model": options.model,
        "dataset": options.dataset,
        "split": options.split,
        "max_length": length,
        "stride": stride,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if options.json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:<{width}}  {value:,.4f}" if isinstance(value, float) else f"{key:<{width}}  {value}")


def summary(score: Score) -> dict:
    return {
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
        "loss": score.loss,
        "documents": len(score.nats),
        "tokens": int(score.targets.sum()),
        "bytes": int(score.num_bytes.sum()),
    }


def _window(options: EvaluateOptions, model) -> tuple[int, int]:
    """(length, stride) of the sliding window, in tokens."""
    longest = getattr(model.config, "max_position_embeddings", None)
    length = options.max_length or min(longest or LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT)
    if longest and length > longest:
        raise UserError(f"--max_length {length} is longer than the model's {longest} positions")
    stride = options.stride or length // 2
    if stride >= length:
        raise UserError(f"--stride {stride} leaves no context in a window of {length} tokens; make it less")
    return length, stride


if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
