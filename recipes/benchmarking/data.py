"""Text to ids, and ids to batches.

The peers are what a program on transformers has: `datasets.map` with the same tokenizer, and torch's DataLoader over
the dataset that it gives. The limit of the first is the tokenizers library alone, whose ids nobody takes out; that of
the second is memory: three numbers of eight bytes a token, ids, positions and labels.
"""

import json
from pathlib import Path

import datasets
import numpy as np
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, default_data_collator

from ..data.layout import BestFitRows
from ..data.mixture import ShuffledRows
from ..data.packing import plan_best_fit
from ..data.parallel import available_cores, encode_all
from ..data.tokens import TokenStream
from .bench import Bench
from .figures import Entry, Figure, entries, round_shares
from .interleaving import LIMIT, OURS, PEER, Contender, Entrant
from .limits import BANDWIDTH, CONTENDER, entrant, values
from .turns import Turns
from .work import read_texts

BATCHES = 50  # of one unit of a loader
BYTES_A_TOKEN = 24
OWN, MAP, LIBRARY, LOADER = "rhapsode", "datasets.map", "tokenizers", "DataLoader"
TEXTS = "texts.json"


def tokenize(turns: Turns, way: str, texts: str, tokenizer: str) -> None:
    """A unit is all of the text."""
    documents = json.loads(Path(texts).read_text(encoding="utf-8"))
    encoder = AutoTokenizer.from_pretrained(tokenizer)
    table = datasets.Dataset.from_dict({"text": documents})
    datasets.disable_caching()
    datasets.disable_progress_bars()

    def unit() -> dict:
        if way == OWN:
            return {"tokens": sum(len(batch.ids) for batch in encode_all(documents, encoder, np.uint16, cores))}
        if way == LIBRARY:
            return {"tokens": sum(map(len, encoder.backend_tokenizer.encode_batch_fast(documents)))}
        table.map(lambda rows: encoder(rows["text"]), batched=True, remove_columns=["text"], load_from_cache_file=False)
        return {}

    cores = available_cores()
    unit()
    turns.ready()
    turns.serve(unit)


def load(turns: Turns, way: str, documents: str, rows: str, batch: int, length: int, seed: int) -> None:
    """A unit is `BATCHES` batches."""
    if way == OWN:
        arrays = np.load(documents)
        stream = TokenStream(arrays["ids"].astype(np.uint16), arrays["starts"], arrays["num_bytes"])
        plan = plan_best_fit(stream.starts, stream.num_tokens, length)
        source, at = ShuffledRows([BestFitRows([stream], [plan], length, 0)], [1], seed), 0

        def unit() -> dict:
            nonlocal at
            for _ in range(BATCHES):
                source.batch(at, batch)
                at += batch
            return {"tokens": BATCHES * batch * length}
    else:
        ids = np.load(rows).tolist()
        table = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})

        def unit() -> dict:
            loaded = 0
            while loaded < BATCHES:
                loader = DataLoader(table, batch_size=batch, shuffle=True, collate_fn=default_data_collator)
                for _, found in zip(range(BATCHES - loaded), loader, strict=False):
                    loaded += len(found["input_ids"]) > 0
            return {"tokens": BATCHES * batch * length}

    unit()
    turns.ready()
    turns.serve(unit)


def measure(bench: Bench) -> list[Figure]:
    return [_tokenizers(bench), _loaders(bench)]


def _tokenizers(bench: Bench) -> Figure:
    texts = [document.text for document in read_texts(bench.options)]
    path = bench.work / TEXTS
    path.write_text(json.dumps(texts), encoding="utf-8")
    kinds = {OWN: OURS, MAP: PEER, LIBRARY: LIMIT}
    arguments = {"texts": str(path), "tokenizer": str(bench.work / "tokenizer")}
    contenders = [
        Contender(name, f"{__name__}:tokenize", kind, arguments | {"way": name}) for name, kind in kinds.items()
    ]
    with bench.stage("data tokenizer", contenders) as stage:
        samples = bench.take_turns(stage, "data tokenizer", [Entrant(name, name) for name in kinds], share=0.6)
    megabytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / 1e6
    speed = {name: [megabytes / s["seconds"] for s in rows] for name, rows in samples.items()}
    rows: list[Entry] = entries(speed, kinds, stage.faults)
    for entry in rows:
        entry.shares = round_shares(entry.values, speed[LIBRARY])
    return Figure("data", f"tokenizer, {megabytes:.1f} MB of text", "MB/s", rows, limit="the tokenizers library alone")


def _loaders(bench: Bench) -> Figure:
    o, kinds = bench.options, {OWN: OURS, LOADER: PEER}
    arguments = {"documents": str(bench.work / "documents.npz"), "rows": str(bench.work / "rows.npy")}
    arguments |= {"batch": o.batch, "length": o.length, "seed": o.seed}
    contenders = [Contender(name, f"{__name__}:load", kind, arguments | {"way": name}) for name, kind in kinds.items()]
    with bench.stage("data loader", [CONTENDER, *contenders]) as stage:
        turns = [entrant(BANDWIDTH), *(Entrant(name, name) for name in kinds)]
        samples = bench.take_turns(stage, "data loader", turns)
    speed = {name: [s["tokens"] / s["seconds"] for s in samples[name]] for name in kinds}
    rows = entries(speed, kinds, stage.faults)
    for entry in rows:
        entry.shares = round_shares([BYTES_A_TOKEN * v for v in entry.values], values(samples, BANDWIDTH))
    what = f"loader, batches of {o.batch} x {o.length}"
    return Figure("data", what, "tokens/s", rows, limit="writing 24 bytes a token at the bandwidth of memory")
