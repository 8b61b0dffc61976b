"""PPO-ptx: rows of pretraining text beside those of the rollout (Ouyang et al. 2022, arXiv:2203.02155, section 3.5).

Reinforcement learning costs the model part of what pretraining taught it. InstructGPT mixes its gradient with that of
the language-modelling loss on pretraining text. The rows go through the same forward pass as those of the rollout.
Which rows a micro-batch gets depends on seed, step and process alone: a resumed run has nothing to restore.
"""

import torch
from trl.data_utils import apply_chat_template, is_conversational

COLUMNS = ("input_ids", "text", "messages")


class PretrainingRows:
    """Rows of a dataset with a column `input_ids`, `text`, or, of conversations, `messages`."""

    def __init__(self, dataset, tokenizer, max_length: int, batch_size: int, processes: int, process: int, seed: int):
        name = next((name for name in COLUMNS if name in dataset.column_names), None)
        if name is None:
            raise ValueError(
                f"pretraining_dataset has the columns {dataset.column_names}; it needs {' or '.join(COLUMNS)}"
            )
        self.dataset, self.column, self.tokenizer = dataset, name, tokenizer
        self.max_length, self.batch_size = max_length, batch_size
        self.processes, self.process, self.seed = processes, process, seed
        if len(dataset) == 0:
            raise ValueError("pretraining_dataset is empty")
        self.order, self.epoch = torch.empty(0), -1

    def rows(self, step: int) -> list[list[int]]:
        """The ids of the micro-batch `step`, at least two of them a row: the first one has nothing before it."""
        first = (step * self.processes + self.process) * self.batch_size
        return [self._row(first + i) for i in range(self.batch_size)]

    def tokens(self, first: int, last: int) -> int:
        """How many tokens are predicted in the micro-batches from `first` to before `last`, on this process."""
        return sum(len(row) - 1 for step in range(first, last) for row in self.rows(step))

    def _row(self, index: int) -> list[int]:
        epoch, place = divmod(index, len(self.dataset))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self.order, self.epoch = torch.randperm(len(self.dataset), generator=generator), epoch
        ids = self._ids(self.dataset[int(self.order[place])])[: self.max_length]
        return ids if len(ids) > 1 else [*ids, *[self.tokenizer.eos_token_id] * (2 - len(ids))]

    def _ids(self, row: dict) -> list[int]:
        if self.column == "input_ids":
            return row["input_ids"]
        text = row[self.column]
        if self.column == "messages":
            assert is_conversational(row)
            text = apply_chat_template({"messages": text}, self.tokenizer)["text"]
        return self.tokenizer(text=text, add_special_tokens=False)["input_ids"]


def with_pretraining(batch: dict, rows: list[list[int]], pad: int) -> dict:
    """The rollout's rows and these, right-padded to one width; `mask` says what is scored."""
    names = ("input_ids", "attention_mask", "mask")
    width = max(batch["input_ids"].size(1), *map(len, rows))
    wider = width - batch["input_ids"].size(1)
    padded = {
        name: torch.nn.functional.pad(batch[name], (0, wider), value=pad if name == "input_ids" else 0)
        for name in names
    }
    new = {
        "input_ids": [row + [pad] * (width - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        "mask": [[0] + [1] * (len(row) - 1) + [0] * (width - len(row)) for row in rows],
    }
    return {name: torch.cat([padded[name], padded[name].new_tensor(new[name])]) for name in names}
