"""What packing and document masks cost: target tokens a second of the same loop, on rows that are made differently.

full            the text cut into rows, no padding, and no document kept from another: the limit
concatenated    the same rows, each document seeing itself alone: what the masks cost
best fit        few documents cut, a little padding, masks: what `rhapsode pretrain` does
padded          one document a row, cut at its end or padded: what is done where nothing is packed
"""

import numpy as np
import torch

from ..data.layout import BestFitRows, ConcatenatedRows
from ..data.mixture import collate
from ..data.packing import plan_best_fit
from ..data.tokens import IGNORED, TokenStream
from .bench import Bench
from .figures import Figure, entries, round_shares
from .interleaving import OURS, PEER, Contender, Entrant
from .training import loop_of, loop_options, train_step
from .turns import Turns

FULL, MASKED, BEST_FIT, PADDED = "full, no masks", "concatenated", "best fit", "padded"
KINDS = {FULL: PEER, MASKED: OURS, BEST_FIT: OURS, PADDED: PEER}
DRAWN = 64  # rows of each kind that the batches are drawn from


class Batches:
    """`batch` gives the rows of the kind that `kind` names, in the same order at each turn."""

    def __init__(self, documents: str, length: int, seed: int):
        arrays = np.load(documents)
        stream = TokenStream(arrays["ids"], arrays["starts"], arrays["num_bytes"])
        plan = plan_best_fit(stream.starts, stream.num_tokens, length)
        self.sources = {MASKED: ConcatenatedRows([stream], length), BEST_FIT: BestFitRows([stream], [plan], length, 0)}
        self.sources[FULL] = self.sources[MASKED]
        self.documents, self.length, self.kind = stream.documents(), length, FULL
        self.rng, self.at = np.random.default_rng(seed), dict.fromkeys(KINDS, 0)
        sizes = {kind: len(rows) for kind, rows in self.sources.items()} | {PADDED: len(self.documents)}
        self.order = {kind: self.rng.permutation(size)[:DRAWN] for kind, size in sizes.items()}

    def __len__(self) -> int:
        return len(self.order[self.kind])

    def batch(self, start: int, count: int) -> dict[str, torch.Tensor]:
        chosen = self.chosen(self.kind, self.at[self.kind], count)
        self.at[self.kind] += count
        if self.kind == PADDED:
            return padded([self.documents[i][: self.length] for i in chosen])
        rows = collate([self.sources[self.kind].row(i) for i in chosen])
        if self.kind == FULL:
            rows = {"input_ids": rows["input_ids"], "labels": rows["input_ids"].clone()}
        return rows

    def chosen(self, kind: str, begin: int, count: int) -> list[int]:
        """The numbers of the rows of a batch; of documents where each is a row."""
        order = self.order[kind]
        return [int(order[(begin + i) % len(order)]) for i in range(count)]

    def shares(self) -> dict[str, float]:
        """The share of padding among all positions of best-fit rows, and the mean number of documents in one."""
        counts = self.sources[BEST_FIT].counts()
        positions = counts["rows"] * self.length
        return {"padding_share": counts["padding"] / positions, "documents_a_row": counts["documents"] / counts["rows"]}


def padded(documents: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """One document a row, to the longest of them."""
    longest = max(map(len, documents))
    ids = np.zeros((len(documents), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)], mask[row, : len(document)] = document, 1
    rows = {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask == 1, ids, IGNORED)}
    return {key: torch.from_numpy(value) for key, value in rows.items()}


def loop(turns: Turns, model: str, documents: str, batch: int, length: int, seed: int) -> None:
    """A unit is a step on rows of the kind that the command names."""
    rows = Batches(documents, length, seed)
    current = loop_of(loop_options(model, batch, length, seed), rows, model)

    def unit(kind: str) -> dict:
        rows.kind = kind
        before = rows.at[kind]
        loss = train_step(current)
        return {"loss": loss, "tokens": tokens_of(rows, kind, before, batch)}

    for kind in KINDS:
        unit(kind)
    turns.ready(**rows.shares())
    turns.serve(unit)


def tokens_of(rows: Batches, kind: str, before: int, count: int) -> int:
    """Tokens of text in the batch that was drawn: positions but for the padding."""
    chosen = rows.chosen(kind, before, count)
    if kind == PADDED:
        return sum(min(len(rows.documents[i]), rows.length) for i in chosen)
    if kind != BEST_FIT:
        return count * rows.length
    plan = rows.sources[BEST_FIT].plans[0]
    return sum(int(plan.lengths[slice(*plan.rows[i : i + 2].tolist())].sum()) for i in chosen)


def measure(bench: Bench) -> list[Figure]:
    o, design = bench.options, bench.designs[0]
    arguments = {"model": design.ours, "documents": str(bench.work / "documents.npz")}
    arguments |= {"batch": o.batch, "length": o.length, "seed": o.seed}
    contender = Contender("rhapsode", f"{__name__}:loop", OURS, arguments)
    with bench.stage("packing", [contender]) as stage:
        samples = bench.take_turns(stage, "packing", [Entrant(kind, "rhapsode", {"kind": kind}) for kind in KINDS])
        bench.checks["packing"] = stage.facts["rhapsode"]
    speed = {kind: [s["tokens"] / s["seconds"] for s in rows] for kind, rows in samples.items()}
    rows = entries(speed, KINDS, dict.fromkeys(KINDS, fault) if (fault := stage.faults.get("rhapsode")) else {})
    for entry in rows:
        entry.shares = round_shares(entry.values, speed[FULL])
    padding = bench.checks["packing"].get("padding_share")
    what = f"{design.name}, rows of {o.length} tokens"
    what += "" if padding is None else f", {padding:.2%} padding in best-fit rows"
    return [Figure("packing", what, "tokens of text/s", rows, limit="full rows without masks, in the same round")]
