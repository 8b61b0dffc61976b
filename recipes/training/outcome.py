"""The files of a run directory: what stands in it from the beginning, and what a finished run leaves."""

import json
from contextlib import suppress
from dataclasses import asdict

import torch
import transformers

from ..generation.writing import continue_text
from ..options.base import RESOLVED, UserError, save_resolved, write_whole
from ..reporting.report import save_facts, write_report
from . import setup
from .metrics import flops_per_token
from .parallel import whole_model
from .scoring import Score
from .sealing import replacing


def begin(current) -> None:
    """On the main process, before the first step: the directory, the options, the tokenizer, the facts."""
    options = current.options
    current.tokenizer.model_max_length = current.length
    with setup.made_directory(options) as directory:
        save_resolved(options, directory / RESOLVED, "pretrain")
        current.tokenizer.save_pretrained(directory)
        save_facts(directory, facts(current))


def facts(current) -> dict:
    """What was known before the first step."""
    model = current.model
    return {
        "parameters": model.num_parameters(),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "architecture": current.options.architecture,
        "precision": str(current.precision),
        "processes": current.parallel.accelerator.num_processes,
        "parallelism": current.parallel.strategy,
        "device": str(current.parallel.accelerator.device),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "total_steps": current.total_steps,
        "tokens_per_step": current.batches.full * current.batches.rows_per_pass * current.length,
        "flops_per_token": flops_per_token(model, current.length),
        "data": current.rows.statistics,
    }


def write(current, score: Score, sums: dict):
    """The model in the standard format, samples, results and the report, whose path is returned; all processes call it.

    The weights are the average, where there is one.
    """
    if current.average:
        with current.average.in_place_of_weights(current.model):
            model = whole_model(current.model, current.parallel.is_main)
    else:
        model = whole_model(current.model, current.parallel.is_main)
    path = _write(current, model, score, sums) if current.parallel.is_main else None
    return current.parallel.from_main(path)


def _write(current, model, score: Score, sums: dict):
    directory, options = current.directory, current.options
    model.config.use_cache = True
    with replacing(directory) as folder:
        model.save_pretrained(folder)
    documents = current.validation.documents()[:3]
    prompts = [current.tokenizer.decode(ids[:24], skip_special_tokens=True) for ids in documents]
    room = max(1, min(options.sample_tokens, current.length - 32))
    results = {
        **asdict(current.progress),
        **sums,
        "parameters": model.num_parameters(),
        "eval_loss": score.loss,
        "eval_perplexity": score.perplexity,
        "eval_bits_per_byte": score.bits_per_byte,
        "eval_tokens": int(score.targets.sum()),
        "eval_bytes": int(score.num_bytes.sum()),
    }
    with suppress(UserError):  # of a model whose numbers are no longer finite nothing can be drawn
        results["samples"] = [(p, continue_text(model, current.tokenizer, p, room, options.seed)) for p in prompts]
    write_whole(directory / "results.json", json.dumps(results, indent=1))
    return write_report(directory)
