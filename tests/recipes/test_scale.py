"""A corpus that is larger than the memory it may take: a gigabyte of text, tokenized, packed and read.

    pytest tests/recipes/test_scale.py -m slow -s

Oracles: the kernel's own high-water marks of resident memory, which count mapped files too, and the number of words
that were written.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GIGABYTE = 2**30
LIMIT = 10**9  # bytes resident, main process and workers together
MEASURE = """
import json, multiprocessing, sys, threading, time
from pathlib import Path
from transformers import AutoTokenizer
from rhapsode.recipes.data.rows import Processes, open_rows
from rhapsode.recipes.options.pretrain import PretrainOptions

def high_water(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # it has ended
        return 0

def watch():
    while True:
        for worker in multiprocessing.active_children():
            workers[worker.pid] = max(workers.get(worker.pid, 0), high_water(worker.pid))
        time.sleep(0.02)

folder, length = Path(sys.argv[1]), int(sys.argv[2])
workers = {}
tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
threading.Thread(target=watch, daemon=True).start()
result = {"imports": high_water("self")}
options = PretrainOptions(dataset=[str(folder / "corpus")], data_cache=str(folder / "cache"), num_proc=2)
start = time.perf_counter()
rows = open_rows(options, tokenizer, length, Processes())
result |= {"seconds": time.perf_counter() - start, "built": high_water("self"), "workers": list(workers.values())}
start = time.perf_counter()
for n in range(0, len(rows), 16):
    rows.batch(n, 16)
result |= {"reading_seconds": time.perf_counter() - start, "rows": len(rows), "main": high_water("self")}
result |= {"statistics": rows.statistics}
start = time.perf_counter()
open_rows(options, tokenizer, length, Processes())
result |= {"reopening_seconds": time.perf_counter() - start}
print(json.dumps(result))
"""


def write_corpus(folder: Path, size: int, seed: int) -> int:
    """About `size` bytes, three quarters as rows of two .jsonl files and one as a single .txt; returns the words."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(4, 20))) for _ in range(20_000)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(["<b>", "<e>", "<p>", *words]))}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<b>", "eos_token": "<e>", "pad_token": "<p>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "tokenizer")
    (folder / "corpus").mkdir()
    total = 0
    for name, share in (("a.jsonl", 3 / 8), ("b.jsonl", 3 / 8), ("c.txt", 1 / 4)):
        with (folder / "corpus" / name).open("w") as file:
            while file.tell() < size * share:
                lengths = np.minimum(rng.lognormal(5.5, 1.2, 500).astype(int) + 1, 50_000)
                drawn = rng.integers(0, len(words), lengths.sum()).tolist()
                total += len(drawn)
                for end, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
                    text = " ".join([words[i] for i in drawn[end - length : end]])
                    file.write(json.dumps({"text": text}) + "\n" if name.endswith("jsonl") else text + "\n\n")
    return total


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water marks from /proc")
def test_a_gigabyte_of_text_takes_less_than_a_gigabyte_of_memory(seed, tmp_path):
    words = write_corpus(tmp_path, GIGABYTE, seed)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), "2048"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=1))
    counts = result["statistics"]
    train_words = counts["tokens"] - 2 * counts["documents"]  # without BOS and EOS
    assert 0.9 * words < train_words < words
    assert counts["bytes"] > 0.9 * GIGABYTE
    assert result["reopening_seconds"] < result["seconds"] / 10
    assert len(result["workers"]) == 2
    assert result["main"] + sum(result["workers"]) < LIMIT
