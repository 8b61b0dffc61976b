"""Reading one file: the documents of each kind, plain and compressed, and one clear line for what cannot be read.

Oracle: the documents that were written.
"""

import json
import random
import re

import pytest
from rhapsode.recipes.data import readers
from rhapsode.recipes.data.readers import read_file
from rhapsode.recipes.options.base import UserError

from .tables import KINDS, PACKINGS, TABLES, complaint, pack, random_texts, table_bytes, texts_of

# The kinds


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_of_each_kind(seed, tmp_path, kind):
    texts = random_texts(7) if kind in TABLES else random_texts(1)
    path = tmp_path / f"corpus.{kind}"
    path.write_bytes(table_bytes(kind, texts) if kind in TABLES else texts[0].encode())
    assert texts_of(path) == texts


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", ["txt", *TABLES])
def test_packed_files_hold_the_same_documents(seed, tmp_path, kind, packing):
    texts = random_texts(40) if kind in TABLES else random_texts(1)
    raw = table_bytes(kind, texts) if kind in TABLES else texts[0].encode()
    path = tmp_path / f"corpus.{kind}.{packing}"
    path.write_bytes(pack(raw, packing))
    assert texts_of(path) == texts


@pytest.mark.parametrize("kind", TABLES)
def test_another_column(seed, tmp_path, kind):
    texts = random_texts(3)
    path = tmp_path / f"t.{kind}"
    path.write_bytes(table_bytes(kind, texts, column="content"))
    assert texts_of(path, text_column="content") == texts
    message = complaint(path)
    assert str(path) in message
    assert "no column 'text'" in message
    assert "number, content" in message


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_text(seed, tmp_path, kind):
    texts = random_texts(3) if kind in TABLES else random_texts(1)
    raw = table_bytes(kind, texts) if kind in TABLES else texts[0].encode()
    path = tmp_path / f"windows.{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + raw)
    assert texts_of(path) == texts


def test_a_json_file_may_be_a_list_of_strings_or_one_object(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(["one", "two"]))
    assert texts_of(path) == ["one", "two"]
    path.write_text(json.dumps({"text": "only"}))
    assert texts_of(path) == ["only"]


# What cannot be read: one line that names the file


@pytest.mark.parametrize(("kind", "value"), [("jsonl", 3), ("jsonl", None), ("json", ["x"]), ("parquet", 3)])
def test_a_column_that_holds_no_text(tmp_path, kind, value):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(table_bytes(kind, [value] if kind == "parquet" else ["fine", value]))
    line = 1 if kind == "parquet" else 2
    pattern = f"{re.escape(str(path))}, (line|row) {line}: column 'text' holds {type(value).__name__}, not text"
    assert re.search(pattern, complaint(path))


def test_a_row_that_is_no_object_or_too_short(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n[1, 2]\n')
    assert f"{path}, line 2: list and not an object" in complaint(path)
    path = tmp_path / "t.csv"
    path.write_text('id,text\n1,"one\ntwo"\n2\n')
    assert f"{path}, line 4: column 'text' holds NoneType" in complaint(path)


def test_undecodable_bytes(tmp_path):
    latin = "Gr\u00fc\u00dfe".encode("latin-1")
    text = tmp_path / "t.txt"
    text.write_bytes(b"ok\n" + latin)
    assert complaint(text) == f"--dataset {text}: byte 5 is not UTF-8; convert the file first"
    for kind, before, after in (("jsonl", b'{"text": "a"}\n{"text": "', b'"}\n'), ("csv", b"text\na\n", b"\n")):
        path = tmp_path / f"t.{kind}"
        path.write_bytes(before + latin + after)
        line = before.count(b"\n") + 1
        assert f"--dataset {path}, line {line}: byte" in complaint(path)
        assert "not UTF-8" in complaint(path)
    path = tmp_path / "t.json"
    path.write_bytes(b'["' + latin + b'"]')
    assert f"{path}: byte 4 is not UTF-8" in complaint(path)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_files_that_were_cut_off_or_are_something_else(seed, tmp_path, packing):
    raw = "\n".join(random_texts(2000)).encode()
    path = tmp_path / f"t.txt.{packing}"
    whole = pack(raw, packing)
    for share in (0.3, 0.8):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert complaint(path).startswith(f"--dataset {path}: Compressed file ended before the end")
    path.write_bytes(b"this is not packed at all, whatever the name says")
    assert str(path) in complaint(path)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_flipped_byte_in_a_packed_file_never_passes(seed, tmp_path, packing):
    """Either the checksum notices it and the line names the file, or the text is unharmed; zst has none here."""
    raw = "\n".join(random_texts(300)).encode()
    path = tmp_path / f"t.txt.{packing}"
    whole = bytearray(pack(raw, packing))
    for position in random.sample(range(len(whole) // 4, len(whole)), 10):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            read = texts_of(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert packing == "zst" or read == [raw.decode()]


def test_tables_with_bad_syntax(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n')
    assert f"--dataset {path}: line 3 is not JSON" in complaint(path)
    path.write_text('{"text": "a", "number": ' + "9" * 5000 + "}\n")  # more digits than Python converts
    assert f"--dataset {path}: line 1 is not JSON" in complaint(path)
    path = tmp_path / "t.json"
    path.write_text('[{"text": "a"},\n{"text": }]')
    assert f"--dataset {path}: line 2 is not JSON" in complaint(path)
    path.write_text("[" * 100_000)
    assert f"--dataset {path}: line 1 is not JSON" in complaint(path)
    path = tmp_path / "t.csv"
    path.write_text('id,text\n1,fine\n2,"never closed\n3,swallowed\n')
    assert f"--dataset {path}: the row from line 3 on is not CSV" in complaint(path)


def test_a_damaged_parquet_file(seed, tmp_path):
    path = tmp_path / "t.parquet"
    whole = table_bytes("parquet", random_texts(50))
    path.write_bytes(whole[: len(whole) // 2])
    assert f"--dataset {path}: not a parquet file" in complaint(path)
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])  # the footer is whole
    assert str(path) in complaint(path)
    path.write_bytes(b"hello")
    assert f"--dataset {path}: not a parquet file" in complaint(path)


# Files larger than a document


@pytest.mark.parametrize("marks", ["\n\n", "\n", " ", ""])
def test_a_long_text_is_cut_where_a_reader_would_pause(seed, tmp_path, monkeypatch, marks):
    monkeypatch.setattr(readers, "LONGEST_TEXT", 100)
    words = ["".join(random.choices("abcäß字😀", k=random.randint(1, 5))) for _ in range(300)]
    text = "".join(word + (marks if i % 3 else " " if marks else "") for i, word in enumerate(words))
    (tmp_path / "book.txt").write_bytes(text.encode())
    named = list(read_file(tmp_path / "book.txt", "text"))
    pieces = [piece for _, piece in named]
    assert "".join(pieces) == text
    assert all(piece.endswith(marks) for piece in pieces[:-1])
    assert all(len(piece.encode()) <= 100 for piece in pieces)
    assert all(len(piece.encode()) > 50 for piece in pieces[:-1])
    assert len({name for name, _ in named}) == len(named) > 10


def test_a_bad_byte_far_into_a_long_text_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_TEXT", 100)
    path = tmp_path / "book.txt"
    path.write_bytes(b"a word " * 100 + b"\xff" + b" and more" * 30)
    assert complaint(path) == f"--dataset {path}: byte 700 is not UTF-8; convert the file first"
