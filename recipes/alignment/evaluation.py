"""What a model that answers is worth: before against after, on the same held-out prompts, by the judge.

    win rate = (prompts on which the judge scores the answer after higher + half of those on which both are equal) / all

A prompt whose reference is "I don't know." counts as one about a name that does not exist.
"""

from .answering import Messages, answer, divergence, encode_prompts, place, texts
from .datasets import prompt_dataset
from .judge import ABSTENTION, judge, measure
from .tool_use import measure_tool_use
from .training import Job

SAMPLES = 8  # of them are shown side by side


def evaluation_prompts(job: Job) -> list[dict]:
    """Rows with `prompt`, `reference`, `is_real`: of the standard library its own, of other data the held-out rows'.

    A reference that the data do not have is None: such a row is answered and not judged.
    """
    o = job.options
    source, room = o.eval_dataset or o.dataset, job.length - o.max_new_tokens
    if not o.eval_prompts:
        return []
    if source.partition(":")[0] == "stdlib":
        rows = list(prompt_dataset(source, "validation", o.seed, o.eval_prompts))
    else:
        rows = list({str(row["prompt"]): row for row in map(_question, job.held_out)}.values())[: o.eval_prompts]
    ids = encode_prompts(job.tokenizer, [row["prompt"] for row in rows], [row.get("tools") for row in rows])
    return [row | {"ids": i} for row, i in zip(rows, ids, strict=True) if len(i) <= max(room, 1)]


def _question(row: dict) -> dict:
    """The conversation up to the last answer, and that answer, of a row of any of trl's conversational formats.

    A prompt alone has its answer in a column `reference`, or None.
    """
    if not row.get("prompt"):
        *prompt, last = row["messages"]
        reference = last["content"] or ""
    elif answer := row.get("chosen") or row.get("completion"):
        prompt, reference = row["prompt"], answer[-1]["content"] or ""
    else:
        prompt, reference = row["prompt"], row.get("reference")
        if not isinstance(reference, str):
            return {"prompt": prompt, "reference": None, "is_real": True}
    is_real = reference.strip() != ABSTENTION
    return {"prompt": prompt, "reference": reference, "is_real": is_real, "tools": row.get("tools")}


def answers_of(job: Job, model, rows: list[dict]) -> list[str]:
    """Greedy answers of the model, where it lies."""
    if not rows:
        return []
    was_training, o = model.training, job.options
    model.eval()
    found = answer(model, job.tokenizer, [r["ids"] for r in rows], o.max_new_tokens, o.per_device_eval_batch_size)
    model.train(was_training)
    return texts(job.tokenizer, found)


def compare(job: Job, model, rows: list[dict], before: list[str], with_kl: bool) -> dict:
    """Results of the model as it was saved: the judge before and after, the win rate, KL, samples side by side."""
    if not rows:
        return {}
    after = answers_of(job, model, rows)
    results = _judged(rows, before, after)
    if with_kl:
        reference, _ = job.open(job.options)
        o, ids = job.options, [row["ids"] for row in rows]
        sizes = (o.max_new_tokens, o.per_device_eval_batch_size, o.seed)
        kl, error = divergence(model, place(reference), job.tokenizer, ids, *sizes)
        results |= {"kl": kl, "kl_standard_error": error}
    results |= tool_use(job, model)
    samples = [
        {"prompt": _shown(row["prompt"]), "reference": row["reference"] or "", "before": b, "after": a}
        for row, b, a in zip(rows, before, after, strict=True)
    ]
    return results | {"samples": samples[:SAMPLES]}


def tool_use(job: Job, model) -> dict:
    """Of held-out conversations in which tools are offered: whether the model calls them as the data do."""
    if not {"messages", "tools"} <= set(job.held_out.column_names):
        return {}
    o = job.options
    rows = job.held_out.select(range(min(o.eval_prompts, len(job.held_out))))
    return measure_tool_use(model, job.tokenizer, rows, job.length, o.max_new_tokens, o.per_device_eval_batch_size)


def _judged(rows: list[dict], before: list[str], after: list[str]) -> dict:
    known = [(r, b, a) for r, b, a in zip(rows, before, after, strict=True) if r["reference"] is not None]
    if not known:
        return {}
    rows, before, after = zip(*known, strict=True)
    return {
        "before": measure(rows, before),
        "after": measure(rows, after),
        "win_rate": win_rate(rows, before, after),
    }


def win_rate(rows: list[dict], before: list[str], after: list[str]) -> float:
    points = 0.0
    for row, b, a in zip(rows, before, after, strict=True):
        old, new = (judge(row["reference"], row["is_real"], text) for text in (b, a))
        points += 1.0 if new > old else 0.5 if new == old else 0.0
    return points / len(rows)


def _shown(prompt: Messages) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
