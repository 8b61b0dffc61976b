"""The work that all contenders are given: the same weights, in our format and in the families' own, and the same rows.

WORK/rows.npy                (N, T) ids: documents one after the other, cut, every position a target
WORK/documents.npz           the ids of all documents and where each begins, for packing
WORK/tokenizer/
WORK/PRESET/rhapsode/        the model with its tokenizer
WORK/PRESET/foreign/         the same weights for the family's own class: LlamaForCausalLM, Qwen3ForCausalLM, ...
WORK/PRESET/DTYPE.gguf       the same for llama.cpp
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, set_seed

from ...hub.families import FAMILIES, family_named
from ...hub.family import to_family
from ...hub.foreign import save_foreign
from ...modeling import RhapsodeConfig, RhapsodeForCausalLM
from ...tokenization.training import train_tokenizer
from ..data.corpus import read_documents
from ..data.tokens import tokenize
from ..options.base import UserError
from ..options.bench import LLAMA_30M, BenchOptions
from ..training.metrics import flops_per_token, matrix_parameters
from ..training.setup import load_tokenizer, parse_overrides

SHAPES = {  # beside the presets: what LlamaForCausalLM computes, of a size that two cores train
    LLAMA_30M: {
        **{"vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
        **{"num_key_value_heads": 8, "intermediate_size": 1408, "max_position_embeddings": 512},
        **{"qk_norm": "none", "tie_word_embeddings": True, "norm_eps": 1e-6},
    }
}


@dataclass
class Design:
    """One of the models: what it costs, and which family's class computes the same, or why none does."""

    name: str
    directory: Path
    config: RhapsodeConfig
    parameters: int
    matrix_parameters: int
    flops_per_token: float
    family: str | None
    no_family: str | None = None

    @property
    def ours(self) -> str:
        return str(self.directory / "rhapsode")

    @property
    def foreign(self) -> str:
        return str(self.directory / "foreign")

    def gguf(self, dtype: str) -> Path:
        return self.directory / f"{dtype}.gguf"

    def describe(self) -> dict:
        keys = ("parameters", "matrix_parameters", "flops_per_token", "family", "no_family")
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        shape = {key: getattr(self.config, key) for key in (*sizes, "intermediate_size", "tie_word_embeddings")}
        return {"name": self.name} | {key: getattr(self, key) for key in keys} | shape


def prepare_text(options: BenchOptions, directory: Path) -> None:
    """The tokenizer and the rows."""
    vocabulary = min(config_of(options, name).vocab_size for name in options.preset)
    texts = read_texts(options)
    try:
        tokenizer = (
            load_tokenizer(options.tokenizer)
            if options.tokenizer
            else train_tokenizer((d.text for d in texts), vocab_size=vocabulary, show_progress=False)
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"tokenizer: {error}") from error
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"--tokenizer {options.tokenizer} has {len(tokenizer)} entries and a design {vocabulary}; "
            f"add --config_overrides vocab_size={len(tokenizer)}"
        )
    tokenizer.save_pretrained(directory / "tokenizer")
    stream = tokenize(texts, tokenizer, "tokens", show_progress=False)
    count = stream.num_tokens // options.length
    if count < options.batch:
        raise UserError(
            f"--dataset {' '.join(options.dataset)}: {stream.num_tokens} tokens in the first {options.text_bytes} "
            f"bytes, fewer than one batch of {options.batch} x {options.length}; give more text or larger --text_bytes"
        )
    rows = stream.ids[: count * options.length].reshape(count, options.length).astype(np.int64)
    np.save(directory / "rows.npy", np.random.default_rng(options.seed).permutation(rows))
    np.savez(directory / "documents.npz", ids=stream.ids, starts=stream.starts, num_bytes=stream.num_bytes)


def read_texts(options: BenchOptions) -> list:
    """The first documents of the data, `text_bytes` of them together, and at least one."""
    found, size = [], 0
    for document in read_documents(options.dataset, "train"):
        found.append(document)
        size += len(document.text.encode("utf-8", "surrogatepass"))
        if size >= options.text_bytes:
            break
    return found


def config_of(options: BenchOptions, name: str) -> RhapsodeConfig:
    overrides = parse_overrides(options.config_overrides)
    overrides.setdefault("pad_token_id", None)
    try:
        if name in SHAPES:
            return RhapsodeConfig(**SHAPES[name] | {"max_position_embeddings": options.length} | overrides)
        return RhapsodeConfig.from_preset(name, **overrides)
    except Exception as error:  # ValueError, and the strict dataclass's own kinds for a value of the wrong type
        raise UserError(f"--preset {name} with {overrides}: {error}") from error


def prepare_design(options: BenchOptions, name: str, directory: Path) -> Design:
    """Weights that know nothing, written for all who open them."""
    config = config_of(options, name)
    if options.length > config.max_position_embeddings:
        raise UserError(f"--length {options.length} is longer than the {config.max_position_embeddings} of {name}")
    set_seed(options.seed)
    model = RhapsodeForCausalLM(config)
    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    design = Design(
        name,
        directory / name,
        config,
        sum(p.numel() for p in model.parameters()),
        matrix_parameters(model),
        flops_per_token(model, options.length),
        *family_of(config),
    )
    model.save_pretrained(design.ours)
    tokenizer.save_pretrained(design.ours)
    if design.family:
        save_foreign(model, design.foreign, design.family)
    if "llama_cpp" in options.peers and "decoding" in options.measure:
        _save_gguf(model, tokenizer, design, options)
    return design


def family_of(config: RhapsodeConfig) -> tuple[str | None, str | None]:
    """The first family whose class computes the same network, Llama before others; or what Llama lacks."""
    reasons = []
    for name in ("llama", "qwen3", *FAMILIES):
        try:
            to_family(family_named(name), config)
            return name, None
        except ValueError as error:
            reasons.append(str(error))
    return None, reasons[0]


def _save_gguf(model, tokenizer, design: Design, options: BenchOptions) -> None:
    try:
        from ...hub.gguf import save_gguf
    except ModuleNotFoundError:
        return
    for dtype in sorted(options.decode_dtypes, reverse=True):  # float32 first: bfloat16 rounds for good
        try:
            save_gguf(model.to(getattr(torch, dtype)), design.gguf(dtype), tokenizer, ["def f(x):\n    return x\n"])
        except ValueError as error:  # a network or a tokenizer that llama.cpp does not have: its contender says so
            print(f"no GGUF file of {design.name}: {error}", file=sys.stderr)
            return
