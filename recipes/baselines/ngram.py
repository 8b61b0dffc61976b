"""The n-gram model: closed-form fitting, log-probabilities as logits. See `kneser_ney.py` for the mathematics."""

from collections.abc import Iterable

import numpy as np
import torch
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_baselines import NGramConfig
from .documents import depths
from .kneser_ney import KneserNey

CHUNK = 2**23  # probabilities computed at once


class NGramForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits (B, T, V) that are log-probabilities. There is nothing to train: `fit` counts, everything is a buffer."""

    config_class = NGramConfig
    _auto_class = "AutoModelForCausalLM"
    _is_stateful = True  # no assisted generation: of a batch of candidates only the last tokens would be looked at

    def __init__(self, config: NGramConfig):
        super().__init__(config)
        self.ngrams = KneserNey(config.vocab_size, config.order, config.discounts, config.num_grams)
        self.post_init()

    @property
    def device(self) -> torch.device:
        return self.ngrams.levels[0].keys.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits; the counts are integers."""
        return torch.float32

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The stored n-grams of all lengths; none of them is trained by gradients."""
        return 0 if only_trainable else sum(len(level.keys) for level in self.ngrams.levels)

    def fit(self, documents: Iterable) -> "NGramForCausalLM":
        """Count documents, each a sequence of ids with its BOS and EOS; what was counted before is forgotten.

        Raises:
            ValueError: nothing to count, or an id outside the vocabulary.
        """
        device = self.device
        self.ngrams.fit(documents).to(device)
        self.config.num_grams = [len(level.keys) for level in self.ngrams.levels]
        return self

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.LongTensor,  # (B, T)
        attention_mask: torch.Tensor | None = None,  # (B, T), 0 at padding
        position_ids: torch.LongTensor | None = None,  # (B, T); positions that start again start a new document
        labels: torch.LongTensor | None = None,  # (B, T), not shifted; -100 is no target
        logits_to_keep: int | torch.Tensor = 0,  # the last n positions, or these; 0 is all
        **kwargs,
    ) -> CausalLMOutputWithPast:
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        contexts = self.ngrams.contexts(input_ids, depths(input_ids, attention_mask, position_ids))
        contexts = [context[:, keep] for context in contexts]
        shape = (*contexts[0].shape, self.config.vocab_size)
        logits = torch.empty(shape, device=input_ids.device).flatten(0, 1)  # (B T, V)
        rows = max(1, CHUNK // self.config.vocab_size)
        parts = zip(*(context.flatten().split(rows) for context in contexts), strict=True)
        for part, out in zip(parts, logits.split(rows), strict=True):
            torch.log(self.ngrams.distributions(part), out=out)
        logits = logits.view(shape)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, **kwargs):
        """The last n - 1 tokens are all that counts."""
        return super().prepare_inputs_for_generation(input_ids, max(1, self.config.order - 1), **kwargs)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


class ByteNGram:
    """The same n-grams over bytes, for text without a tokenizer: a 5-gram predicts a byte from the four before it."""

    def __init__(self, order: int = 5):
        self.ngrams = KneserNey(256, order)

    def fit(self, data: bytes) -> "ByteNGram":
        """Count the n-grams of `data`, which is one document."""
        self.ngrams.fit([_ids(data)])
        return self

    def probabilities(self, data: bytes) -> np.ndarray:
        """P(byte | the bytes before it) for each byte of `data`."""
        ids = _ids(data)
        return self.ngrams.probabilities(ids, torch.arange(len(ids))).numpy()

    def bits_per_byte(self, data: bytes) -> float:
        return float(-np.log2(self.probabilities(data)).mean())


def _ids(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int64))
