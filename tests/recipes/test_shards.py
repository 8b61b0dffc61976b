"""Tokens on disk: what was tokenized, once, whatever stops it, and found again by what it was made of.

Oracles: the same documents tokenized in memory, and the bytes of the files of an uninterrupted run.
"""

import json
import os
import resource
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from rhapsode.recipes.data import building, identity, parallel, shards
from rhapsode.recipes.data.building import Cache
from rhapsode.recipes.data.corpus import Document, read_documents
from rhapsode.recipes.data.identity import tokenizer_digest
from rhapsode.recipes.data.rows import Processes, open_rows, open_validation
from rhapsode.recipes.data.tokens import tokenize
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

SHARD = 20_000  # bytes: some shards of the small corpus


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, "SHARD_BYTES", SHARD)


@pytest.fixture
def table(corpus, tmp_path) -> Path:
    """The paragraphs of the small corpus as rows: hundreds of documents."""
    path = tmp_path / "table.jsonl"
    texts = [text for d in read_documents([str(corpus)], "all") for text in d.text.split("\n\n")]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def shards_of(cache: Path, source, tokenizer, split="train", processes=1, column="text"):
    return Cache(str(cache), processes, show_progress=False).shards(str(source), split, column, tokenizer)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory but locks, by its name."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def keys(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


# What is in them


@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_hold_what_was_tokenized(tmp_path, table, tokenizer, split):
    expected = tokenize(read_documents([str(table)], split), tokenizer, "", show_progress=False)
    found = shards_of(tmp_path / "cache", table, tokenizer, split)
    assert np.concatenate([shard.ids for shard in found]).tolist() == expected.ids.tolist()
    documents = [document.tolist() for shard in found for document in shard.documents()]
    assert documents == [document.tolist() for document in expected.documents()]
    assert np.concatenate([shard.num_bytes for shard in found]).tolist() == expected.num_bytes.tolist()
    for shard in found:
        assert [a.dtype for a in (shard.ids, shard.starts, shard.num_bytes)] == [np.uint16, np.int64, np.int64]
        assert isinstance(shard.ids.base, np.memmap)
    sizes = [shard.sizes["bytes"] for shard in found]
    assert all(size >= SHARD for size in sizes[:-1])
    assert all(size - shard.num_bytes[-1] < SHARD for size, shard in zip(sizes, found, strict=True))
    assert len(found) > 2 or split == "validation"


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    words = {f"w{i}": i for i in range(70_000)}
    backend = Tokenizer(models.WordLevel(words))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "t.jsonl").write_text('{"text": "w3 w69999 w65536"}\n' * 2)
    (shard,) = shards_of(tmp_path / "c", tmp_path / "t.jsonl", PreTrainedTokenizerFast(tokenizer_object=backend), "all")
    assert shard.ids.tolist() == [3, 69999, 65536] * 2
    assert shard.ids.dtype == np.uint32


def test_the_number_of_processes_changes_nothing(tmp_path, table, tokenizer, monkeypatch):
    shards_of(tmp_path / "one", table, tokenizer)
    monkeypatch.setattr(parallel, "ALONE", 1)
    monkeypatch.setattr(parallel, "BATCH", 3000)
    helped = []
    monkeypatch.setattr(
        parallel, "_encode_elsewhere", lambda *a, f=parallel._encode_elsewhere: helped.append(1) or f(*a)
    )
    shards_of(tmp_path / "two", table, tokenizer, processes=2)
    assert helped
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_workers_do_not_import_torch(tokenizer, monkeypatch):
    """Two hundred megabytes each, and seconds."""
    monkeypatch.setattr(parallel, "_encode_in_worker", eval)
    asked = ["'torch' in __import__('sys').modules", "'tokenizers' in __import__('sys').modules"]
    assert list(parallel._encode_elsewhere(iter(asked), tokenizer, np.uint16, 1)) == [False, True]


def test_a_worker_that_dies_is_one_line(tokenizer, monkeypatch):
    monkeypatch.setattr(parallel, "_encode_in_worker", os._exit)
    with pytest.raises(UserError, match="--num_proc 1: a process died, of too little memory maybe; use fewer"):
        list(parallel._encode_elsewhere(iter([9]), tokenizer, np.uint16, 1))


# Made once


def test_the_second_time_nothing_is_tokenized(tmp_path, table, tokenizer, monkeypatch):
    before = [shard.ids.tolist() for shard in shards_of(tmp_path / "c", table, tokenizer)]
    monkeypatch.setattr(building, "encode_all", None)
    assert [shard.ids.tolist() for shard in shards_of(tmp_path / "c", table, tokenizer)] == before


def test_what_makes_other_tokens_makes_another_directory(tmp_path, corpus, table, tokenizer):
    """And what does not, as moving the files, does not."""
    cache = tmp_path / "c"
    shutil.copytree(corpus, tmp_path / "one")
    shards_of(cache, tmp_path / "one", tokenizer)
    found = keys(cache)
    (tmp_path / "one").rename(tmp_path / "two")
    shards_of(cache, tmp_path / "two", tokenizer)
    shards_of(cache, tmp_path / "two" / "*.py", tokenizer)
    assert keys(cache) == found
    text = (tmp_path / "two" / "glob.py").read_text()
    (tmp_path / "two" / "glob.py").write_text(text.replace("import", "Import", 1))  # of the same size
    shards_of(cache, tmp_path / "two", tokenizer)
    shards_of(cache, tmp_path / "two", tokenizer, "all")
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.add_tokens(["self."])
    shards_of(cache, tmp_path / "two", other)
    assert len(keys(cache)) == 4
    half = Cache(str(cache), 1, show_progress=False, validation_share=0.5)
    assert sum(len(s.starts) for s in half.shards(str(table), "train", "text", tokenizer)) < sum(
        len(s.starts) for s in shards_of(cache, table, tokenizer)
    )
    assert len(keys(cache)) == 6


def test_a_tokenizer_is_known_by_what_it_does(tokenizer, tokenizer_directory):
    again = AutoTokenizer.from_pretrained(tokenizer_directory)
    again(["padded", "and truncated"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(again) == tokenizer_digest(tokenizer)
    again.eos_token = "<|pad|>"
    assert tokenizer_digest(again) != tokenizer_digest(tokenizer)
    slow = [tokenizer_digest(ByT5Tokenizer(extra_ids=extra)) for extra in (0, 0, 5)]
    assert slow[0] == slow[1] != slow[2]


def test_digests_of_large_files_are_remembered_until_they_change(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(identity, "REMEMBERED", 10)
    hashed, digest = [], identity.hashlib.file_digest
    monkeypatch.setattr(
        identity.hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or digest(file, kind)
    )
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "some words"}\n' * 3)
    shards_of(tmp_path / "c", path, tokenizer, "all")
    shards_of(tmp_path / "c", path, tokenizer, "all")
    assert len(hashed) == 2  # too new to be sure
    os.utime(path, (10**9, 10**9))
    shards_of(tmp_path / "c", path, tokenizer, "all")
    shards_of(tmp_path / "c", path, tokenizer, "all")
    assert len(hashed) == 3
    path.write_text('{"text": "other word"}\n' * 3)
    os.utime(path, (10**9, 10**9 + 1))
    shards_of(tmp_path / "c", path, tokenizer, "all")
    assert len(hashed) == 4
    assert len(keys(tmp_path / "c")) == 2


# What stops it


def test_a_killed_run_goes_on_with_the_next_shard(tmp_path, table, tokenizer, monkeypatch):
    shards_of(tmp_path / "whole", table, tokenizer)
    rename, renamed = Path.rename, []

    def die(self, target):
        """At the third shard, as SIGKILL does: its temporary directory stays behind."""
        if len(renamed) == 2:
            monkeypatch.setattr(shards.shutil, "rmtree", lambda *args, **kwargs: None)
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        shards_of(tmp_path / "c", table, tokenizer)
    monkeypatch.undo()
    monkeypatch.setattr(building, "SHARD_BYTES", SHARD)
    (directory,) = (path for path in (tmp_path / "c").iterdir() if path.is_dir())
    assert sum("unfinished" in path.name for path in directory.iterdir()) == 1
    kept = {path: path.stat().st_ino for path in renamed}
    texts, encode = [], parallel.encode
    monkeypatch.setattr(parallel, "encode", lambda t, batch, dtype: texts.extend(batch) or encode(t, batch, dtype))
    shards_of(tmp_path / "c", table, tokenizer)
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")
    assert {path: path.stat().st_ino for path in kept} == kept
    done = sum(len(np.load(path / "starts.npy")) for path in kept)
    assert texts == [d.text for d in read_documents([str(table)], "train")][done:]


def test_two_that_build_at_once_build_once(tmp_path, table, tokenizer_directory, monkeypatch):
    """Locks of files hold between threads as between processes, and threads start sooner."""
    builds, build = [], Cache._build
    monkeypatch.setattr(Cache, "_build", lambda *args: builds.append(1) or build(*args))
    found, gate = [], threading.Barrier(3)

    def one():
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
        gate.wait()
        found.append([shard.ids.tolist() for shard in shards_of(tmp_path / "c", table, tokenizer)])

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]
    assert found[0] == found[1] == found[2]


@pytest.fixture
def small_files():
    """The kernel refuses to write a file above 8 kB, with an error much like that of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room(tmp_path, table, tokenizer, small_files):
    with pytest.raises(UserError) as caught:
        shards_of(tmp_path / "c", table, tokenizer)
    assert str(caught.value) == (
        f"--data_cache {tmp_path / 'c'}: File too large; finished shards are kept, make room or name another directory"
    )
    assert contents(tmp_path / "c") == {}


def test_a_cache_that_cannot_be_written(tmp_path, table, tokenizer):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--data_cache {tmp_path / 'file'}: (File exists|Not a directory)"):
        shards_of(tmp_path / "file", table, tokenizer)


@pytest.mark.parametrize("name", ["ids", "starts", "num_bytes", "index"])
def test_a_damaged_cache_is_named(tmp_path, table, tokenizer, name):
    directory = shards_of(tmp_path / "c", table, tokenizer)[0].directory
    path = directory.parent / "index.json" if name == "index" else directory / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=f"--data_cache: {directory.parent} is damaged; delete it"):
        shards_of(tmp_path / "c", table, tokenizer)


def test_a_source_without_text_leaves_nothing(tmp_path, tokenizer):
    (tmp_path / "t.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="no text in its train split"):
        shards_of(tmp_path / "c", tmp_path / "t.jsonl", tokenizer)
    assert contents(tmp_path / "c") == {}


# As rows


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_maps_that_are_let_go_change_no_row(tmp_path, table, tokenizer, monkeypatch, packing):
    options = PretrainOptions(dataset=[str(table)], data_cache=str(tmp_path / "c"), packing=packing)
    kept = open_rows(options, tokenizer, 48, Processes())
    expected = kept.batch(0, len(kept))
    monkeypatch.setattr(shards, "MAPPED", 2 * shards.FAULT)
    let_go, calls = shards.OpenMaps.let_go, []
    monkeypatch.setattr(shards.OpenMaps, "let_go", lambda self: calls.append(len(self.arrays)) or let_go(self))
    rows = open_rows(options, tokenizer, 48, Processes())
    for key, value in rows.batch(0, len(rows)).items():
        assert value.tolist() == expected[key].tolist(), key
    assert len(calls) > len(rows) / 3  # at every second piece of a document
    assert max(calls) > 3


def test_sources_are_joined_or_mixed(tmp_path, corpus, table, tokenizer):
    """Without weights a row may hold documents of both, with weights only of one."""
    sources = [str(corpus), str(table)]
    options = PretrainOptions(dataset=sources, data_cache=str(tmp_path / "c"), packing="concatenate")
    joined = open_rows(options, tokenizer, 64, Processes())
    expected = tokenize(read_documents(sources, "train"), tokenizer, "", show_progress=False)
    found = np.concatenate([joined.sources[0].row(i)["input_ids"] for i in range(len(joined))])
    assert found.tolist() == expected.ids[: len(found)].tolist()
    assert [d.tolist() for d in joined.documents()] == [d.tolist() for d in expected.documents()]
    assert len(expected.ids) - len(found) < 64
    options.dataset_weights = [1, 2]
    mixed = open_rows(options, tokenizer, 64, Processes())
    each = [tokenize(read_documents([s], "train"), tokenizer, "", show_progress=False) for s in sources]
    assert [len(source) for source in mixed.sources] == [len(stream.ids) // 64 for stream in each]
    held_out = open_validation(options, tokenizer, Processes())
    expected = tokenize(read_documents(sources, "validation"), tokenizer, "", show_progress=False)
    assert [d.tolist() for d in held_out.documents()] == [d.tolist() for d in expected.documents()]
    assert held_out.num_bytes.tolist() == expected.num_bytes.tolist()


def test_too_little_text_for_one_row(tmp_path, tokenizer):
    (tmp_path / "t.jsonl").write_text('{"text": "few words"}\n' * 2)
    options = PretrainOptions(
        dataset=[str(tmp_path / "t.jsonl")], data_cache=str(tmp_path / "c"), packing="concatenate"
    )
    with pytest.raises(
        UserError, match=r"t.jsonl: the training data has \d+ tokens, fewer than one sequence of max_leng"
    ):
        open_rows(options, tokenizer, 500, Processes())


def test_hub_datasets_are_known_by_their_commit(tmp_path, tokenizer, monkeypatch):
    import datasets
    import huggingface_hub

    commits, texts = ["a", "a", "b"], [Document("", f"text {i}") for i in range(30)]
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name: type("Info", (), {"sha": commits.pop(0)})
    )
    stream = datasets.Dataset.from_list([{"text": d.text} for d in texts]).to_iterable_dataset()
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, configuration: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration, split, streaming: stream)
    counts = []
    for _ in range(3):
        shards_of(tmp_path / "c", "someone/corpus", tokenizer, "all")
        counts.append(len(keys(tmp_path / "c")))
    assert counts == [1, 1, 2]
