"""The data that teach a model to call tools, and how well a model calls them."""

import copy
import itertools
import json
from fractions import Fraction

import pytest
from rhapsode.recipes.alignment.arithmetic import sums
from rhapsode.recipes.alignment.checks import checked
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.alignment.lengths import leave_out_long
from rhapsode.recipes.alignment.tool_use import NO_RESULT, Recorded, measure_tool_use
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization import encode_conversation
from tool_calls import ids_of, written
from transformers import AutoTokenizer

SMALL = "tools:120"


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


# The data


@pytest.fixture(scope="module")
def tables() -> dict:
    return {split: sft_dataset(SMALL, split, invented_share=1.0) for split in ("train", "validation", "test")}


def test_every_result_is_that_of_the_call(tables):
    for row in itertools.chain(*tables.values()):
        calls = [call["function"] for m in row["messages"] for call in m.get("tool_calls") or []]
        assert bool(calls) == (row["kind"] in ("calculator", "search"))
        offered = [tool["function"]["name"] for tool in row["tools"]]
        assert len(set(offered)) == len(offered) and {c["name"] for c in calls} <= set(offered)
        if row["kind"] == "calculator":
            _, _, result, answer = row["messages"]
            exact = Fraction(eval(calls[0]["arguments"]["expression"]))  # ours, of whole numbers
            assert result["content"] == str(exact) and answer["content"] == f"It is {exact}."
        if row["kind"] in ("search", "passages"):
            read, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
            sentence, _, number = answer.rpartition(" [")
            asked = row["messages"][0]["content"].rpartition("`")[0].rpartition("`")[2]
            if answer == "I don't know.":
                assert f"\n{asked}: " not in read
            else:
                assert f"[{number} " in read and f"\n{asked}: {sentence}" in read
        assert checked(row, "sft", "here") == [row]
    assert {kind for table in tables.values() for kind in table["kind"]} == {"calculator", "search", "passages", "chat"}


def test_nothing_that_is_asked_or_read_is_in_two_splits(tables):
    """Numbers, names of objects, their sentences and the names that are greeted."""
    seen = {}
    for split, table in tables.items():
        numbers = {n for s in sums(split, 300) for n in "".join(c if c.isdigit() else " " for c in s.question).split()}
        texts = [m["content"] for row in table for m in row["messages"]]
        sentences = {line.partition(": ")[2] for text in texts for line in text.splitlines() if ": " in line}
        greeted = {row["messages"][-1]["content"].split()[-1] for row in table if row["kind"] == "chat"}
        seen[split] = numbers | sentences | greeted | {row["messages"][0]["content"] for row in table}
        assert greeted and len(sentences) > 3 and len(numbers) > 20
    for a, b in itertools.combinations(seen, 2):
        assert seen[a] & seen[b] == set()


def test_the_expression_says_what_the_question_asks():
    """Every phrasing by hand, with numbers that cannot be mixed up."""
    from rhapsode.recipes.alignment.arithmetic import HELD_OUT_PHRASINGS, PHRASINGS

    a, b, c = 17, 90, 5
    meant = {"+": a + b, "-": a - b, "*": a * b, "%": a % b}
    words = {"plus": "+", "add": "+", "minus": "-", "times": "*", "multiply": "*", "remains": "%"}
    for question, expression in PHRASINGS + HELD_OUT_PHRASINGS:
        value = eval(expression.format(a=a, b=b, c=c))
        lower = question.lower()
        if "subtract {a} from {b}" in lower:
            expected = b - a
        elif "double" in lower:
            expected = (b - a) * 2
        elif "then multiply by {c}" in lower:
            expected = (a + b) * c
        else:
            sign = next((words[w] for w in words if w in lower), None) or next(s for s in meant if f" {s} " in question)
            expected = meant[sign]
        assert value == expected, question


def test_seed_limit_and_size(tables, tokenizer):
    rows = tables["train"].to_list()
    assert sft_dataset(SMALL, "train", 0, 5, 1.0).to_list() == rows[:5]
    other = sft_dataset(SMALL, "train", 1, None, 1.0).to_list()
    assert other != rows and len(other) == len(rows)
    assert len(sft_dataset("tools:40")) < len(rows)
    with pytest.raises(UserError, match="after tools: comes the number of objects, as in tools:400"):
        sft_dataset("tools:x")
    kept, cut = leave_out_long(tables["test"], tokenizer, 100_000, "tools")
    assert len(kept) and not cut


def test_trl_trains_on_what_the_assistant_says_and_sees_the_tools(tables, tokenizer):
    """As trl's trainer renders a row: with its tools, the calls in the loss and the results not."""
    row = next(row for row in tables["train"] if row["kind"] == "calculator")
    encoded = encode_conversation(tokenizer, row["messages"], row["tools"])
    said = [i for i, is_said in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if is_said]
    call = written(tokenizer, row["messages"][1])
    assert said == call + written(tokenizer, row["messages"][3])
    assert f'"{row["tools"][0]["function"]["name"]}", "description"' in tokenizer.decode(encoded["input_ids"])


# How well a model calls


class Scripted:
    """A stand-in for a model: for each prompt, by its last ids, what it writes."""

    def __init__(self, tokenizer, say):
        self.tokenizer, self.say, self.device = tokenizer, say, "cpu"

    def generate(self, ids, attention_mask, **kwargs):
        import torch

        prompts = [row[mask.bool()].tolist() for row, mask in zip(ids, attention_mask, strict=True)]
        written = [self.say(self.tokenizer.decode(prompt)) for prompt in prompts]
        width = max(map(len, written))
        pad = self.tokenizer.pad_token_id
        return torch.cat([ids, torch.tensor([w + [pad] * (width - len(w)) for w in written])], dim=1)


def oracle(tokenizer, rows, wrong: set[int] = frozenset(), late: set[int] = frozenset()):
    """A model that says what the data say: for rows in `wrong` with another call, in `late` only after an error."""

    def say(prompt: str) -> list[int]:
        number, row = next((i, r) for i, r in enumerate(rows) if r["messages"][0]["content"] in prompt)
        last = prompt.rpartition("<|tool_result|>")[2] if "<|tool_result|>" in prompt else ""
        if row["messages"][1].get("tool_calls") and (not last or NO_RESULT in last):
            call = copy.deepcopy(row["messages"][1]["tool_calls"][0])
            if number in wrong or (number in late and not last):
                call["function"]["arguments"] = {"expression": "1"}
            return written(tokenizer, {"role": "assistant", "content": "", "tool_calls": [call]})
        return written(tokenizer, row["messages"][-1])

    return say


def test_tool_use_of_models_that_are_known(tables, tokenizer):
    rows = {row["messages"][0]["content"]: row for row in tables["test"]}.values()
    rows = [row for row in rows if sum(row["messages"][0]["content"] in r["messages"][0]["content"] for r in rows) == 1]
    called = [i for i, row in enumerate(rows) if row["kind"] in ("calculator", "search")]
    silent = len(rows) - len(called)

    def measured(*args, length=10_000):
        return measure_tool_use(Scripted(tokenizer, oracle(tokenizer, rows, *args)), tokenizer, rows, length, 200, 8)

    shares = ("right_tools", "call_match", "no_needless_call", "right_answers")
    assert measured() == dict.fromkeys(shares, 1) | {"tool_rows": len(rows)}
    wrong, late = set(called[:3]), set(called[3:5])
    found = measured(wrong, late)
    assert found["right_tools"] == pytest.approx(1 - 5 / len(rows))  # each of these calls more often than the data
    assert found["call_match"] == pytest.approx(1 - 5 / len(called))
    assert found["right_answers"] == pytest.approx(1 - 3 / len(rows))  # who tries again may still be right
    assert measured(length=100)["right_answers"] < 0.5  # no room for anything
    needless = Scripted(tokenizer, lambda prompt: ids_of(tokenizer, '{"name": "f", "arguments": {}}'))
    always = measure_tool_use(needless, tokenizer, rows, 10_000, 200, 8)
    assert always["no_needless_call"] == always["call_match"] == always["right_tools"] == 0 and silent


def test_arguments_may_be_json_in_a_text_and_in_any_order():
    call = {"function": {"name": "f", "arguments": json.dumps({"a": 1, "b": 2})}}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}]
    recorded = Recorded({"messages": messages})
    recorded.turn.take("", [Call("f", {"b": 2, "a": 1})])
    recorded.turn.take(" It is 3. ", [])
    assert recorded.matches and recorded.is_right and recorded.turn.runs[0][1] == "3"
