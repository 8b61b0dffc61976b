"""The feed-forward language model: Bengio, Ducharme, Vincent and Jauvin 2003, JMLR 3:1137-1155.

    x = (E[w_{t-1}], ..., E[w_{t-n+1}]);   logits = b + W x + U tanh(d + H x)

W is there with `direct_connections` only; the paper found its best model without. A token before the beginning of the
document is a vector of zeros. Unlike the paper: Adam in place of plain gradient descent, optional dropout.

Legend: B batch, T positions, m size of an embedding, h hidden units, n order, V vocabulary.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPast

from .causal_lm import BaselineForCausalLM
from .configuration_baselines import FeedForwardConfig
from .documents import depths


class FeedForwardModel(nn.Module):
    """Hidden states (B, T, h), or (B, T, (n-1) m + h) with direct connections: the softmax layer is then (W, U)."""

    def __init__(self, config: FeedForwardConfig):
        super().__init__()
        self.context = config.order - 1
        self.direct_connections = config.direct_connections
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.hidden = nn.Linear(self.context * config.embedding_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None):
        depth = depths(input_ids, attention_mask, position_ids)
        embedded = self.dropout(self.embed_tokens(input_ids))  # (B, T, m)
        T = embedded.shape[1]
        shifted = [F.pad(embedded, (0, 0, i, 0))[:, :T] * (depth >= i)[..., None] for i in range(self.context)]
        x = torch.cat(shifted, dim=-1)  # (B, T, (n-1) m)
        hidden = self.dropout(torch.tanh(self.hidden(x)))  # (B, T, h)
        if self.direct_connections:
            hidden = torch.cat([x, hidden], dim=-1)
        return BaseModelOutputWithPast(last_hidden_state=hidden)


class FeedForwardForCausalLM(BaselineForCausalLM):
    config_class = FeedForwardConfig
    _auto_class = "AutoModelForCausalLM"

    def __init__(self, config: FeedForwardConfig):
        super().__init__(config, FeedForwardModel(config), bias=True)

    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, **kwargs):
        """The last n - 1 tokens are all that counts."""
        return super().prepare_inputs_for_generation(input_ids, self.config.order - 1, **kwargs)
