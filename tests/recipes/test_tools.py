"""Tools: what a model may call, how its calls are read, and the loop that runs them."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.alignment.checks import checked
from rhapsode.recipes.chatting.calls import UNREADABLE, Call, read_answer
from rhapsode.recipes.chatting.passages import Passage
from rhapsode.recipes.chatting.retrieval import Index, Sources, search_tool
from rhapsode.recipes.chatting.tools import LONGEST_RESULT, Tools
from rhapsode.recipes.chatting.turn import MOST_CALLS, Turn
from rhapsode.tokenization.special_tokens import SPECIAL_TOKENS, TOOL_CALL
from tool_calls import ids_of, written
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


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


@given(calls=st.lists(CALLS, max_size=3), text=st.text(max_size=20) | TRICKY)
def test_what_the_template_writes_is_read_back(tokenizer, calls, text):
    message = {"role": "assistant", "content": text, "tool_calls": [call.message() for call in calls]}
    assert read_answer(tokenizer, written(tokenizer, message)) == (text, calls)


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
