"""What training gives: the sizes and ids it promises, the same each time, for a class that transformers has."""

import json
import os
import subprocess
import sys
import tracemalloc

import pytest
from rhapsode.tokenization import encode_texts, train_tokenizer
from rhapsode.tokenization.algorithms import ALGORITHMS
from rhapsode.tokenization.special_tokens import SPECIAL_TOKENS, UNK
from rhapsode.tokenization.training import CHUNK, _chunks, check_vocabulary
from transformers import AutoTokenizer

from .conftest import VOCAB_SIZE, sources, trained

PROBE = "def f(x):\n    return '<|eos|>' + \u00e9\u4e2d # 12345"
READ_ELSEWHERE = """
import json, sys
sys.modules["rhapsode"] = None  # an import of it fails
from transformers import AutoTokenizer
text, paths = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps({name: AutoTokenizer.from_pretrained(path)(text)["input_ids"] for name, path in paths.items()}))
"""


def least(algorithm: str) -> int:
    row = ALGORITHMS[algorithm]
    return len(row.alphabet) + len(SPECIAL_TOKENS) + row.needs_unk + 1


@pytest.mark.parametrize("algorithm", [*ALGORITHMS])
def test_sizes_from_the_least_on(algorithm, texts):
    for vocab_size in (least(algorithm), 700):
        tokenizer = train_tokenizer(texts, algorithm, vocab_size, show_progress=False)
        assert len(tokenizer) == (vocab_size if algorithm != "char" else min(vocab_size, len(tokenizer)))
        assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
        if not ALGORITHMS[algorithm].needs_unk:
            assert tokenizer.decode(encode_texts(tokenizer, [PROBE])[0]) == PROBE


def test_special_tokens_have_the_same_ids_in_every_tokenizer(any_tokenizer):
    expected = list(range(len(SPECIAL_TOKENS)))
    assert any_tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == expected
    assert (any_tokenizer.pad_token_id, any_tokenizer.bos_token_id, any_tokenizer.eos_token_id) == (0, 1, 2)
    unk = {any_tokenizer.unk_token_id} - {None}
    assert set(any_tokenizer.all_special_ids) == set(expected) | unk
    assert unk <= {len(SPECIAL_TOKENS)}
    assert (any_tokenizer.unk_token == UNK) == bool(unk)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS])
def test_twice_is_the_same(algorithm):
    again = train_tokenizer(iter(sources()), algorithm, VOCAB_SIZE, show_progress=False)
    assert again.backend_tokenizer.to_str() == trained(algorithm).backend_tokenizer.to_str()


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece", "unigram"])
def test_training_shortens_the_text(algorithm, texts):
    num_bytes = sum(len(text.encode()) for text in texts)
    small = train_tokenizer(texts, algorithm, least(algorithm), show_progress=False)
    many, few = (sum(map(len, t(texts, add_special_tokens=False)["input_ids"])) for t in (small, trained(algorithm)))
    assert few < 0.5 * num_bytes < many <= num_bytes


def test_saved_beside_a_model_and_opened_with_and_without_us(tmp_path):
    paths, expected = {}, {}
    for algorithm in ALGORITHMS:
        directory = tmp_path / algorithm
        trained(algorithm).save_pretrained(directory)
        (directory / "config.json").write_text('{"model_type": "rhapsode"}', encoding="utf-8")
        reloaded = AutoTokenizer.from_pretrained(directory)
        assert reloaded.chat_template == trained(algorithm).chat_template
        assert reloaded.all_special_tokens == trained(algorithm).all_special_tokens
        assert reloaded.response_template == trained(algorithm).response_template
        paths[algorithm], expected[algorithm] = str(directory), trained(algorithm)(PROBE)["input_ids"]
        assert reloaded(PROBE)["input_ids"] == expected[algorithm]
    command = [sys.executable, "-c", READ_ELSEWHERE, PROBE, json.dumps(paths)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout
    assert json.loads(output) == expected


def test_long_documents_are_cut_at_lines_and_nothing_is_lost(rng):
    lines = ["x" * rng.randrange(200) + "\n" for _ in range(30_000)]
    text = "".join(lines) + "y" * (2 * CHUNK + 7)
    chunks = list(_chunks(["", text, "z"]))
    assert "".join(chunks) == text + "z"
    assert max(map(len, chunks)) <= CHUNK
    assert chunks[0].endswith("\n")


def test_a_stream_is_not_kept(texts):
    """Python's memory stays at a few documents; the library counts words and keeps no text."""
    document, count = texts[0], 30

    def stream():
        for i in range(count):
            yield document + str(i)

    tracemalloc.start()
    train_tokenizer(stream(), "bpe", 400, show_progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * len(document) / 2


@pytest.mark.parametrize("algorithm", [*ALGORITHMS])
@pytest.mark.parametrize("nothing", [[], ["", ""]])
def test_no_text_is_refused(algorithm, nothing):
    with pytest.raises(ValueError, match="training text is empty"):
        train_tokenizer(nothing, algorithm, 900, show_progress=False)


def test_no_room_and_no_such_algorithm():
    with pytest.raises(ValueError, match=r"vocab_size=272 is too small for bpe.*use 273 or more"):
        check_vocabulary("bpe", 272)
    with pytest.raises(ValueError, match="algorithm='morfessor'; use one of bpe, wordpiece, unigram, word, char"):
        check_vocabulary("morfessor", 8192)
