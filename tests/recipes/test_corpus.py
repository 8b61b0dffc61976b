"""Where documents come from: the split, the kinds of files, and one clear line for whatever cannot be read.

Oracles: the documents that were written, the standard library's own list of files, and, for the split, the union of its
sides.
"""

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import random
import re
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.data.corpus import VALIDATION_SHARE, _part, read_documents, split_of, stdlib_files
from rhapsode.recipes.options.base import UserError

HAS_ZSTD = importlib.util.find_spec("zstandard") is not None
needs_zstd = pytest.mark.skipif(not HAS_ZSTD, reason="needs zstandard")
KINDS = ("txt", "md", "py", "jsonl", "json", "parquet", "csv")
TABLES = ("jsonl", "json", "parquet", "csv")
PACKINGS = ("gz", "bz2", "xz", pytest.param("zst", marks=needs_zstd))
ALPHABET = "abcdefgh ,\"'{}\\äß—字😀\t"


def random_texts(count: int) -> list[str]:
    """Distinct texts with quotes, commas, line ends and characters of one to four bytes."""
    draw = random.Random(random.random())
    return [
        f"{i} " + "\n".join("".join(draw.choices(ALPHABET, k=draw.randint(0, 60))) for _ in range(draw.randint(1, 6)))
        for i in range(count)
    ]


def table_bytes(kind: str, rows: list, column: str = "text") -> bytes:
    """A table of one column of texts (or of whatever `rows` holds) and another of numbers."""
    records = [{"number": i, column: row} for i, row in enumerate(rows)]
    if kind == "jsonl":
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    if kind == "json":
        return json.dumps(records, indent=1).encode()
    if kind == "csv":
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["number", column])
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"number": list(range(len(rows))), column: rows}), out, row_group_size=3)
    return out.getvalue()


def pack(raw: bytes, packing: str) -> bytes:
    if packing == "zst":
        import zstandard

        half = len(raw) // 2  # two frames, as parallel packers write them
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (raw[:half], raw[half:]))
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[packing](raw)


def texts_of(*sources, split: str = "all", **kwargs) -> list[str]:
    return [document.text for document in read_documents([str(s) for s in sources], split, **kwargs)]


def complaint(*sources, split: str = "all", **kwargs) -> str:
    """The one line that a source is refused with."""
    with pytest.raises(UserError) as caught:
        texts_of(*sources, split=split, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--dataset ")
    return message


def write_texts(directory: Path, texts: list[str], packing: str = "") -> None:
    directory.mkdir()
    for i, text in enumerate(texts):
        raw = text.encode()
        suffix = f".{packing}" if packing else ""
        (directory / f"{i:03}.txt{suffix}").write_bytes(pack(raw, packing) if packing else raw)


# The split


@given(st.text())
def test_the_split_of_a_key_never_changes(key):
    assert split_of(key) == split_of(key) in ("train", "validation")
    assert split_of(key, 0.0) == "train"
    assert split_of(key, 1.0) == "validation"


def test_the_split_is_the_same_on_every_machine():
    """Fixed by hand: a run of next year must validate on the documents that last year's did not train on."""
    assert [i for i in range(100) if split_of(f"{i}.txt") == "validation"] == [68, 71, 79]


def test_the_split_takes_its_share(seed):
    n = 20_000
    count = sum(split_of(f"{seed}/{i}") == "validation" for i in range(n))
    deviation = (n * VALIDATION_SHARE * (1 - VALIDATION_SHARE)) ** 0.5
    assert abs(count - n * VALIDATION_SHARE) < 6 * deviation  # six standard deviations: once in 5e8 runs


@pytest.mark.parametrize("kind", ["directory", *TABLES])
def test_train_and_validation_share_nothing_and_are_everything(seed, tmp_path, kind):
    texts = random_texts(200)
    source = tmp_path / ("texts" if kind == "directory" else f"table.{kind}")
    if kind == "directory":
        write_texts(source, texts)
    else:
        source.write_bytes(table_bytes(kind, texts))
    train, validation = texts_of(source, split="train"), texts_of(source, split="validation")
    assert set(train).isdisjoint(validation)
    assert sorted(train + validation) == sorted(texts)
    assert validation  # 0.95 ** 200 of all draws have none, and the fallback divides those


def test_equal_rows_fall_on_the_same_side(seed, tmp_path):
    texts = random_texts(80)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(table_bytes("jsonl", texts * 3))
    train, validation = Counter(texts_of(path, split="train")), Counter(texts_of(path, split="validation"))
    assert train.keys().isdisjoint(validation)
    assert set((train + validation).values()) == {3}


def test_the_split_survives_moving_and_packing(seed, tmp_path, monkeypatch):
    """A directory, a pattern, an absolute one, another place and another packing: the same validation documents."""
    texts = random_texts(80)
    write_texts(tmp_path / "one", texts)
    write_texts(tmp_path / "packed", texts, "gz")
    (tmp_path / "one").rename(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    expected = texts_of(tmp_path / "two", split="validation")
    for source in ("two", "two/*.txt", tmp_path / "two" / "*.txt", "./two/0*", "packed", "packed/*.gz", "two/**"):
        assert texts_of(source, split="validation") == expected, source


# The standard library


def test_stdlib_leaves_out_tests_and_installed_packages():
    root = Path(sysconfig.get_paths()["stdlib"])
    names = {name for name, _ in stdlib_files()}
    assert {"argparse.py", "asyncio/base_events.py", "json/decoder.py"} <= names
    forbidden = ("test", "tests", "idle_test", "site-packages", "dist-packages")
    for name in names:
        assert not set(Path(name).parts) & set(forbidden), name
    for path in (*root.glob("*.py"), *root.glob("json/*.py")):
        assert str(path.relative_to(root)) in names


def test_stdlib_splits_by_file_without_a_leak():
    train, validation = ([d.name for d in read_documents(["stdlib"], split)] for split in ("train", "validation"))
    assert set(train).isdisjoint(validation)
    assert sorted(train + validation) == sorted(name for name, path in stdlib_files() if path.read_bytes().strip())


# Files, directories, patterns


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


def test_directories_and_patterns_give_the_same_documents(seed, tmp_path):
    texts = random_texts(6)
    root = tmp_path / "corpus"
    write_texts(root, texts[:4])
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "table.jsonl").write_bytes(table_bytes("jsonl", texts[4:]))
    (root / "picture.png").write_bytes(b"\x89PNG")  # passed over
    (root / ".git").mkdir()
    (root / ".git" / "hidden.txt").write_text("not a document")
    assert texts_of(root) == texts
    assert texts_of(f"{root}/**/*.txt", f"{root}/**/*.jsonl") == texts
    assert texts_of(*sorted(root.glob("*.txt")), root / "deep") == texts
    assert texts_of(root) == texts_of(root)


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


def test_blank_documents_are_passed_over(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(table_bytes("jsonl", ["", "a", " \n\t", "b"]))
    assert texts_of(path) == ["a", "b"]


# Too little to be split by documents


@pytest.mark.parametrize("lines", [1, 2, 30])
def test_one_text_file_is_split_by_position_without_losing_a_character(seed, tmp_path, lines):
    path = tmp_path / "book.txt"
    text = "\r\n".join("".join(random.choices(ALPHABET, k=random.randint(1, 400))) + "." for _ in range(lines))
    path.write_bytes(text.encode())
    (train,), (validation,) = texts_of(path, split="train"), texts_of(path, split="validation")
    assert train + validation == text


@given(st.text(min_size=2), st.text(alphabet="a\n", min_size=2))
def test_the_validation_part_has_about_its_share(any_text, lines):
    for text in (any_text, lines):
        train, validation = _part(text, "train"), _part(text, "validation")
        assert train + validation == text
        least = max(1, int(len(text) * VALIDATION_SHARE))
        assert least <= len(validation) <= 2 * least or not train
        assert train or len(text) <= 2 * least


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_where_one_side_would_be_empty_the_ends_validate(tmp_path, kind):
    """Two documents that the hash puts on one side."""
    long = [f"text {i} " * 40 for i in range(50)]
    keys = [f"{i}.txt" for i in range(50)] if kind == "txt" else long
    chosen = [i for i, key in enumerate(keys) if split_of(key) == "train"][:2]
    source = tmp_path / ("texts" if kind == "txt" else "two.jsonl")
    if kind == "txt":
        source.mkdir()
        for i in chosen:
            (source / f"{i}.txt").write_text(long[i])
    else:
        source.write_bytes(table_bytes(kind, [long[i] for i in chosen]))
    train, validation = texts_of(source, split="train"), texts_of(source, split="validation")
    assert [a + b for a, b in zip(train, validation, strict=True)] == [long[i] for i in chosen]
    assert all(len(a) > 10 * len(b) for a, b in zip(train, validation, strict=True))


# What cannot be read: one line that names the file


def test_missing_paths(tmp_path):
    missing = tmp_path / "nowhere.txt"
    assert complaint(missing) == f"--dataset {missing}: no such file or directory"
    for source in ("./nowhere", "a/b/c", "nowhere.jsonl", "nowhere.txt.gz"):
        assert complaint(source) == f"--dataset {source}: no such file or directory"
    assert "no file matches" in complaint(tmp_path / "*.txt")
    assert "in this directory" in complaint(tmp_path)
    assert "File name too long" in complaint("text in place of a path " * 400)


def test_one_missing_source_among_others(tmp_path):
    (tmp_path / "a.txt").write_text("something")
    assert str(tmp_path / "b.txt") in complaint(tmp_path / "a.txt", tmp_path / "b.txt")


def test_an_unknown_kind_says_which_are_known(tmp_path):
    for name in ("a.doc", "a.doc.gz", "plain"):
        path = tmp_path / name
        path.write_text("x")
        message = complaint(path)
        assert str(path) in message
        assert ".parquet" in message


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_corpus(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(table_bytes(kind, []) if kind in TABLES else b" \n ")
    for split in ("train", "validation", "all"):
        assert f"--dataset {path}: no text in its {split} split" in complaint(path, split=split)


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


def test_an_unknown_split_is_our_mistake():
    with pytest.raises(ValueError, match="split='test'; use train or validation or all"):
        list(read_documents(["stdlib"], "test"))


# The Hub


@pytest.fixture
def hub(monkeypatch):
    """`hub(train=[...], validation=[...])` puts rows in place of the Hub; the calls are noted."""
    import datasets

    calls = []

    def publish(**splits):
        def load_dataset(name, configuration, split, streaming):
            calls.append((name, configuration, split, streaming))
            return datasets.Dataset.from_list(splits[split]).to_iterable_dataset()

        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, configuration: list(splits))
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return publish


def test_hub_datasets_are_streamed_and_split(seed, hub):
    texts = random_texts(200)
    calls = hub(train=[{"text": t} for t in texts])
    train, validation = texts_of("someone/corpus:en", split="train"), texts_of("someone/corpus:en", split="validation")
    assert calls == [("someone/corpus", "en", "train", True)] * 2
    assert set(train).isdisjoint(validation)
    assert sorted(train + validation) == sorted(texts) == sorted(texts_of("someone/corpus:en"))


def test_a_hub_dataset_keeps_its_own_validation_split(seed, hub):
    texts = random_texts(30)
    calls = hub(train=[{"text": t} for t in texts[:20]], validation=[{"text": t} for t in texts[20:]])
    assert texts_of("corpus", split="train") == texts[:20]
    assert texts_of("corpus", split="validation") == texts[20:]
    assert texts_of("corpus") == texts
    assert calls[0] == ("corpus", None, "train", True)


def test_hub_rows_without_text(hub):
    hub(train=[{"content": "a", "id": 1}])
    message = complaint("corpus", split="train")
    assert "--dataset corpus, row 1: no column 'text'; --text_column takes content, id" in message
    hub(train=[{"text": "a"}, {"text": None}])
    assert "--dataset corpus, row 2: column 'text' holds NoneType, not text" in complaint("corpus")


def test_an_unreachable_hub_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach\n'someone/corpus' on the Hub")

    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    message = complaint("someone/corpus")
    assert "--dataset someone/corpus: neither a path nor a dataset that can be opened (ConnectionError: " in message


def test_a_connection_that_breaks_off_is_one_line(monkeypatch, hub):
    import datasets

    def rows(*args, **kwargs):
        yield {"text": "one"}
        yield {"text": "two"}
        raise TimeoutError("read timed out")

    hub(train=[{"text": "x"}])
    monkeypatch.setattr(datasets, "load_dataset", rows)
    assert "--dataset corpus: broke off after row 2 (TimeoutError: read timed out)" in complaint("corpus")
