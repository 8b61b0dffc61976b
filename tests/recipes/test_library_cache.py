"""What was read from the library is kept in a file that is never out of date and may be deleted at any time."""

import json
import os
from pathlib import Path

import pytest
from rhapsode.recipes.alignment.library_cache import recalled
from rhapsode.recipes.data import building


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(building, "DEFAULT_CACHE", str(tmp_path / "cache" / "shards"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "module.py"
    path.write_text("x = 1\n")
    return path


class Reader:
    """Reads a file and code, and counts how often."""

    def __init__(self, source: Path, code: Path):
        self.source, self.code, self.times = source, code, 0

    def __call__(self) -> dict:
        self.times += 1
        return {"text": self.source.read_text(), "code": self.code.read_text(), "rows": [["ä\ud800", True]]}

    def recalled(self) -> dict:
        return recalled([("module.py", self.source)], self.code, self)


@pytest.fixture
def reader(source, tmp_path) -> Reader:
    (tmp_path / "code.py").write_text("pass")
    return Reader(source, tmp_path / "code.py")


def test_it_is_read_once(cache, reader):
    first = reader.recalled()
    assert reader.recalled() == first == Reader.__call__(reader) and reader.times == 2
    assert len(list(cache.glob("library-*.json"))) == 1


def test_a_change_is_seen(cache, reader):
    reader.recalled()
    reader.source.write_text("x = 2\n")
    os.utime(reader.source, ns=(1, 1))
    assert reader.recalled()["text"] == "x = 2\n"
    reader.code.write_text("... ")
    assert reader.recalled()["code"] == "... " and reader.times == 3


@pytest.mark.parametrize("damage", [b"", b'{"text": "x', b"[1]", b"\xff"])
def test_what_is_damaged_or_deleted_is_made_again(cache, reader, damage):
    first = reader.recalled()
    (path,) = cache.iterdir()
    path.write_bytes(damage)
    assert reader.recalled() == first and reader.times == 2
    assert json.loads(path.read_bytes()) == first
    path.unlink()
    assert reader.recalled() == first and reader.times == 3


def test_without_a_place_to_write_it_is_read_each_time(cache, reader):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert reader.recalled() == reader.recalled() and reader.times == 2
