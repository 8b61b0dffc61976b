"""Weights in int8 or int4, and what they cost.

    int8   w = s_r q     one scale s for each row r of a matrix, q in -128 .. 127
    int4   w = s_rg q    one for each group g of neighbours in a row, q in -8 .. 7

by torchao's weight-only quantization. The format of int4 that it has for every processor keeps each value in a byte of
its own: the file is not smaller than that of int8.
"""

import json
import shutil
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
from torchao.utils import TorchAOBaseTensor
from transformers import TorchAoConfig

from .cli import run_command
from .data.corpus import read_documents
from .data.tokens import TokenStream, tokenize
from .options.base import RESOLVED, UserError, save_resolved
from .options.output import check_parents
from .options.quantize import QuantizeOptions
from .training.scoring import score_documents
from .training.setup import load_model, load_pair

LONGEST_BY_DEFAULT = 2048
RESULTS = "results.json"


def run(options: QuantizeOptions) -> None:
    directory = new_directory(options)
    before, tokenizer = load_pair(options.model, dtype=options.dtype)
    if getattr(before.config, "quantization_config", None):
        raise UserError(f"--model {options.model} is quantized already; give the model that it was made from")
    check_groups(options, before)
    documents = read_documents(options.dataset, options.split, options.text_column)
    stream = tokenize(islice(documents, options.max_documents), tokenizer, f"tokens of {options.split}")
    measure_one = partial(measure, options=options, stream=stream)
    rows = {"before": measure_one(before) | {"mebibytes": mebibytes(before)}}
    del before
    after = load_model(options.model, dtype=options.dtype, quantization_config=TorchAoConfig(scheme(options)))
    temporary = directory.with_name(f".unfinished-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        after.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        again = load_model(str(temporary), dtype="auto")  # what is measured is what was written
        rows["after"] = measure_one(again) | {"mebibytes": mebibytes(again)}
        result = rows | {"weights": options.weights, "quantized_parameters": quantized_share(again)}
        (temporary / RESULTS).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        save_resolved(options, temporary / RESOLVED, "quantize")
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(json.dumps(result) if options.json else f"{table(options, result)}\n{directory}")


def new_directory(options: QuantizeOptions) -> Path:
    if options.output_dir is None:
        raise UserError("--output_dir is missing; name a new directory")
    directory = Path(options.output_dir)
    check_parents("output_dir", directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"--output_dir {directory} is not empty; name a new directory")
    return directory


def scheme(options: QuantizeOptions):
    """As torchao calls it. Formats that pack two int4 values into a byte are for GPUs alone."""
    if options.weights == "int8":
        return Int8WeightOnlyConfig()
    return IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(options.group_size))


def check_groups(options: QuantizeOptions, model) -> None:
    """torchao would end with an assertion."""
    if options.weights == "int8":
        return
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and module.in_features % options.group_size:
            raise UserError(
                f"--group_size {options.group_size} does not divide the {module.in_features} columns of {name}; "
                "use one that divides all matrices"
            )


def measure(model, options: QuantizeOptions, stream: TokenStream) -> dict:
    longest = getattr(model.config, "max_position_embeddings", None) or LONGEST_BY_DEFAULT
    if options.max_length is not None and options.max_length > longest:
        raise UserError(f"--max_length {options.max_length} is longer than the model's {longest} positions")
    length = options.max_length or min(longest, LONGEST_BY_DEFAULT)
    score = score_documents(model.eval(), stream, length, length // 2, options.batch_size, show_progress=True)
    return {"bits_per_byte": score.bits_per_byte, "perplexity": score.perplexity}


def stored(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a parameter is kept as: itself, or values, scales and zero points."""
    if not isinstance(tensor, TorchAOBaseTensor):
        return [tensor]
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


def mebibytes(model) -> float:
    """Of the weights, in memory and in the file."""
    parts = [part for parameter in model.parameters() for part in stored(parameter.data)]
    return sum(part.numel() * part.element_size() for part in parts) / 2**20


def quantized_share(model) -> float:
    """The share of the parameters that are int8 or int4 now."""
    sizes = [(p.numel(), isinstance(p.data, TorchAOBaseTensor)) for p in model.parameters()]
    return sum(size for size, is_quantized in sizes if is_quantized) / sum(size for size, _ in sizes)


def table(options: QuantizeOptions, result: dict) -> str:
    rows = [f"{'':<12}{'MiB':>10}{'bits per byte':>16}{'perplexity':>14}"]
    for name, row in (("before", result["before"]), (options.weights, result["after"])):
        rows.append(f"{name:<12}{row['mebibytes']:>10,.1f}{row['bits_per_byte']:>16.4f}{row['perplexity']:>14.3f}")
    rows.append(f"{result['quantized_parameters']:.1%} of the parameters are {options.weights}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(run_command("quantize", sys.argv[1:]))
