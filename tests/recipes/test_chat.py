"""The chat: what the model sees of a conversation, what is typed, what is printed, and how it ends."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.chatting.commands import Exit, run_command
from rhapsode.recipes.chatting.conversation import Conversation
from rhapsode.recipes.chatting.session import Session, open_sources
from rhapsode.recipes.chatting.streaming import AnswerStreamer, printable
from rhapsode.recipes.chatting.writing import Written
from rhapsode.recipes.cli import main
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.chat import ChatOptions
from rhapsode.tokenization import encode_conversation, token_ids
from rhapsode.tokenization.special_tokens import ASSISTANT, TOOL_CALL
from transformers import AutoTokenizer

LENGTH = 1024


@pytest.fixture(scope="module")
def model_directory(tokenizer_directory, tmp_path_factory):
    """A new model, sure of itself, so that draws differ little between kernels."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": LENGTH}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    config = RhapsodeConfig(vocab_size=len(tokenizer), **sizes, **heads, **token_ids(tokenizer))
    RhapsodeForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def opened(model_directory):
    return RhapsodeForCausalLM.from_pretrained(model_directory), AutoTokenizer.from_pretrained(model_directory)


@pytest.fixture
def documents(tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "fruit.md").write_text("# Fruit\n\nApples are red.\n")
    (tmp_path / "documents" / "long.md").write_text("Pears are green. " * 20)
    (tmp_path / "documents" / "sea.txt").write_text("Whales are mammals.")
    return str(tmp_path / "documents")


def session(opened, **options) -> Session:
    asked = ChatOptions(model="it", **{"temperature": 0, "max_new_tokens": 8, **options})
    return Session(*opened, asked, open_sources(asked))


class Script:
    """In place of the model: writes what it is told, and keeps what it has seen."""

    def __init__(self, chat: Session, *answers: str | Call, signal: str | None = None):
        self.tokenizer, self.answers, self.seen, self.signal = chat.writer.tokenizer, list(answers), [], signal
        chat.writer.write = self

    def __call__(self, ids, show=None) -> Written:
        self.seen.append(self.tokenizer.decode(ids))
        said = self.answers.pop(0)
        if isinstance(said, Call):
            said = f"{TOOL_CALL}{json.dumps({'name': said.name, 'arguments': said.arguments})}"
        ids = [*self.tokenizer(said, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return Written(ids, 1.0, True, self.signal)


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


# What is typed


def test_commands(opened, tmp_path):
    chat = session(opened, tools=["calculator"], system="s")
    with pytest.raises(UserError, match="nothing has been said"):
        run_command(chat, f"/save {tmp_path}/a.jsonl")
    Script(chat, Call("calculator", {"expression": "1+1"}), "It is 2.")
    chat.ask("What is 1+1?")
    path = tmp_path / "a.jsonl"
    assert run_command(chat, f"/save {path}") == f"saved in {path}"
    (row,) = sft_dataset(str(path))  # what is saved can be trained on
    assert row == {"messages": chat.conversation.messages, "tools": chat.tools.schemas}
    for line, what in (
        (f"/save {path}", "there is such a file already"),
        ("/save", "name a .jsonl file"),
        (f"/save {tmp_path}/no/such/a.jsonl", "No such file"),
        ("/rest", "unknown command /rest; did you mean /reset?"),
        ("/qqqqq", "unknown command /qqqqq; see /help"),
    ):
        with pytest.raises(UserError, match=what.replace("?", r"\?")):
            run_command(chat, line)
    assert all(name in run_command(chat, " /help\n") for name in ("/help", "/reset", "/save", "/exit"))
    for question in ("hello", "/etc/passwd", "/rest is what", "what is /help?", "no /reset"):
        assert run_command(chat, question) is None
    run_command(chat, "/reset")
    assert chat.conversation.turns == []
    with pytest.raises(Exit):
        run_command(chat, "/exit")


# The command line


def lines_of(*arguments: str, given: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "rhapsode.recipes.chat", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_lines_of_standard_input_are_one_conversation(model_directory, documents):
    """In a process of its own; the second question after /reset gets the same answer as the first."""
    flags = (
        "--model",
        model_directory,
        "--temperature",
        "0",
        "--max_new_tokens",
        "6",
        "--json",
        "--documents",
        documents,
    )
    code, out, err = lines_of(
        *flags, given="\nWhat are whales?\nAnd now?\n/reset\nWhat are whales?\n/exit\nnot asked\n"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "Traceback" not in err and "a new conversation" in err
    assert [row["question"] for row in rows] == ["What are whales?", "And now?", "What are whales?"]
    assert rows[0]["answer"] == rows[2]["answer"] and rows[0]["calls"] == []
    assert rows[0]["sources"][0] == {"number": 1, "path": "sea.txt", "line": 1, "cited": False}
    assert rows[0]["tokens_per_second"] > 0 and rows[0]["ending"] in ("finished", "max_new_tokens")


def run(monkeypatch, *arguments: str, given: str = "") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    return main(["chat", *arguments])


def test_a_question_and_its_answer(model_directory, documents, monkeypatch, capsys):
    flags = ("--model", model_directory, "--seed", "3", "--temperature", "2", "--max_new_tokens", "9")
    answers = []
    for extra in ((), (), ("--json",), ("--seed", "4")):
        assert run(monkeypatch, "Who?", *flags, *extra) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[3]
    assert json.loads(answers[2])["answer"] == answers[0].rstrip("\n").strip()
    assert run(monkeypatch, "What are whales?", *flags, "--documents", documents) == 0
    assert "sea.txt:1" in capsys.readouterr().out.splitlines()[-1]
    assert run(monkeypatch, *flags, given="one\ntwo\n") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.fixture
def plain_directory(model_directory, tmp_path):
    """The same model with a tokenizer that knows no chats."""
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    tokenizer.chat_template = None
    RhapsodeForCausalLM.from_pretrained(model_directory).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    return str(tmp_path / "plain")


def test_a_model_that_was_not_made_for_it(plain_directory, monkeypatch, capsys):
    assert run(monkeypatch, "x", "--model", plain_directory) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("it has no chat_template; train it with rhapsode sft first")
    )
    tokenizer = AutoTokenizer.from_pretrained(plain_directory)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(plain_directory)
    assert run(monkeypatch, "x", "--model", plain_directory, "--tools", "calculator") == 2
    assert f"does not write calls as {TOOL_CALL}" in capsys.readouterr().err
    assert run(monkeypatch, "x", "--model", plain_directory, "--max_new_tokens", "2") == 0  # without tools it will do
    tokenizer.chat_template = "{{ raise_exception('no system prompts') }}"
    tokenizer.save_pretrained(plain_directory)
    assert run(monkeypatch, "x", "--model", plain_directory) == 2
    assert "its chat template says: no system prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "/nowhere"], "/nowhere: cannot be opened"),
        (["--documents", "/nowhere"], "--documents /nowhere: no such directory"),
        (
            ["--tools", "shell"],
            "--tools shell: use calculator, search_documentation; a question comes before the flags",
        ),
        (["--tools", "search_documentation"], "searches --documents; name a directory"),
        (["--passages", "0"], "--passages 0 must be 1 or more"),
        (["--max_tool_rounds", "0"], "--max_tool_rounds 0 must be 1 or more"),
        (["--temperature", "-1"], "--temperature -1.0 must be 0 or more"),
        (
            ["--max_length", "99999", "--model", "MODEL"],
            f"--max_length 99999 is longer than the model's {LENGTH} positions",
        ),
    ],
)
def test_bad_input(model_directory, monkeypatch, capsys, flags, expected):
    flags = [model_directory if flag == "MODEL" else flag for flag in flags]
    assert run(monkeypatch, "x", *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rhapsode chat: ") and expected in error


def test_the_terminal(model_directory, monkeypatch):
    """On a pseudo-terminal: a prompt, an answer that streams, commands, and an end by Ctrl-D."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "rhapsode.recipes.chat", "--model", model_directory, "--max_new_tokens", "4"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL, close_fds=True)
    os.close(follower)
    seen = bytearray()

    def read():
        try:
            while piece := os.read(leader, 4096):
                seen.extend(piece)
        except OSError:  # the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    for number, line in enumerate((b"hello\n", b"/rest\n", b"/help\n", b"\x04"), 1):
        deadline = time.monotonic() + 120
        while seen.count(b"\n> ") < number and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.write(leader, line)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        reader.join(timeout=30)
        os.close(leader)
        print(seen.decode(errors="replace"))
    text = seen.decode(errors="replace")
    assert "/help lists the commands" in text and "did you mean /reset?" in text and "forget what was said" in text
    assert ASSISTANT not in text and text.count("> ") >= 4


@pytest.mark.slow
def test_a_model_that_has_learned_it_calls_and_answers(model_directory, tmp_path):
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
    sft.run(SftOptions(model=model_directory, dataset=data, output_dir=str(out), **how, **asked))
    results = json.loads((out / "results.json").read_text())
    assert results["call_match"] == results["right_answers"] == results["right_tools"] == 1
    opened = RhapsodeForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    chat = session(opened, tools=["calculator"], max_new_tokens=60)
    for row in rows:
        answer = chat.ask(row["messages"][0]["content"])
        assert chat.conversation.messages == row["messages"]
        assert answer.ending == "finished"
        chat.conversation.reset()
