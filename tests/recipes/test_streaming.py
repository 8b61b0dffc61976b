"""Rows made while training: every document once an epoch, and a position that is exact to the bit on resume.

Oracles: an uninterrupted stream, the documents that were written, and the rows of the same documents from memory.
"""

import json
import random
from itertools import islice

import numpy as np
import pytest
import torch
from rhapsode.recipes.data import streaming
from rhapsode.recipes.data.corpus import Document, read_documents
from rhapsode.recipes.data.rows import Processes, open_rows, open_validation
from rhapsode.recipes.data.sources import open_source
from rhapsode.recipes.data.tokens import IGNORED, tokenize
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.pretrain import PretrainOptions
from transformers import AutoTokenizer

LENGTH = 32
KINDS = ("files", "hub_jsonl", "hub_parquet")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return AutoTokenizer.from_pretrained(tokenizer_directory)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 700)  # characters: a few of the documents below


def write_tables(folder, sizes: list[int], kind: str = "jsonl") -> list[str]:
    """A folder of tables with so many rows each; the texts."""
    draw = random.Random(random.random())
    folder.mkdir()
    texts = []
    for i, size in enumerate(sizes):
        rows = [{"text": f"{i} {j} " + "word " * draw.randint(1, 60), "id": j} for j in range(size)]
        texts += [row["text"] for row in rows]
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), folder / f"{i}.parquet", row_group_size=2)
        else:
            (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts


@pytest.fixture
def dataset(seed, tmp_path, monkeypatch):
    """`dataset(kind, sizes)`: the name of a source, and its texts; the kinds of the Hub are opened by the library."""

    def make(kind: str, sizes: list[int]) -> tuple[str, list[str]]:
        import datasets

        if kind == "files":
            texts = write_tables(tmp_path / "files", sizes)
            return str(tmp_path / "files"), texts
        builder = {"hub_jsonl": "json", "hub_parquet": "parquet"}[kind]
        texts = write_tables(tmp_path / kind, sizes, kind.removeprefix("hub_"))
        files = sorted(str(path) for path in (tmp_path / kind).iterdir())
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        load = datasets.load_dataset
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, configuration: ["train"])
        monkeypatch.setattr(
            datasets,
            "load_dataset",
            lambda name, configuration, split, streaming: load(
                builder, data_files=files, split=split, streaming=streaming
            ),
        )
        return f"someone/{kind}", texts

    return make


def options(source, **changes) -> PretrainOptions:
    sources = source if isinstance(source, list) else [source]
    return PretrainOptions(**{"dataset": sources, "streaming": True, "max_steps": 1, "seed": 3, **changes})


def take(rows, count: int) -> list[torch.Tensor]:
    return [rows.batch(n, 1) for n in range(count)]


def assert_equal(batches: list[dict], others: list[dict]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for key in ("input_ids", "position_ids", "labels"):
            assert torch.equal(batch[key], other[key]), key


# Exact resume


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_whoever_resumes_reads_what_an_uninterrupted_reader_does(
    small_windows, dataset, tokenizer, kind, packing, count
):
    """From any row, twice in a row, within a window and between windows, in the first epoch and later."""
    source, _ = dataset(kind, [14, 6, 18])
    process, asked = Processes(count - 1, count), options(source, packing=packing)
    whole = open_rows(asked, tokenizer, LENGTH, process)
    expected, states = [], []
    while not states or states[-1]["sources"][0]["begin"]["epoch"] < 2:
        states.append(json.loads(json.dumps(whole.state_dict())))
        expected.append(whole.batch(len(expected), 1))
    assert states[-1]["sources"][0]["begin"]["window"] > 3
    resumed = open_rows(asked, tokenizer, LENGTH, process)
    for begin in random.sample(range(len(expected)), 4):
        resumed.load_state_dict(states[begin])
        assert resumed.state_dict() == states[begin]
        middle = random.randint(begin, len(expected) - 1)
        assert_equal([resumed.batch(n, 1) for n in range(begin, middle)], expected[begin:middle])
        again = open_rows(asked, tokenizer, LENGTH, process)
        again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        assert_equal([again.batch(n, 1) for n in range(middle, len(expected))], expected[middle:])
        assert again.statistics == whole.statistics


def test_the_share_that_validates_is_not_read(tmp_path, tokenizer):
    (tmp_path / "book.txt").write_text("".join(f"line {i:03}\n" for i in range(1000)))
    asked = options(str(tmp_path / "book.txt"), validation_share=0.4)
    (held_out,) = open_validation(asked, tokenizer, Processes()).documents()
    assert tokenizer.decode(held_out[:20], skip_special_tokens=True).startswith("line 600\nline 601\n")
    rows = open_rows(asked, tokenizer, 2**14, Processes()).batch(0, 1)["input_ids"]
    assert "line 400" in tokenizer.decode(rows[0])
    assert "line 600" not in tokenizer.decode(rows[0])


def test_a_mixture_resumes_in_every_source(small_windows, seed, tmp_path, tokenizer):
    for name in ("a", "b"):
        write_tables(tmp_path / name, [20, 10])
    asked = options([str(tmp_path / "a"), str(tmp_path / "b")], dataset_weights=[2, 1])
    whole, half = (open_rows(asked, tokenizer, LENGTH, Processes()) for _ in range(2))
    expected = take(whole, 60)
    take(half, 25)
    resumed = open_rows(asked, tokenizer, LENGTH, Processes())
    resumed.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert_equal([resumed.batch(n, 1) for n in range(25, 60)], expected[25:])
    assert [reader["taken"] > 0 for reader in whole.state_dict()["sources"]] == [True, True]


def test_another_number_of_processes_is_refused(small_windows, dataset, tokenizer):
    source, _ = dataset("files", [20])
    rows = open_rows(options(source), tokenizer, LENGTH, Processes(0, 2))
    rows.batch(0, 2)
    one = open_rows(options(source), tokenizer, LENGTH, Processes(0, 1))
    with pytest.raises(UserError, match=r"with 1 processes: its documents were divided among 2, .* start 2 again"):
        one.load_state_dict(rows.state_dict())


def test_a_stream_cannot_go_back(small_windows, dataset, tokenizer):
    rows = open_rows(options(dataset("files", [20])[0]), tokenizer, LENGTH, Processes())
    rows.batch(8, 4)
    rows.batch(20, 4)
    with pytest.raises(ValueError, match="start=20, but the stream has been read up to 24"):
        rows.batch(20, 4)
    with pytest.raises(TypeError):
        len(rows)


# What is read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_divide_each_epoch_among_them(dataset, kind, count):
    source, _ = dataset(kind, [7, 3, 9])
    train = sorted(document.text for document in read_documents([source], "train"))
    orders = []
    for epoch in range(3):
        shares = [list(open_source(source, "text", 5, index, count).texts(epoch, None)) for index in range(count)]
        assert sorted(text for share in shares for text in share) == train
        assert all(shares)
        orders.append(tuple(shares[0]))
    assert len(set(orders)) > 1  # of the files


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_goes_on_from_any_position(dataset, kind):
    source, _ = dataset(kind, [7, 3, 9])
    whole = list(open_source(source, "text", 5, 0, 1).texts(1, None))
    reader = open_source(source, "text", 5, 0, 1)
    texts, positions = reader.texts(1, None), []
    for _ in whole:
        next(texts)
        positions.append(json.loads(json.dumps(reader.position)))
    for n, position in enumerate(positions, 1):
        assert list(open_source(source, "text", 5, 0, 1).texts(1, position)) == whole[n:]


def test_an_epoch_of_best_fit_holds_every_token_once(small_windows, dataset, tokenizer):
    source, _ = dataset("files", [40, 20])
    expected = tokenize(read_documents([source], "train"), tokenizer, "", show_progress=False)
    rows = open_rows(options(source), tokenizer, LENGTH, Processes())
    found = []
    while rows.statistics["bytes"] < expected.num_bytes.sum() or len(found) < rows.statistics["rows"]:
        found.append(rows.batch(len(found), 1)["input_ids"][0])
    ids = torch.cat(found)
    assert sorted(ids[ids != tokenizer.pad_token_id].tolist()) == sorted(expected.ids.tolist())
    statistics = rows.statistics
    assert statistics["documents"] == len(expected.starts)
    assert statistics["tokens"] == len(expected.ids)
    sizes = np.diff(expected.starts, append=len(expected.ids))
    assert statistics["cut_share"] == np.mean(sizes > LENGTH)
    assert statistics["padding_share"] == (ids == tokenizer.pad_token_id).sum() / len(ids)


def test_concatenation_carries_tokens_over_windows_and_epochs(dataset, tokenizer, monkeypatch):
    """One document a window, none of which fills a row; rows in order, as the shuffle is within a window."""
    monkeypatch.setattr(streaming, "WINDOW", 1)
    source, _ = dataset("files", [5])
    order = [list(open_source(source, "text", 3, 0, 1).texts(epoch, None)) for epoch in range(4)]
    texts = [(text, text) for epoch in order for text in epoch]
    flat = tokenize((Document(*t) for t in texts), tokenizer, "", show_progress=False)
    length = max(len(document) for document in flat.documents()) + 3
    count = len(flat.ids) // length
    rows = open_rows(options(source, packing="concatenate"), tokenizer, length, Processes()).batch(0, count)
    assert rows["input_ids"].flatten().tolist() == flat.ids[: count * length].tolist()
    starts = flat.starts[flat.starts < count * length]
    assert torch.nonzero(rows["labels"].flatten() == IGNORED).flatten().tolist() == starts.tolist()


def test_seeds_differ_and_repeat(small_windows, dataset, tokenizer):
    source, _ = dataset("files", [20, 20])
    one, two, other = (
        torch.cat(
            [b["input_ids"] for b in take(open_rows(options(source, seed=s), tokenizer, LENGTH, Processes()), 30)]
        )
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_rows_come_from_each_source_by_weight(small_windows, seed, tmp_path, tokenizer):
    for name, word in (("a", "alpha"), ("b", "beta")):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{word} " * 80}) + "\n" for _ in range(50))
        )
    asked = options([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], dataset_weights=[3, 1])
    rows = open_rows(asked, tokenizer, LENGTH, Processes())
    texts = [tokenizer.decode(batch["input_ids"][0]) for batch in take(rows, 80)]
    assert sum("alpha" in text for text in texts) == 60
    assert sum("beta" in text for text in texts) == 20


def test_validation_is_read_up_to_a_number_of_documents(dataset, tokenizer, monkeypatch):
    from rhapsode.recipes.data import rows

    source, _ = dataset("files", [100])
    held_out = [d.text for d in read_documents([source], "validation")]
    assert len(open_validation(options(source), tokenizer, Processes()).documents()) == len(held_out)
    monkeypatch.setattr(rows, "STREAMED_VALIDATION", 1)
    stream = open_validation(options(source), tokenizer, Processes())
    assert [tokenizer.decode(d[1:-1].tolist()) for d in stream.documents()] == list(islice(held_out, 1))


# What is refused


def test_what_streaming_cannot_do(tmp_path, tokenizer):
    with pytest.raises(UserError, match="--streaming has no epochs to count: say --max_steps"):
        open_rows(options("stdlib", max_steps=None), tokenizer, LENGTH, Processes())
    with pytest.raises(UserError, match="needs --dataset_weights: their sizes are not known"):
        open_rows(options(["stdlib", "stdlib"]), tokenizer, LENGTH, Processes())


def test_too_few_documents_for_the_processes(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("one text only, of which the end validates")
    rows = open_rows(options(str(tmp_path / "a.txt")), tokenizer, LENGTH, Processes(1, 2))
    with pytest.raises(UserError, match="no text for this process; each needs a document of its own"):
        rows.batch(0, 1)


def test_what_breaks_off_is_one_line(small_windows, seed, tmp_path, tokenizer):
    write_tables(tmp_path / "tables", [30])
    with (tmp_path / "tables" / "0.jsonl").open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(UserError, match=r"0.jsonl: line 31 is not JSON"):  # at once, if no row before it is held out
        take(open_rows(options(str(tmp_path / "tables")), tokenizer, LENGTH, Processes()), 1000)
