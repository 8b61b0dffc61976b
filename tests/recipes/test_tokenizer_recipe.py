"""`rhapsode tokenizer`: what it writes, what it prints, and that a mistake leaves nothing behind."""

import json

import pytest
import yaml
from rhapsode.recipes.cli import run_command
from rhapsode.recipes.options.tokenizer import ALGORITHMS as OFFERED
from rhapsode.recipes.options.tokenizer import TokenizerOptions
from rhapsode.recipes.tokenizer import run
from rhapsode.tokenization import encode_texts
from rhapsode.tokenization.algorithms import ALGORITHMS
from transformers import AutoTokenizer


@pytest.fixture
def tokenizer(corpus, tmp_path, capsys, monkeypatch):
    """Runs the command on the corpus in a fresh directory; returns status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> tuple[int, str, str]:
        status = run_command("tokenizer", ["--dataset", str(corpus), "--output_dir", "out", *flags])
        return (status, *capsys.readouterr())

    return call


def test_the_offer_is_what_there_is():
    assert set(OFFERED) == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", OFFERED)
def test_a_directory_that_auto_tokenizer_opens(tokenizer, tmp_path, algorithm):
    status, out, err = tokenizer("--algorithm", algorithm, "--vocab_size", "600", "--json")
    assert (status, err) == (0, "") or "entries of the 600" in err
    facts = json.loads(out)
    opened = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert facts["vocab_size"] == len(opened) <= 600
    assert facts["algorithm"] == algorithm and facts["train_bytes"] > 10_000
    resolved = yaml.safe_load((tmp_path / "out" / "config_resolved.yaml").read_text())
    assert resolved["algorithm"] == algorithm and resolved["vocab_size"] == 600
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_its_own_directory_is_replaced(tokenizer, tmp_path):
    for size in ("500", "400"):
        status, out, _ = tokenizer("--vocab_size", size)
        assert status == 0 and f"bpe: {size} entries" in out
        assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == int(size)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_max_bytes_bounds_the_text(tokenizer):
    _, out, _ = tokenizer("--vocab_size", "300", "--max_bytes", "20001", "--json")
    assert json.loads(out)["train_bytes"] == 20001


def test_another_chat_template(tokenizer, tmp_path):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    status, _, err = tokenizer("--vocab_size", "400", "--chat_template", "chat.jinja")
    assert status == 0 and "does not keep special tokens out of messages" in err
    opened = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert opened.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "user: x\n"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--vocab_size", "200"], "vocab_size=200 is too small for bpe"),
        (["--vocab_size", "300", "--compare"], "vocab_size=300 is too small for wordpiece"),
        (["--vocab_size", "0"], "--vocab_size 0 must be above 0"),
        (["--dataset", "missing.txt"], "missing.txt: no such file"),
        (["--dataset", "empty.txt"], "empty.txt: no text"),
        (["--chat_template", "missing.jinja"], "chat template missing.jinja: No such file"),
        (["--chat_template", "broken.jinja"], "chat template broken.jinja, line 2: "),
        (["--chat_template", "failing.jinja"], "chat template failing.jinja fails on a question and an answer"),
        (["--chat_template", "silent.jinja"], "chat template silent.jinja leaves out the content of messages"),
        (["--train_steps", "5"], "add --compare"),
        (["--algorithm", "morfessor"], "invalid choice: 'morfessor'"),
        (["--output_dir", "other"], "--output_dir other holds something else"),
        (["--output_dir", "empty.txt"], "--output_dir empty.txt holds something else"),
        (["--output_dir", "empty.txt/x"], "empty.txt is a file"),
        (["--vocabsize", "300"], "did you mean --vocab_size?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tokenizer, tmp_path, flags, reason):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    (tmp_path / "failing.jinja").write_text("{{ raise_exception('no system message') }}")
    (tmp_path / "silent.jinja").write_text("{{ bos_token }}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, out, err = tokenizer(*flags)
    assert status == 2 and out == ""
    assert err.startswith("rhapsode tokenizer: ") and err.count("\n") == 1 and reason in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_run_leaves_the_old_tokenizer(tokenizer, tmp_path, monkeypatch):
    tokenizer("--vocab_size", "400")
    before = (tmp_path / "out" / "tokenizer.json").read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rhapsode.recipes.tokenizer.save_resolved", interrupt)
    assert tokenizer("--vocab_size", "500")[0] == 130
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_compare(tokenizer, tmp_path, corpus):
    status, out, _ = tokenizer("--compare", "--vocab_size", "700")
    assert status == 0
    lines = out.strip().splitlines()
    assert len(lines) == 2 + len(ALGORITHMS) and len({line.count("|") for line in lines}) == 1
    rows = {row["algorithm"]: row for row in json.loads((tmp_path / "out" / "comparison.json").read_text())}
    assert list(rows) == list(ALGORITHMS)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for name, row in rows.items():
        check_figures(AutoTokenizer.from_pretrained(tmp_path / "out" / name), row, corpus)
    assert rows["bpe"]["unknown_rate"] == rows["wordpiece"]["unknown_bytes"] == 0 < rows["word"]["unknown_bytes"]
    assert rows["char"]["tokens_per_byte"] > 2 * rows["bpe"]["tokens_per_byte"]


def check_figures(opened, row: dict, corpus) -> None:
    """The figures of the table, recomputed from the files one by one."""
    from rhapsode.recipes.data.corpus import read_documents

    texts = [document.text for document in read_documents([str(corpus)], "validation")]
    ids = [i for text in texts for i in encode_texts(opened, [text])[0]]
    assert row["bytes"] == sum(len(text.encode()) for text in texts)
    assert row["tokens"] == len(ids) and row["tokens_per_byte"] == len(ids) / row["bytes"]
    assert row["tokens_per_word"] == len(ids) / len(" ".join(texts).split())
    assert row["vocabulary_use"] * (len(opened) - len(opened.all_special_ids)) == pytest.approx(
        len({i for i in ids if i not in opened.all_special_ids})
    )
    if opened.unk_token is None:
        assert row["unknown_rate"] == row["unknown_bytes"] == 0
    else:
        assert row["unknown_rate"] == ids.count(opened.unk_token_id) / len(ids)
        known = sum(len(opened.decode(i).encode()) for i in ids if i != opened.unk_token_id)
        assert row["unknown_bytes"] * row["bytes"] == pytest.approx(row["bytes"] - known)


@pytest.mark.slow
def test_compare_with_small_models(corpus, tmp_path):
    output = tmp_path / "out"
    options = {"vocab_size": 600, "compare": True, "train_steps": 3, "max_length": 64, "json": True}
    run(TokenizerOptions(dataset=[str(corpus)], output_dir=str(output), **options))
    rows = json.loads((output / "comparison.json").read_text())
    assert all(0 < row["bits_per_byte"] < 30 for row in rows)
    assert not list(output.rglob("*.safetensors"))
