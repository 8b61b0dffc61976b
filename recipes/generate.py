"""Continuing a text: transformers' `generate` with the settings of the command line."""

import json
import sys
import time

import torch
from transformers import TextStreamer, set_seed

from ..tokenization.encoding import encode_prompt
from .cli import run_command
from .options.generate import GenerateOptions
from .options.sampling import SamplingOptions
from .training.setup import load_model, load_tokenizer


def run(options: GenerateOptions) -> None:
    tokenizer = load_tokenizer(options.model, trust_remote_code=options.trust_remote_code)
    model = load_model(options.model, dtype="auto", trust_remote_code=options.trust_remote_code).eval()
    streams = options.stream and options.num_return_sequences == 1 and not options.json
    if streams:
        print(options.prompt, end="", flush=True)
    start = time.perf_counter()
    texts, count = _generate(model, tokenizer, options, TextStreamer(tokenizer, True, **SKIP) if streams else None)
    speed = count / (time.perf_counter() - start)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key not in ("prompt", "json", "stream")}
        result = {"prompt": options.prompt, "continuations": texts, "tokens_per_second": speed, **settings}
        print(json.dumps(result, ensure_ascii=False))
    elif not streams:
        print(f"\n{'-' * 40}\n".join(options.prompt + text for text in texts))
    print(f"{count} tokens, {speed:.1f} tokens/s", file=sys.stderr)


SKIP = {"skip_special_tokens": True}


def _generate(model, tokenizer, options: GenerateOptions, streamer=None) -> tuple[list[str], int]:
    """The continuations, and how many tokens they have together."""
    ids = torch.tensor([encode_prompt(tokenizer, options.prompt)], device=model.device)
    if options.seed is not None:
        set_seed(options.seed)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_return_sequences=options.num_return_sequences if options.temperature > 0 else 1,
        streamer=streamer,
        **sampling(options, tokenizer),
    )
    new = out[:, ids.shape[1] :]
    texts = tokenizer.batch_decode(new, **SKIP)
    return texts, int((new != tokenizer.pad_token_id).sum())


def sampling(options: SamplingOptions, tokenizer) -> dict:
    """What transformers' `generate` is told: how many tokens, and how each is drawn."""
    settings = {"max_new_tokens": options.max_new_tokens, "do_sample": options.temperature > 0}
    if options.temperature > 0:
        settings |= {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
        settings |= {"min_p": options.min_p or None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return settings | {"repetition_penalty": options.repetition_penalty, "pad_token_id": pad}


def continue_text(model, tokenizer, prompt: str, tokens: int, seed: int = 0, temperature: float = 0.7) -> str:
    """One continuation, for reports."""
    was_training = model.training
    options = GenerateOptions(prompt=prompt, max_new_tokens=tokens, temperature=temperature, seed=seed)
    texts, _ = _generate(model.eval(), tokenizer, options)
    model.train(was_training)
    return texts[0]


if __name__ == "__main__":
    sys.exit(run_command("generate", sys.argv[1:]))
