"""The chat: what is typed in it, on the command line and in a terminal, and how it ends."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
import time

import pytest
import torch
from rhapsode import RhapsodeForCausalLM
from rhapsode.recipes.alignment.datasets import sft_dataset
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.chatting.commands import Exit, Question, answered, run_command
from rhapsode.recipes.cli import main
from rhapsode.recipes.options.base import UserError
from rhapsode.tokenization.special_tokens import ASSISTANT, TOOL_CALL
from scripted_chat import LENGTH, Script, session
from transformers import AutoTokenizer

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
        said = run_command(chat, question)
        assert isinstance(said, Question) and said == question
    run_command(chat, "/reset")
    assert chat.conversation.turns == []
    with pytest.raises(Exit):
        run_command(chat, "/exit")


def test_regenerate_asks_the_last_question_again(opened):
    chat = session(opened)
    with pytest.raises(UserError, match="nothing has been said"):
        run_command(chat, "/regenerate")
    script = Script(chat, "one", "two", "three")
    chat.ask("first"), chat.ask("second")
    again = run_command(chat, "/regenerate")
    assert isinstance(again, Question) and again == "second"
    assert answered(chat, again).text == "three"
    assert script.seen[1] == script.seen[2]
    said = [m["content"] for m in chat.conversation.messages]
    assert said == ["first", "one", "second", "three"]
    chat.writer.room = 3  # as after /set max_new_tokens: no question fits
    with pytest.raises(UserError, match="this turn has"):
        answered(chat, run_command(chat, "/regenerate"))
    assert [m["content"] for m in chat.conversation.messages] == said
    run_command(chat, "/reset")
    with pytest.raises(UserError, match="nothing has been said"):
        run_command(chat, "/probabilities")


def test_settings_are_changed_on_the_way(opened):
    """The next answer is drawn by them; what is refused changes nothing."""
    chat = session(opened, max_new_tokens=6)
    chat.writer.ends = [-1]
    run_command(chat, "/set max_new_tokens 3")
    assert chat.ask("hello").tokens == 3
    assert run_command(chat, "/set temperature 1.5") == "temperature 1.5"
    assert chat.writer.settings["temperature"] == 1.5 and chat.writer.settings["do_sample"]
    room = chat.writer.room
    run_command(chat, "/set max_new_tokens 100")
    assert chat.writer.room == room - 97
    drawn = []
    for _ in range(2):
        chat.conversation.reset()
        run_command(chat, "/set seed 5")
        drawn.append(chat.ask("hello").text)
    assert drawn[0] == drawn[1]
    run_command(chat, "/set seed none")
    assert run_command(chat, "/set").splitlines()[0] == "max_new_tokens 100"
    for line, what in (
        ("/set temperature -1", "--temperature -1.0 must be 0 or more"),
        ("/set temperature hot", "invalid float value: 'hot'"),
        ("/set temprature 1", "did you mean temperature"),
        ("/set model x", "use max_new_tokens, temperature"),
    ):
        with pytest.raises(UserError, match=what):
            run_command(chat, line)
    assert chat.options.temperature == 1.5 and chat.options.model == "it"


def test_the_probability_of_each_token_of_the_last_answer(opened):
    chat = session(opened, max_new_tokens=4)
    with pytest.raises(UserError, match="nothing has been said"):
        run_command(chat, "/probabilities")
    answer = chat.ask("hello")
    lines = run_command(chat, "/probabilities").splitlines()
    assert len(lines) == answer.tokens
    with torch.no_grad():
        ids = chat.writer.encode([{"role": "user", "content": "hello"}])
        likeliest = opened[0](input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1).max().item()
    assert float(lines[0].split()[0]) == pytest.approx(likeliest, abs=1e-3)


# The command line


def lines_of(*arguments: str, given: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "rhapsode.recipes.chat", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_lines_of_standard_input_are_one_conversation(chat_directory, documents):
    """In a process of its own; the second question after /reset gets the same answer as the first."""
    flags = (
        "--model",
        chat_directory,
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


def test_a_question_and_its_answer(chat_directory, documents, monkeypatch, capsys):
    flags = ("--model", chat_directory, "--seed", "3", "--temperature", "2", "--max_new_tokens", "9")
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
def plain_directory(chat_directory, tmp_path):
    """The same model with a tokenizer that knows no chats."""
    tokenizer = AutoTokenizer.from_pretrained(chat_directory)
    tokenizer.chat_template = None
    RhapsodeForCausalLM.from_pretrained(chat_directory).save_pretrained(tmp_path / "plain")
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
def test_bad_input(chat_directory, monkeypatch, capsys, flags, expected):
    flags = [chat_directory if flag == "MODEL" else flag for flag in flags]
    assert run(monkeypatch, "x", *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rhapsode chat: ") and expected in error


def test_the_terminal(chat_directory, monkeypatch):
    """On a pseudo-terminal: a prompt, an answer that streams, commands, and an end by Ctrl-D."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "rhapsode.recipes.chat", "--model", chat_directory, "--max_new_tokens", "4"]
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
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        reader.join(timeout=300)
        os.close(leader)
        print(seen.decode(errors="replace"))
    text = seen.decode(errors="replace")
    assert "/help lists the commands" in text and "did you mean /reset?" in text and "forget what was said" in text
    assert ASSISTANT not in text and text.count("> ") >= 4
