"""Continuing texts: transformers' `generate` with the settings of the command line.

One text here, streamed where it is printed; files of prompts in `recipes/generation/`.
"""

import json
import sys
import time

from transformers import TextStreamer

from ..tokenization.encoding import encode_prompt
from .cli import run_command
from .generation.compiled import compiled_decoding
from .generation.writing import probabilities, room, sampling, settings_of, write
from .options.base import shown
from .options.generate import GenerateOptions
from .training.setup import load_pair


def run(options: GenerateOptions) -> None:
    model, tokenizer = load_pair(options.model, dtype="auto", trust_remote_code=options.trust_remote_code)
    model.eval()
    if options.prompts:
        from .generation.prompt_file import continue_file  # which needs more than a text does

        continue_file(model, tokenizer, options)
        return
    streams = options.stream and options.num_return_sequences == 1 and not options.json
    ids = encode_prompt(tokenizer, options.prompt)
    settings = sampling(options, tokenizer) | {"max_new_tokens": room(model, ids, options)}
    streamer = Streamer(tokenizer, True, skip_special_tokens=True) if streams else None
    settings |= compiled_decoding(model, streamer) if options.torch_compile else {}
    if streams:
        print(options.prompt, end="", flush=True)
    start = time.perf_counter()
    written = write(model, tokenizer, _copies(ids, options), settings, seed=options.seed, streamer=streamer)
    seconds = time.perf_counter() - start
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    likely = [probabilities(model, tokenizer, ids, new) for new in written] if options.probabilities else []
    count, speed = sum(map(len, written)), sum(map(len, written)) / seconds
    if options.json:
        result = {"prompt": options.prompt, "continuations": texts, "tokens_per_second": speed, **settings_of(options)}
        print(json.dumps(result | ({"probabilities": likely} if likely else {}), ensure_ascii=False))
    else:
        if not streams:
            print(f"\n{'-' * 40}\n".join(options.prompt + shown(text) for text in texts))
        for rows in likely:
            print("", *(f"{row['probability']:.4f}  {row['token']!r}" for row in rows), sep="\n")
    print(f"{count} tokens, {speed:.1f} tokens/s", file=sys.stderr)


class Streamer(TextStreamer):
    """To standard output."""

    def on_finalized_text(self, text: str, stream_end: bool = False):
        super().on_finalized_text(shown(text), stream_end)


def _copies(ids: list[int], options: GenerateOptions) -> list[list[int]]:
    return [ids] * (options.num_return_sequences if options.temperature > 0 else 1)


if __name__ == "__main__":
    sys.exit(run_command("generate", sys.argv[1:]))
