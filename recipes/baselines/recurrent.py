"""Recurrent language models: Elman's simple network (Elman 1990) and the LSTM (Hochreiter and Schmidhuber 1997).

    RNN    h_t = tanh(W x_t + U h_{t-1} + b)
    LSTM   c_t = f_t c_{t-1} + i_t tanh(W x_t + U h_{t-1} + b);   h_t = o_t tanh(c_t)

with the gates i, o, and the forget gate f of Gers et al. 2000, which torch's LSTM has. The gradient runs back through
the whole row (Elman's went back one step). Embedding and softmax layer are one matrix by default (Press and Wolf 2017).

The state is zero at the beginning of a document. Rows are run side by side, cut at each column where one of them begins
a document: there its state is set back and the others' stay, so that there are as many cuts as documents in a batch.

Legend: B batch, T positions, D size of an embedding, H hidden units, L layers, V vocabulary.
"""

from itertools import pairwise

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from .causal_lm import BaselineForCausalLM
from .configuration_baselines import LSTMConfig, RNNConfig
from .documents import depths


class RecurrentState:
    """What a recurrent model remembers after `seen` tokens, in the place of transformers' cache; each (L, B, H)."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], seen: int):
        self.tensors, self.seen = tensors, seen

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def reorder_cache(self, beams: torch.LongTensor) -> None:
        self.tensors = tuple(tensor[:, beams] for tensor in self.tensors)


class RecurrentModel(nn.Module):
    """Hidden states (B, T, H) and, with `use_cache`, the state after the last token."""

    def __init__(self, config, cell: type[nn.RNNBase]):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        layers = config.num_hidden_layers
        between = config.dropout if layers > 1 else 0.0
        self.recurrence = cell(config.embedding_size, config.hidden_size, layers, batch_first=True, dropout=between)

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None):
        begins = depths(input_ids, attention_mask, position_ids) == 0  # (B, T)
        embedded = self.dropout(self.embed_tokens(input_ids))  # (B, T, D)
        state = None if cache is None else cache.tensors
        # On a CPU torch has no LSTM under autocast at all, and its RNN is ten times slower than in float32.
        autocasts = embedded.device.type != "cpu" and torch.is_autocast_enabled(embedded.device.type)
        with torch.autocast(embedded.device.type, enabled=autocasts):
            hidden, state = self.run(embedded, begins, state)
        seen = input_ids.shape[1] + (cache.seen if cache is not None else 0)
        kept = RecurrentState(state, seen) if use_cache else None
        return BaseModelOutputWithPast(self.dropout(hidden), kept)

    def run(self, x: torch.Tensor, begins: torch.Tensor, state: tuple | None) -> tuple[torch.Tensor, tuple]:
        """(B, T, D) -> (B, T, H), and the last state; `begins` (B, T) says where the state is set back."""
        cuts = begins[:, 1:].any(dim=0).nonzero()[:, 0].add(1).tolist()
        parts = []
        for begin, end in pairwise([0, *cuts, x.shape[1]]):
            if begin > 0:
                goes_on = ~begins[:, begin, None]  # (B, 1)
                state = tuple(tensor * goes_on for tensor in state)
            hidden, state = self.step(x[:, begin:end], state)
            parts.append(hidden)
        return torch.cat(parts, dim=1), state

    def step(self, x: torch.Tensor, state: tuple | None) -> tuple[torch.Tensor, tuple]:
        """torch's networks; an LSTM takes and gives a pair, an RNN one tensor."""
        is_pair = isinstance(self.recurrence, nn.LSTM)
        hidden, state = self.recurrence(x, state if is_pair or state is None else state[0])
        return hidden, state if is_pair else (state,)


class RecurrentForCausalLM(BaselineForCausalLM):
    _auto_class = "AutoModelForCausalLM"
    cell: type[nn.RNNBase]

    def __init__(self, config):
        super().__init__(config, RecurrentModel(config, self.cell), bias=True)


class RNNForCausalLM(RecurrentForCausalLM):
    config_class, cell = RNNConfig, nn.RNN


class LSTMForCausalLM(RecurrentForCausalLM):
    config_class, cell = LSTMConfig, nn.LSTM
