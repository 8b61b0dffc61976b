"""Writing text: time to the first token, prefill and decoding, of `generate` and of llama.cpp, on the same weights.

A step of decoding reads every weight once, and the cache of every text: no step can be faster than that takes at the
bandwidth of memory, nor than its products take; the slower of the two is the limit. All write greedily and as long.
"""

import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from ..generation.compiled import compiled_decoding
from .bench import Bench
from .figures import LESS, Figure, entries, round_shares
from .interleaving import OURS, PEER, Contender, Entrant
from .limits import BANDWIDTH, BF16, CONTENDER, FP32, entrant, values
from .turns import Turns, device
from .work import Design

LLAMA_CPP = "llama.cpp"
GGML_TYPES = {"float32": 0, "bfloat16": 30}  # ggml.h; llama-cpp-python does not name the second
PARTS = {  # what is reported of a unit: its unit, what is better, and the limit in words
    "first": ("s to the first token", LESS, "the products of the prompt at the peak of this number format"),
    "prefill": ("prompt tokens/s", "more", "the products of the prompt at the peak of this number format"),
    "decode": ("tokens/s", "more", "reading weights and cache once a step, or its products, whichever takes longer"),
}


class Stamps(BaseStreamer):
    """When each token came."""

    def __init__(self):
        self.times = []

    def put(self, value) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def generate(turns: Turns, model: str, dtype: str, rows: str, prompt: int, new: int, batches: list, compiled: bool):
    """`generate` of whatever class the directory has; a unit writes `batch` texts."""
    written = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device()).eval()
    prompts = torch.from_numpy(np.load(rows)[:, :prompt]).to(device())
    for ids in (written.config, written.generation_config):
        ids.eos_token_id, ids.pad_token_id = None, 0  # nothing ends a text early
    settings = {"max_new_tokens": new, "do_sample": False}

    def unit(batch: int) -> dict:
        ids, stamps = prompts.repeat(-(-batch // len(prompts)), 1)[:batch], Stamps()
        loop = compiled_decoding(written, stamps) if compiled else {}
        start = time.perf_counter()
        out = written.generate(ids, attention_mask=torch.ones_like(ids), streamer=stamps, **settings, **loop)
        assert out.shape == (batch, prompt + new), f"{tuple(out.shape)} in place of {(batch, prompt + new)}"
        first, last = stamps.times[1], stamps.times[-1]  # the first stamp is that of the prompt
        return _parts(batch, prompt, new, first - start, last - first) | {"text": out[0, prompt:].tolist()}

    for batch in batches:
        unit(batch)
    turns.ready()
    turns.serve(unit)


def llama_cpp(turns: Turns, path: str, dtype: str, rows: str, prompt: int, new: int, batches: list, compiled: bool):
    """llama.cpp by llama-cpp-python, one text at a time; the cache has the weights' number format."""
    import llama_cpp as library

    if not Path(path).exists():
        raise ValueError("no GGUF file of this model: llama.cpp does not have it, or the package gguf is missing")
    kind = GGML_TYPES[dtype]
    threads = torch.get_num_threads()
    model = library.Llama(
        path,
        **{"n_ctx": prompt + new, "n_batch": prompt, "n_threads": threads, "n_threads_batch": threads},
        **{"type_k": kind, "type_v": kind, "verbose": False},
    )
    ids = np.load(rows)[0, :prompt].tolist()

    def unit(batch: int) -> dict:
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        text = [model.sample(temp=0.0)]
        first = time.perf_counter()
        while len(text) < new:
            model.eval(text[-1:])
            text.append(model.sample(temp=0.0))
        return _parts(1, prompt, new, first - start, time.perf_counter() - first) | {"text": text}

    unit(1)
    turns.ready()
    turns.serve(unit)


def _parts(batch: int, prompt: int, new: int, first: float, rest: float) -> dict:
    return {"first": first, "prefill": batch * prompt / first, "decode": batch * (new - 1) / rest}


def measure(bench: Bench) -> list[Figure]:
    cases = [(design, dtype) for design in bench.designs for dtype in bench.options.decode_dtypes]
    return [figure for i, case in enumerate(cases) for figure in _measure(bench, *case, 1 / (len(cases) - i))]


def _measure(bench: Bench, design: Design, dtype: str, share: float) -> list[Figure]:
    o, section = bench.options, f"decoding {design.name} {dtype}"
    all_contenders = contenders(bench, design, dtype)
    kinds = {c.name: c.kind for c in all_contenders}
    peak = BF16 if dtype == "bfloat16" else FP32
    with bench.stage(section, [CONTENDER, *all_contenders]) as stage:
        entrants = [
            Entrant(f"{name}, batch {batch}", name, {"batch": batch}, units=2)
            for batch in o.decode_batches
            for name in kinds
            if name != LLAMA_CPP or batch == 1
        ]
        turns = [entrant(BANDWIDTH), entrant(peak), *entrants]
        samples = bench.take_turns(stage, section, turns, share=share)
        faults = dict(stage.faults)
    bench.checks[section] = same_text(samples)
    figures = []
    for batch in o.decode_batches:
        if batch > 1 and LLAMA_CPP in kinds:
            faults[LLAMA_CPP] = "llama-cpp-python writes one text at a time"
        limit = limits_of(design, dtype, batch, o, values(samples, BANDWIDTH), values(samples, peak))
        for part, (unit, better, words) in PARTS.items():
            found = {name: [s[part] for s in samples.get(f"{name}, batch {batch}", [])] for name in kinds}
            rows = entries(found, kinds, faults)
            for entry in rows:
                shares = round_shares(entry.values, limit[part])
                entry.shares = [1 / share for share in shares] if better == LESS else shares
            what = f"{design.name}, {dtype}, batch {batch}, {o.prompt_tokens} + {o.new_tokens} tokens"
            figures.append(Figure("decoding", what, unit, rows, better, words))
    return figures


def contenders(bench: Bench, design: Design, dtype: str) -> list[Contender]:
    o = bench.options
    shared = {"dtype": dtype, "rows": str(bench.work / "rows.npy"), "prompt": o.prompt_tokens, "new": o.new_tokens}
    shared |= {"batches": o.decode_batches, "compiled": False}
    target = f"{__name__}:generate"
    found = [Contender("rhapsode", target, OURS, {"model": design.ours} | shared)]
    compiled = shared | {"compiled": True}
    if o.torch_compile:
        found.append(Contender("rhapsode compiled", target, OURS, {"model": design.ours} | compiled))
    if bench.peers("llama") and design.family:
        found.append(Contender(f"{design.family} generate", target, PEER, {"model": design.foreign} | shared))
        if o.torch_compile and device().type != "cpu":  # transformers itself compiles on accelerators only
            name = f"{design.family} generate compiled"
            found.append(Contender(name, target, PEER, {"model": design.foreign} | compiled))
    if bench.peers("llama_cpp"):
        arguments = {"path": str(design.gguf(dtype))} | shared
        found.append(Contender(LLAMA_CPP, f"{__name__}:llama_cpp", PEER, arguments))
    return found


def limits_of(design: Design, dtype: str, batch: int, options, bandwidth: list, peak: list) -> dict[str, list[float]]:
    """Of each part the best that the machine allows, round by round."""
    config, size = design.config, getattr(torch, dtype).itemsize
    prompt, new, matrices = options.prompt_tokens, options.new_tokens, design.matrix_parameters
    without_head = matrices - config.vocab_size * config.hidden_size  # the prompt's logits are those of its last token
    first = [2 * batch * prompt * without_head / flops for flops in peak]
    values_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    read = size * (matrices + batch * values_a_token * (prompt + new / 2))
    step = [max(read / b, 2 * batch * matrices / flops) for b, flops in zip(bandwidth, peak, strict=False)]
    return {"first": first, "prefill": [batch * prompt / s for s in first], "decode": [batch / s for s in step]}


def same_text(samples: dict[str, list[dict]]) -> dict:
    """How many tokens of each contender's text are those of Rhapsode's `generate`, up to the first that is not."""
    texts = {name: rows[0]["text"] for name, rows in samples.items() if rows and "text" in rows[0]}
    for rows in samples.values():
        for sample in rows:
            sample.pop("text", None)
    reference = next((text for name, text in texts.items() if name.startswith("rhapsode,")), [])
    equal = {name: [a == b for a, b in zip(text, reference, strict=False)] for name, text in texts.items()}
    return {
        "tokens": len(reference),
        "equal_tokens": {name: same.index(False) if False in same else len(same) for name, same in equal.items()},
    }
