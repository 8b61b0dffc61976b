"""Where documents come from: the split, the kinds of files, and one clear line for whatever cannot be read.

Oracles: the documents that were written, the standard library's own list of files, and, for the split, the union of its
sides.
"""

import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.recipes.data import readers
from rhapsode.recipes.data.corpus import VALIDATION_SHARE, _part, read_documents, split_of, stdlib_files

from .tables import ALPHABET, KINDS, TABLES, complaint, pack, random_texts, table_bytes, texts_of, write_texts

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


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_larger_share_validates_what_the_smaller_one_did_and_more(seed, tmp_path, kind):
    texts = random_texts(400)
    source = tmp_path / ("texts" if kind == "txt" else "t.jsonl")
    if kind == "txt":
        write_texts(source, texts)
    else:
        source.write_bytes(table_bytes(kind, texts))
    few, many = (set(texts_of(source, split="validation", validation_share=share)) for share in (0.05, 0.3))
    assert few < many
    assert few == set(texts_of(source, split="validation"))
    assert 0.2 < len(many) / len(texts) < 0.4
    assert sorted(texts_of(source, split="train", validation_share=0.3)) == sorted(set(texts) - many)


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


@pytest.mark.parametrize("packing", ["", "gz"])
def test_of_a_long_text_the_end_of_the_whole_validates(seed, tmp_path, monkeypatch, packing):
    """It is read as several documents, of which most are on one side as a whole."""
    monkeypatch.setattr(readers, "LONGEST_TEXT", 1000)
    text = "".join(f"line {i:04}\n" for i in range(2000))
    path = tmp_path / f"book.txt{'.' * bool(packing)}{packing}"
    path.write_bytes(pack(text.encode(), packing) if packing else text.encode())
    share = random.uniform(0.1, 0.4)
    train, validation = (texts_of(path, split=split, validation_share=share) for split in ("train", "validation"))
    assert len(train) > 10
    assert len(validation) > 1
    assert "".join(train + validation) == text
    assert 0 <= len("".join(validation)) - int(share * len(text)) < len("line 0000\n")


@given(st.text(min_size=2), st.text(alphabet="a\n", min_size=2), st.sampled_from([VALIDATION_SHARE, 0.1, 0.4]))
def test_the_validation_part_has_about_its_share(any_text, lines, share):
    for text in (any_text, lines):
        train, validation = _part(text, "train", share), _part(text, "validation", share)
        assert train + validation == text
        least = max(1, int(len(text) * share))
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


def test_a_share_of_the_rows_of_a_hub_dataset_validates(seed, hub):
    texts = random_texts(400)
    hub(train=[{"text": t} for t in texts])
    train, validation = (texts_of("corpus", split=split, validation_share=0.3) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(texts)
    assert 0.15 < len(validation) / len(texts) < 0.45  # six standard deviations


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
