"""What the trained baselines share: a backbone, a softmax layer over its hidden states, loss and generation.

`model` is the backbone and gives hidden states (B, T, D), `lm_head` is the softmax layer: the names that the harness
and transformers look for.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel


class BaselineForCausalLM(PreTrainedModel, GenerationMixin):
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (as transformers reads it)
    _is_stateful = True  # no assisted generation: states cannot be taken back to an earlier token

    def __init__(self, config, backbone: nn.Module, bias: bool):
        super().__init__(config)
        self.model = backbone
        self.lm_head = nn.Linear(config.head_size, config.vocab_size, bias=bias)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch does for recurrent weights, uniform within H^-1/2, and with a forget gate that begins open."""
        if not isinstance(module, nn.RNNBase):
            return super()._init_weights(module)
        bound = module.hidden_size**-0.5
        for name, parameter in module.named_parameters():
            init.uniform_(parameter, -bound, bound)
            if isinstance(module, nn.LSTM) and name.startswith("bias_hh"):  # Jozefowicz et al. 2015, section 2.2
                bias = torch.zeros_like(parameter)
                bias[module.hidden_size : 2 * module.hidden_size] = 1.0
                init.copy_(parameter, bias)

    def forward(
        self,
        input_ids: torch.LongTensor,  # (B, T)
        attention_mask: torch.Tensor | None = None,  # (B, seen + T), 0 at padding
        position_ids: torch.LongTensor | None = None,  # (B, T); positions that start again start a new document
        past_key_values=None,  # the state that `use_cache` gave, where the model has one
        labels: torch.LongTensor | None = None,  # (B, T), not shifted; -100 is no target
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,  # the last n positions, or these; 0 is all
        **kwargs,
    ) -> CausalLMOutputWithPast:
        state = (
            kwargs.pop("cache", None) if past_key_values is None else past_key_values
        )  # named so in transformers 5.24
        outputs = self.model(input_ids, attention_mask, position_ids, state, use_cache)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.scale_logits(self.lm_head(outputs.last_hidden_state[:, keep]))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss, logits, *outputs.to_tuple()[1:])  # the state, if one was asked for

    def scale_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Nothing stands between head and softmax. That the method is there tells the loss so, see `NextTokenLoss`."""
        return logits

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # a state, if any, is of our own kind
