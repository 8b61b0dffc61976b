"""Tools: what a model may call, how its calls are read, and the data that teach it to call."""

import copy
import itertools
import json
import math
import random
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.alignment.arithmetic import sums
from rhapsode.recipes.alignment.checks import checked
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.alignment.lengths import leave_out_long
from rhapsode.recipes.alignment.tool_use import NO_RESULT, Recorded, measure_tool_use
from rhapsode.recipes.chatting.calculator import LONGEST, calculator
from rhapsode.recipes.chatting.calls import UNREADABLE, Call, read_answer
from rhapsode.recipes.chatting.passages import Passage
from rhapsode.recipes.chatting.retrieval import Index, Sources, search_tool
from rhapsode.recipes.chatting.tools import LONGEST_RESULT, Tools
from rhapsode.recipes.chatting.turn import MOST_CALLS, Turn
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization import encode_conversation
from rhapsode.tokenization.special_tokens import SPECIAL_TOKENS, TOOL_CALL
from transformers import AutoTokenizer

SMALL = "tools:120"
SHOWN = 1e-11  # twelve digits are shown


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


# The calculator


def expression(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.2:
        return str(draw.choice([draw.randint(0, 99), draw.randint(0, 9)]))
    kind = draw.random()
    if kind < 0.15:
        return f"{draw.choice('+-')}{expression(draw, depth - 1)}"
    if kind < 0.25:
        return f"({expression(draw, depth - 1)}) ** {draw.randint(0, 3)}"
    operator = draw.choice(["+", "-", "*", "/", "//", "%"])
    return f"({expression(draw, depth - 1)}) {operator} {draw.choice(['', ' '])}({expression(draw, depth - 1)})"


def test_calculator_equals_python_on_fractions(seed):
    """Python's own evaluation, with every number made a fraction, is the oracle; it may be used here, on our text."""
    draw, compared = random.Random(seed), 0
    for _ in range(600):
        text = expression(draw, 4)
        if len(text) > LONGEST:
            continue
        fractions = "".join(
            f"Fraction({''.join(part)})" if is_number else "".join(part)
            for is_number, part in itertools.groupby(text, str.isdigit)
        )
        # An exponent as a whole number: a power of fractions with a fraction would be a float.
        fractions = fractions.replace("** Fraction", "** int")
        try:
            expected = Fraction(eval(fractions, {"Fraction": Fraction, "int": int, "__builtins__": {}}))
        except ZeroDivisionError:
            with pytest.raises(ValueError, match="division by zero"):
                calculator(text)
            continue
        if max(abs(expected.numerator), expected.denominator) > 2**1000:
            continue
        compared += 1
        if expected.denominator == 1:
            assert calculator(text) == str(expected.numerator), text
        else:
            assert float(calculator(text)) == pytest.approx(float(expected), rel=SHOWN), text
    assert compared > 200


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -2", "0.25"),
        ("2 ** 0.5", f"{math.sqrt(2):.12g}"),
        ("-2 ** 2", "-4"),
        (" 1e3 + 1 ", "1001"),
        ("1 ** 10000000000", "1"),
        ("(" * 60 + "1" + ")" * 60, "1"),
    ],
)
def test_calculator_by_hand(text, result):
    assert calculator(text) == result


HOSTILE = [
    *(
        "9**9**9",
        "2**2**2**2**2**2",
        "10**1000",
        "(10**300)**(10**300)",
        "99999**99999",
        "0.5**100000",
        "1e999",
        "2**1e9",
    ),
    *("10**308*10.5", "2**1023.9*4", "(1/3)**999", "9" * 199 + "*1.5", "*".join(["9" * 30] * 6) + "**9"),
    *(
        "__import__('os').system('true')",
        "().__class__",
        "a",
        "x.y",
        "f(1)",
        "[1]",
        "[1][0]",
        "'a'*3",
        "b'1'",
        "lambda: 1",
    ),
    *(
        "True",
        "None",
        "1 if 1 else 2",
        "1 and 2",
        "1 < 2",
        "~1",
        "1 << 99",
        "1 | 2",
        "1 @ 2",
        "1j",
        "(e)",
        "e",
        "E",
        "...",
    ),
    *(
        "nan",
        "inf",
        "1_000",
        "0x10",
        "\u0663 + 1",
        "\uff11+1",
        "1 \u2212 1",
        "1\n+1",
        "1;2",
        "1=1",
        "# 1",
        "1, 2",
        "()",
    ),
    *(
        "",
        " ",
        "(",
        "1 +",
        "1.2.3",
        "1 2",
        "007",
        "(" * 201,
        "-" * 250 + "1",
        "1/0",
        "1//0",
        "1%0",
        "0**-1",
        "(-8)**0.5",
    ),
    *("\x00", "1\x00", "e" * 200, "1" + "e1" * 90, "{}".format("1+" * 99), "2 ** -1e308", "\ud800"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=[ascii(text[:20]) for text in HOSTILE])
def test_calculator_refuses(text):
    """In one line, whatever it is. What would take long is refused by its size, before it is computed."""
    with pytest.raises(ValueError) as caught:
        calculator(text)
    assert type(caught.value) is ValueError
    assert "error: " in Tools(calculator).run(Call("calculator", {"expression": text}))


@given(st.text(alphabet="0123456789.eE+-*/%() ", max_size=60))
def test_calculator_gives_a_number_or_a_value_error(text):
    try:
        float(calculator(text)[:300])
    except ValueError as error:
        assert type(error) is ValueError


# Names and arguments


def repeat(text: str, times: int = 2, ends: list[str] | None = None, loud: bool = False) -> str:
    """Say it again.

    Args:
        text: what to say
        times: how often
        ends: what comes after
        loud: in capitals
    """
    return text * times + "".join(ends or [])


def fail(text: str) -> dict:
    """Fail.

    Args:
        text: how (choices: ["badly", "not"])
    """
    if text == "badly":
        raise RuntimeError("it broke\nbadly")
    return {"fine": 1}


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("repeat", {"text": "a"}, "aa"),
        ("repeat", {"text": "a", "times": 3, "ends": ["b", "c"]}, "aaabc"),
        ("repeat", {"text": "a", "ends": None}, "aa"),
        ("repeat", {}, "error: arguments of repeat: 'text' is a required property"),
        ("repeat", {"text": 3}, "error: arguments of repeat: 3 is not of type 'string'"),
        ("repeat", {"text": None}, "error: arguments of repeat: None is not of type 'string'"),
        ("repeat", {"text": "a", "times": "3"}, "error: arguments of repeat: '3' is not of type 'integer'"),
        ("repeat", {"text": "a", "times": True}, "error: arguments of repeat: True is not of type 'integer'"),
        ("repeat", {"text": "a", "loud": 1}, "error: arguments of repeat: 1 is not of type 'boolean'"),
        ("repeat", {"text": "a", "self": 1}, "error: arguments of repeat: Additional properties are not allowed"),
        ("fail", {"text": "badly"}, "error: it broke badly"),
        ("fail", {"text": "other"}, "error: arguments of fail: 'other' is not one of ['badly', 'not']"),
        ("fail", {"text": "not"}, '{"fine": 1}'),
        ("eval", {"text": "1"}, "error: there is no tool 'eval'; use repeat, fail"),
        ("__class__", {}, "error: there is no tool '__class__'"),
    ],
)
def test_only_registered_functions_with_valid_arguments_run(name, arguments, result):
    got = Tools(repeat, fail).run(Call(name, arguments))
    assert got == result or (result.startswith("error") and got.startswith(result))
    assert "\n" not in got


def test_long_results_are_cut_and_say_so():
    result = Tools(repeat).run(Call("repeat", {"text": "x", "times": LONGEST_RESULT + 7}))
    assert result == "x" * LONGEST_RESULT + " ... (7 characters more)"


def test_schemas_are_those_of_transformers():
    from transformers.utils import get_json_schema

    expected = get_json_schema(repeat)
    del expected["function"]["return"]
    assert Tools(repeat).schemas == [expected]
    tool = search_tool(Sources(Index([Passage("a.md", 1, "text")]), 1))
    assert list(Tools(tool).schemas[0]["function"]["parameters"]["properties"]) == ["query"]


# What the model writes, read back

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TRICKY = st.sampled_from([*SPECIAL_TOKENS, "<\ufdd0|eos|>", "<|", '"}', "\\", "\u2028", "\x00", "</s>"])
CALLS = st.builds(
    Call, st.text(max_size=9) | TRICKY, st.dictionaries(st.text(max_size=5) | TRICKY, JSON | TRICKY), fault=st.just("")
)


def written(tokenizer, message: dict) -> list[int]:
    """The ids of an assistant's turn, which the template made."""
    question = [{"role": "user", "content": "?"}]
    prompt = encode_conversation(tokenizer, question, add_generation_prompt=True)["input_ids"]
    return encode_conversation(tokenizer, [*question, message])["input_ids"][len(prompt) :]


@given(calls=st.lists(CALLS, max_size=3), text=st.text(max_size=20) | TRICKY)
def test_what_the_template_writes_is_read_back(tokenizer, calls, text):
    message = {"role": "assistant", "content": text, "tool_calls": [call.message() for call in calls]}
    assert read_answer(tokenizer, written(tokenizer, message)) == (text, calls)


def ids_of(tokenizer, *calls: str, text: str = "") -> list[int]:
    """As a model may write it: any text after the special token."""
    marker = tokenizer.convert_tokens_to_ids(TOOL_CALL)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, *calls)]
    return parts[0] + [i for part in parts[1:] for i in (marker, *part)] + [tokenizer.eos_token_id]


BROKEN = {
    "": "this is not a call",
    "{": "this is not a call",
    '{"name": "f"}': "name and arguments, and nothing else",
    '{"name": "f", "arguments": {}, "id": 1}': "and nothing else",
    '{"name": "f", "arguments": {}} and more': "Extra data",
    '[{"name": "f", "arguments": {}}]': "it must be an object",
    '{"name": 1, "arguments": {}}': "name must be a text",
    '{"name": "f", "arguments": "{}"}': "arguments an object",
    '{"name": "f", "arguments": {"x": NaN}}': "NaN is not JSON",
    '{"name": "f", "arguments": {"x": -Infinity}}': "-Infinity is not JSON",
    '{"name": "f", "arguments": {"x": 1, "x": 2}}': "a key stands twice",
    "{'name': 'f', 'arguments': {}}": "this is not a call",
    "<|user|>": "it holds a special token",
    "[" * 3000: "this is not a call",
    "9" * 5000: "this is not a call",
}


@pytest.mark.parametrize("text", BROKEN, ids=[text[:20] for text in BROKEN])
def test_what_is_no_call_gives_an_error_that_the_model_reads(tokenizer, text):
    said, calls = read_answer(tokenizer, ids_of(tokenizer, text, text="Well. "))
    assert (said, [call.name for call in calls]) == ("Well. ", [UNREADABLE])
    result = Tools(repeat).run(calls[0])
    assert result.startswith("error: this is not a call (") and BROKEN[text] in result
    again = {"role": "assistant", "content": said, "tool_calls": [calls[0].message()]}
    assert read_answer(tokenizer, written(tokenizer, again))[1] == [calls[0]._replace(fault="")]


def test_a_spelled_marker_is_text(tokenizer):
    spelled = f'{TOOL_CALL}{{"name": "f", "arguments": {{}}}}'
    ids = tokenizer(spelled, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert read_answer(tokenizer, ids) == (spelled, [])


def test_a_tokenizer_without_the_marker_writes_no_calls():
    unknown = 0  # what such a tokenizer makes of any token that it does not have
    bare = SimpleNamespace(all_special_ids=[unknown, 1], unk_token_id=unknown, eos_token_id=1, decode=str)
    bare.convert_tokens_to_ids = lambda token: unknown
    assert read_answer(bare, [5, unknown, 6, 1, 7]) == ("[5, 6]", [])


# The loop


def play(script: list[tuple[str, list[Call]]], tools: Tools, max_rounds: int = 3) -> Turn:
    turn = Turn({"role": "user", "content": "?"}, tools.run, max_rounds)
    for text, calls in script:
        assert turn.answer is None
        turn.take(text, calls)
    return turn


def test_calls_run_until_the_model_answers():
    two = [Call("repeat", {"text": "a"}), Call("repeat", {"text": "b"})]
    turn = play([("let me see", two), ("", [Call("repeat", {"text": 1})]), ("aabb", [])], Tools(repeat))
    assert turn.answer == "aabb" and not turn.was_stopped
    error = "error: arguments of repeat: 1 is not of type 'string'"
    assert turn.messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "let me see", "tool_calls": [call.message() for call in two]},
        {"role": "tool", "content": "aa"},
        {"role": "tool", "content": "bb"},
        {"role": "assistant", "content": "", "tool_calls": [Call("repeat", {"text": 1}).message()]},
        {"role": "tool", "content": error},
        {"role": "assistant", "content": "aabb"},
    ]
    assert [result for _, result in turn.runs] == ["aa", "bb", error]
    assert checked({"messages": turn.messages}, "sft", "here")  # a conversation that can be trained on


def test_rounds_and_calls_have_a_limit():
    call, ran = Call("count", {}), []

    def count():
        """Count."""
        ran.append(1)
        return "x"

    turn = play([("", [call]), ("", [call]), ("I give up", [call])], Tools(count), max_rounds=2)
    assert (turn.answer, turn.was_stopped, len(ran)) == ("I give up", True, 2)
    assert "tool_calls" not in turn.messages[-1]
    turn = play([("", [call] * (MOST_CALLS + 1)), ("y", [])], Tools(count))
    assert [r for _, r in turn.runs] == ["x"] * MOST_CALLS + [f"error: at most {MOST_CALLS} calls are run at once"]


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
