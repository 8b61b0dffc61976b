"""The chat: what the model sees of a conversation, its documents, its tools, and what it writes."""

import json
import os
import signal

import pytest
import torch
from rhapsode import RhapsodeForCausalLM
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.chatting.conversation import Conversation
from rhapsode.recipes.chatting.streaming import AnswerStreamer, printable
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization import encode_conversation
from rhapsode.tokenization.special_tokens import TOOL_CALL
from scripted_chat import Script, session
from transformers import AutoTokenizer

# What the model sees


def turn(i: int) -> list[dict]:
    return [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}" * i}]


def test_the_oldest_turns_go_whole_when_the_context_is_full():
    """One id a message here, so that rooms can be counted by hand."""
    conversation, now = Conversation("be brief"), [{"role": "user", "content": "now"}]
    conversation.turns = [turn(i) for i in range(4)]

    def encode(messages):
        return [message["content"] for message in messages]

    assert encode(conversation.messages) == ["be brief", *(m["content"] for i in range(4) for m in turn(i))]
    assert len(conversation.visible(now, encode, 10)) == 10
    assert conversation.visible(now, encode, 9) == [
        "be brief",
        *(m["content"] for i in (1, 2, 3) for m in turn(i)),
        "now",
    ]
    assert conversation.first == 1
    assert conversation.visible(now, encode, 5) == ["be brief", "q3", "a3a3a3", "now"]
    assert conversation.visible(now, encode, 10)[1] == "q3"  # what is gone does not come back
    assert conversation.visible(now, encode, 2) == ["be brief", "now"]
    with pytest.raises(UserError, match="this turn has 2 tokens and the context holds 1 before an answer"):
        conversation.visible(now, encode, 1)
    assert len(conversation.messages) == 9
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "be brief"}] and conversation.first == 0


def test_a_session_sees_what_was_said_and_tells_what_it_no_longer_sees(opened):
    chat, told = session(opened, system="Be brief.", max_length=120), []
    script = Script(chat, *(f"answer {i}" for i in range(8)))
    for i in range(8):
        chat.ask(f"question number {i}", tell=told.append)
    seen = script.seen[-1]
    assert seen.startswith("<|bos|><|system|>Be brief.<|user|>question number")
    assert seen.endswith("<|assistant|>answer 6<|eos|><|user|>question number 7<|assistant|>")
    assert "number 0" not in seen and f"the first {chat.conversation.first} of 7 turns" in told[-1]
    assert all(len(opened[1](seen)["input_ids"]) <= chat.writer.room for seen in script.seen)
    assert len(chat.conversation.turns) == 8
    with pytest.raises(UserError, match=r"this turn has \d+ tokens and the context holds 112 before an answer"):
        chat.ask("word " * 200)
    assert len(chat.conversation.turns) == 8


def test_calls_are_run_and_their_results_read(opened):
    chat, told = session(opened, tools=["calculator"]), []
    script = Script(chat, Call("calculator", {"expression": "6 * 7"}), Call("eval", {}), "It is 42.")
    answer = chat.ask("6 * 7?", tell=told.append)
    assert (answer.text, answer.ending) == ("It is 42.", "finished")
    assert [result for _, result in answer.runs] == ["42", "error: there is no tool 'eval'; use calculator"]
    assert told[0] == '[calculator {"expression": "6 * 7"}: 42]'
    assert '<|tools|>{"name": "calculator"' in script.seen[0]
    assert script.seen[1].endswith("<|eos|><|tool_result|>42<|assistant|>")
    call = '<|tool_call|>{"name": "eval", "arguments": {}}<|eos|>'
    assert script.seen[2].endswith(f"{call}<|tool_result|>error: there is no tool 'eval'; use calculator<|assistant|>")
    assert chat.conversation.messages[-1] == {"role": "assistant", "content": "It is 42."}


def test_rounds_end_and_an_interrupted_call_is_not_run(opened):
    call = Call("calculator", {"expression": "1"})
    chat = session(opened, tools=["calculator"], max_tool_rounds=2)
    Script(chat, call, call, call)
    answer = chat.ask("?")
    assert (len(answer.runs), answer.ending, answer.text) == (2, "max_tool_rounds", "")
    Script(chat, call, signal="SIGINT")
    answer = chat.ask("?")
    assert (answer.runs, answer.ending) == ([], "SIGINT")


# Documents


def test_passages_go_before_the_question_and_only_before_the_newest(opened, documents):
    chat = session(opened, documents=documents, passages=1)
    script = Script(chat, "They are red [1].", "Yes [2] [1].", "No.")
    first, second, third = (chat.ask(q) for q in ("What are apples?", "Are whales mammals?", "zzz?"))
    assert "<|user|>[1] fruit.md:1\n# Fruit\n\nApples are red.\n\nWhat are apples?<|assistant|>" in script.seen[0]
    assert "<|user|>What are apples?<|assistant|>They are red [1].<|eos|>" in script.seen[1]
    assert script.seen[1].endswith("<|user|>[1] sea.txt:1\nWhales are mammals.\n\nAre whales mammals?<|assistant|>")
    assert script.seen[2].endswith("<|user|>no passage fits\n\nzzz?<|assistant|>")
    assert [(p.path, p.line) for p in first.passages] == [("fruit.md", 1)] and first.cited == [1]
    assert second.cited == [1] and second.passages[0].path == "sea.txt"
    assert (third.passages, third.cited) == ([], [])
    assert chat.conversation.messages[0] == {"role": "user", "content": "What are apples?"}


def test_fewer_passages_where_all_do_not_fit(opened, documents):
    chat, told = session(opened, documents=documents, passages=2, max_length=100), []
    script = Script(chat, "yes", "no")
    answer = chat.ask("are apples red?", tell=told.append)
    assert told == ["[2 passages do not fit into the context of 100 tokens]"]
    assert [p.path for p in answer.passages] == ["fruit.md"] and "[2]" not in script.seen[0]


def test_the_tool_searches_in_place_of_us(opened, documents):
    chat = session(opened, documents=documents, passages=1, tools=["search_documentation"])
    search = [Call("search_documentation", {"query": word}) for word in ("whales", "apples")]
    script = Script(chat, *search, "Both [2].")
    answer = chat.ask("What are apples?")
    assert script.seen[0].endswith("<|user|>What are apples?<|assistant|>")
    assert "<|tool_result|>[2] fruit.md:1\n# Fruit" in script.seen[2]
    assert ([p.path for p in answer.passages], answer.cited) == (["sea.txt", "fruit.md"], [2])


def test_the_data_of_sft_look_like_the_chat(opened, documents):
    """A row of `--dataset tools`, encoded as for training, begins as what the chat shows to the model."""
    tokenizer = opened[1]
    row = next(row for row in sft_dataset("tools:120") if row["kind"] == "calculator" and len(row["tools"]) == 1)
    chat = session(opened, tools=["calculator"])
    call = row["messages"][1]["tool_calls"][0]["function"]
    script = Script(chat, Call(call["name"], call["arguments"]), row["messages"][-1]["content"])
    chat.ask(row["messages"][0]["content"])
    assert chat.conversation.messages == row["messages"]
    whole = tokenizer.decode(encode_conversation(tokenizer, row["messages"], row["tools"])["input_ids"])
    assert all(whole.startswith(seen) for seen in script.seen)


# The real thing


def test_an_answer_is_what_transformers_writes(opened):
    model, tokenizer = opened
    chat, shown = session(opened, max_new_tokens=12), []
    answer = chat.ask("hello", show=shown.append)
    ids = encode_conversation(tokenizer, [{"role": "user", "content": "hello"}], add_generation_prompt=True)[
        "input_ids"
    ]
    out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id)
    new = out[0, len(ids) :]
    assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
    assert "".join(shown) == printable(answer.text)
    assert (answer.tokens, answer.ending) == (
        len(new),
        "finished" if new[-1] == tokenizer.eos_token_id else "max_new_tokens",
    )


def test_ctrl_c_ends_the_answer_and_not_the_chat(opened):
    """Sent while it writes; what there is of the answer is kept, and whoever had the signal before has it again."""
    before = signal.getsignal(signal.SIGINT)
    chat = session(opened, max_new_tokens=900)
    chat.writer.ends = [-1]  # it never ends by itself
    pieces = []

    def show(text):
        pieces.append(text)
        if len(pieces) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    answer = chat.ask("hello", show=show)
    assert answer.ending == "SIGINT" and 5 <= answer.tokens < 20
    assert signal.getsignal(signal.SIGINT) is before
    assert len(chat.conversation.turns) == 1


def test_the_answer_fits_into_what_is_left_of_the_context(opened):
    chat = session(opened, max_new_tokens=500, max_length=60)
    chat.writer.ends = [-1]
    answer = chat.ask("hello there")
    assert chat.writer.room == 60 - 15 and answer.ending == "max_new_tokens"
    assert len(chat.writer.encode([{"role": "user", "content": "hello there"}])) + answer.tokens == 60


def test_a_stream_shows_text_and_no_calls(opened):
    tokenizer, shown = opened[1], []
    said = f'one two \x1b[2J three{TOOL_CALL}{{"name": "f", "arguments": {{}}}}'
    streamer = AnswerStreamer(tokenizer, shown.append)
    streamer.put(torch.tensor([[5, 6, 7]]))  # the prompt
    for token in tokenizer(said, add_special_tokens=False)["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(shown) == "one two [2J three"
    assert printable("a\tb\nc\r\x9b31m\x07") == "a\tb\nc31m"


@pytest.mark.slow
def test_a_model_that_has_learned_it_calls_and_answers(chat_directory, tmp_path):
    """`rhapsode sft` on eight sums, until it knows them by heart; then the chat runs the calls that it writes."""
    from rhapsode.recipes import sft
    from rhapsode.recipes.options.sft import SftOptions
    from small_chats import write_splits

    table = sft_dataset("tools:200")
    rows = [row for row in table if row["kind"] == "calculator" and len(row["tools"]) == 1][:8]
    how = {"max_steps": 150, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "save_steps": 1000}
    asked = {"eval_prompts": 8, "max_new_tokens": 60, "eval_steps": 1000, "bf16": False}
    out = tmp_path / "out"
    data = write_splits(tmp_path / "rows", rows)
    sft.run(SftOptions(model=chat_directory, dataset=data, output_dir=str(out), **how, **asked))
    results = json.loads((out / "results.json").read_text())
    assert results["call_match"] == results["right_answers"] == results["right_tools"] == 1
    opened = RhapsodeForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    chat = session(opened, tools=["calculator"], max_new_tokens=60)
    for row in rows:
        answer = chat.ask(row["messages"][0]["content"])
        assert chat.conversation.messages == row["messages"]
        assert answer.ending == "finished"
        chat.conversation.reset()
