# Copyright 2026 The Rhapsode authors.
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
"""The configurations of the baselines, in Hugging Face spelling. Each has about ten million parameters by default."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


class _BaselineConfig(PreTrainedConfig):
    """What all have in common. `max_position_embeddings` is None: there are no positions that could run out."""

    _auto_class = "AutoConfig"
    above_zero: ClassVar = ("vocab_size",)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here too, because `strict` would wrap the ValueError in a type of its own

    def validate_architecture(self):
        for name in self.above_zero:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= getattr(self, "dropout", 0) < 1:
            raise ValueError(f"dropout={self.dropout} is not a probability; use 0.0 up to, but not, 1.0")
        width, embedding = getattr(self, "head_size", None), getattr(self, "embedding_size", None)
        if self.tie_word_embeddings and width != embedding:
            raise ValueError(
                f"tie_word_embeddings=True with embeddings of {embedding} and a head on {width} numbers; "
                f"make them equal or set tie_word_embeddings=False"
            )


@strict
class NGramConfig(_BaselineConfig):
    """An n-gram model with interpolated Kneser-Ney smoothing."""

    model_type = "rhapsode_ngram"
    above_zero: ClassVar = ("vocab_size", "order")

    vocab_size: int = 8192
    order: int = 5  # tokens of the longest n-gram: a 5-gram predicts a token from the four before it
    discounts: list[float | int] | None = None  # of each length from 1 on; None: estimated from the counts
    num_grams: list[int] | None = None  # how many n-grams of each length are stored; `fit` fills it in
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = False  # there is no state beyond the last tokens
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def validate_architecture(self):
        super().validate_architecture()
        for name in ("discounts", "num_grams"):
            values = getattr(self, name)
            if values is not None and len(values) != self.order:
                raise ValueError(f"{name} has {len(values)} entries for order={self.order}; give one for each length")
        if any(not 0 <= discount <= 1 for discount in self.discounts or []):
            raise ValueError(f"discounts={self.discounts} are not all from 0 to 1")


@strict
class FeedForwardConfig(_BaselineConfig):
    """A feed-forward network on the last `order` - 1 tokens."""

    model_type = "rhapsode_feedforward"
    above_zero: ClassVar = ("vocab_size", "order", "hidden_size", "embedding_size")

    vocab_size: int = 8192
    order: int = 5  # tokens that an n-gram has, the predicted one included
    embedding_size: int = 128  # m of the paper
    hidden_size: int = 1024  # h of the paper
    direct_connections: bool = False  # from the embeddings to the softmax (W of the paper)
    num_hidden_layers: int = 1
    dropout: float | int = 0.0
    initializer_range: float | int = 0.05
    tie_word_embeddings: bool = False
    max_position_embeddings: int | None = None
    use_cache: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def head_size(self) -> int:
        """Numbers that the softmax layer sees."""
        return self.hidden_size + self.direct_connections * (self.order - 1) * self.embedding_size

    def validate_architecture(self):
        super().validate_architecture()
        if self.order == 1:
            raise ValueError("order=1 leaves no token to predict from; use 2 or more")
        if self.num_hidden_layers != 1:
            raise ValueError(f"num_hidden_layers={self.num_hidden_layers}: this model has 1 hidden layer; set 1")


@strict
class RNNConfig(_BaselineConfig):
    """Elman's simple recurrent network."""

    model_type = "rhapsode_rnn"
    above_zero: ClassVar = ("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers")

    vocab_size: int = 8192
    hidden_size: int = 1024
    num_hidden_layers: int = 1
    embedding_size: int | None = None  # None: hidden_size
    dropout: float | int = 0.0  # on the embeddings, between layers and before the softmax
    initializer_range: float | int = 0.05
    tie_word_embeddings: bool = True
    max_position_embeddings: int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs):
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    @property
    def head_size(self) -> int:
        return self.hidden_size


@strict
class LSTMConfig(RNNConfig):
    """Long short-term memory: the settings of the simple network, another cell."""

    model_type = "rhapsode_lstm"

    hidden_size: int = 576
    num_hidden_layers: int = 2
