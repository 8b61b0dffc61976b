"""A file of prompts, continued batch by batch; each batch is in the output file as soon as it is written.

A run that is stopped goes on with `--resume` at the first batch that is not whole, and ends with the same bytes: each
batch is drawn with a seed of its own, which is that of the command and the number of its first row.
"""

import json
import os
import sys
import time
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from ...tokenization.encoding import encode_conversation, encode_prompt
from ..alignment.checks import checked
from ..alignment.rows import Row, open_tables
from ..options.base import RESOLVED, UserError, one_line, save_resolved, write_whole
from ..options.generate import GenerateOptions
from ..options.output import check_parents, check_same
from .compiled import compiled_decoding
from .writing import probabilities, sampling, settings_of, write


def continue_file(model, tokenizer, options: GenerateOptions) -> None:
    rows = read_prompts(options)
    prompts = [_encode(tokenizer, row, options) for row in rows]
    longest = getattr(model.config, "max_position_embeddings", None)
    for row, ids in zip(rows, prompts, strict=True):
        if not ids:
            raise UserError(f"--prompts {row.where}: is empty, and this tokenizer has no token that begins a text")
        if longest and len(ids) + options.max_new_tokens > longest:
            raise UserError(
                f"--prompts {row.where}: {len(ids)} tokens and --max_new_tokens {options.max_new_tokens} are more than "
                f"the model's {longest} positions"
            )
    output = Path(options.output)
    check_parents("output", output)
    done = _begin(output, rows, options)
    start, written = time.perf_counter(), 0
    with (
        output.open("a", encoding="utf-8") as file,
        tqdm(total=len(rows), initial=done, unit="prompt", disable=None) as bar,
    ):
        for first in range(done, len(rows), options.batch_size):
            batch = slice(first, first + options.batch_size)
            answers = _answers(model, tokenizer, prompts[batch], options, first)
            lines = [_line(tokenizer, row, a, options) for row, a in zip(rows[batch], answers, strict=True)]
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            written += sum(len(new) for several in answers for new, _ in several)
            bar.update(len(lines))
    _tell(options, len(rows), done, written, time.perf_counter() - start)


def read_prompts(options: GenerateOptions) -> list[Row]:
    """
    Raises:
        UserError: no such file, or one without a prompt; a row without one.
    """
    path = Path(options.prompts)
    try:
        if path.suffix == ".txt":
            lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
            rows = [Row(f"{path}, line {i}", {options.prompt_column: line}) for i, line in lines if line]
        else:
            rows = list(chain.from_iterable(read() for read in open_tables(options.prompts).values()))
    except (UserError, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix("--dataset ")
        raise UserError(f"--prompts {path}: {one_line(reason)}") from error
    for row in rows:
        if not isinstance(row.values, dict) or not isinstance(row.values.get(options.prompt_column), str | list):
            has = ", ".join(map(str, row.values)) if isinstance(row.values, dict) else type(row.values).__name__
            raise UserError(f"--prompts {row.where}: no text or messages in {options.prompt_column!r}; it has {has}")
    if not rows:
        raise UserError(f"--prompts {path}: holds no prompt")
    return rows


def _encode(tokenizer, row: Row, options: GenerateOptions) -> list[int]:
    prompt = row.values[options.prompt_column]
    if isinstance(prompt, str):
        return encode_prompt(tokenizer, prompt)
    try:
        (asked,) = checked({"prompt": prompt}, "prompt", row.where)
        return encode_conversation(tokenizer, asked["prompt"], add_generation_prompt=True)["input_ids"]
    except UserError as error:
        raise UserError(str(error).replace("--dataset", "--prompts", 1)) from error
    except Exception as error:  # a template may do anything with messages that it does not expect
        raise UserError(f"--prompts {row.where}: {one_line(error, 200)}") from error


def _begin(output: Path, rows: list[Row], options: GenerateOptions) -> int:
    """How many rows are done; the file and the options beside it are there afterwards."""
    resolved = output.with_name(f"{output.stem}.{RESOLVED}")
    try:
        if not options.resume:
            if output.exists():
                raise UserError(f"--output {output}: there is such a file; --resume goes on with it")
            save_resolved(options, resolved, "generate")
            write_whole(output, "")
            return 0
        if not output.exists() or not resolved.exists():
            raise UserError(f"--resume: there is no {output} with {resolved.name} beside it to go on with")
        check_same(resolved, options, {"resume", "json", "stream"})
        lines = output.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) > len(rows):
            raise UserError(f"--resume: {output} has {len(whole)} rows, and {options.prompts} {len(rows)} prompts")
        done = len(whole) if len(whole) == len(rows) else len(whole) // options.batch_size * options.batch_size
        for line, row in zip(whole[:done], rows, strict=False):
            if json.loads(line)[options.prompt_column] != row.values[options.prompt_column]:
                raise UserError(f"--resume: {output} has other prompts than {options.prompts} ({row.where})")
        write_whole(output, "".join(whole[:done]))
        return done
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--output {output}: {one_line(getattr(error, 'strerror', None) or error, 200)}") from error


def _answers(model, tokenizer, prompts: list[list[int]], options: GenerateOptions, first: int):
    """For each prompt its continuations: (new ids, their probabilities)."""
    copies = options.num_return_sequences if options.temperature > 0 else 1
    seed = None if options.seed is None else (options.seed + first) % 2**32
    repeated = [ids for ids in prompts for _ in range(copies)]
    settings = sampling(options, tokenizer) | (compiled_decoding(model) if options.torch_compile else {})
    new = write(model, tokenizer, repeated, settings, seed=seed)
    likely = [
        probabilities(model, tokenizer, *pair) if options.probabilities else []
        for pair in zip(repeated, new, strict=True)
    ]
    answers = list(zip(new, likely, strict=True))
    return [answers[i : i + copies] for i in range(0, len(answers), copies)]


def _line(tokenizer, row: Row, answers: list[tuple[list[int], list[dict]]], options: GenerateOptions) -> str:
    ids = [new for new, _ in answers]
    result = row.values | {"continuations": tokenizer.batch_decode(ids, skip_special_tokens=True)}
    result |= {"tokens": [len(new) for new in ids]}
    if options.probabilities:
        result["probabilities"] = [likely for _, likely in answers]
    return json.dumps(result, ensure_ascii=False, default=str)


def _tell(options: GenerateOptions, rows: int, before: int, tokens: int, seconds: float) -> None:
    speed = tokens / seconds
    if options.json:
        found = {"output": os.fspath(options.output), "rows": rows, "rows_before": before, "tokens": tokens}
        print(json.dumps(found | {"tokens_per_second": speed} | settings_of(options)))
    else:
        print(f"{rows} rows in {options.output}")
    print(f"{tokens} tokens, {speed:.1f} tokens/s", file=sys.stderr)
