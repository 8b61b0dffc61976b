"""The model: tokens -> embedding -> blocks -> norm -> logits.

    x_0 = s_e E[token] (+ P[position]);   x_{l+1} = block_l(x_l);   logits = s_l W N(x_L) + b

Each part is chosen in a constructor, from the file that is named after it. `save_pretrained` copies this folder beside
the weights: a saved directory opens with `trust_remote_code=True` where Rhapsode is not installed.

Legend: B batch, T positions, D model, V vocabulary.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers import masking_utils
from transformers import modeling_layers as heads
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import RhapsodeAttention
from .block import RhapsodeDecoderLayer
from .caches import CACHE, take_cache
from .configuration_rhapsode import RhapsodeConfig
from .norms import RhapsodePerHeadNorm, build_norm
from .positions import RhapsodeSinusoidalEmbedding, absolute_positions, build_embeddings

TASKS = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
AUTO_MAP = {"AutoConfig": "configuration_rhapsode.RhapsodeConfig", "AutoModel": "modeling_rhapsode.RhapsodeModel"}
AUTO_MAP |= {f"AutoModelFor{task}": f"modeling_rhapsode.RhapsodeFor{task}" for task in TASKS}


class RhapsodePreTrainedModel(PreTrainedModel):
    config: RhapsodeConfig
    config_class = RhapsodeConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar = ["RhapsodeDecoderLayer"]
    _skip_keys_device_placement: ClassVar = ["past_key_values", "cache"]
    supports_gradient_checkpointing = _can_compile_fullgraph = True
    _supports_flash_attn = _supports_sdpa = _supports_flex_attn = _supports_attention_backend = True
    _can_record_outputs: ClassVar = {"hidden_states": RhapsodeDecoderLayer, "attentions": RhapsodeAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RhapsodeSinusoidalEmbedding):
            init.copy_(module.weight, module.table())
        elif isinstance(module, RhapsodePerHeadNorm):
            init.ones_(module.weight)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, but weights are read from safetensors only: reading a pickle can run anything."""
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors=False would read a pickle; save the weights as safetensors first")
        return super().from_pretrained(*args, **{**kwargs, "use_safetensors": True})

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, and with the code: the directory then opens anywhere by `trust_remote_code=True`.

        Tokenizer, model card and checks are `rhapsode.export`'s.
        """
        self.config.auto_map = dict(AUTO_MAP)  # transformers would list the class of this model only
        return super().save_pretrained(save_directory, **kwargs)


class RhapsodeModel(RhapsodePreTrainedModel):
    """The backbone: hidden states (B, T, D) after the last norm."""

    _auto_class = "AutoModel"

    def __init__(self, config: RhapsodeConfig):
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens, self.embed_positions, self.rotary_emb = build_embeddings(config)
        self.embed_norm = build_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([RhapsodeDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.Identity() if config.norm_order == "post" else build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,  # (B, T)
        attention_mask: torch.Tensor | None = None,  # (B, cached + T), 0 at padding
        position_ids: torch.LongTensor | None = None,  # (B, T); positions that start again start a new document
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,  # (B, T, D)
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # `cache` too, see caches.py
    ) -> BaseModelOutputWithPast:
        cache = take_cache(past_key_values, kwargs)
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        masks = self.attention_masks(inputs_embeds, attention_mask, cache, position_ids)
        if use_cache and cache is None:  # only now: beside a cache, masks ignore packed documents
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen).unsqueeze(0)
            if self.embed_positions is not None:
                position_ids = absolute_positions(position_ids, attention_mask)
        hidden_states = self.embed(inputs_embeds, position_ids)
        rotary = None if self.rotary_emb is None else self.rotary_emb(hidden_states, position_ids=position_ids)
        kwargs |= {"position_ids": position_ids, CACHE: cache, "use_cache": use_cache}
        kinds = self.config.attention_types()
        for i, decoder_layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            hidden_states = decoder_layer(hidden_states, masks[kinds[i]], rotary, **kwargs)
        return BaseModelOutputWithPast(self.norm(hidden_states), cache)

    def embed(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Add positions, normalise and drop, (B, T, D) -> (B, T, D)."""
        if isinstance(self.layers[0], nn.Identity):  # a later stage of a pipeline, which is fed hidden states
            return inputs_embeds
        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids).to(inputs_embeds.dtype)
        return self.dropout(self.embed_norm(inputs_embeds))

    def attention_masks(self, inputs_embeds, attention_mask, cache, position_ids) -> dict:
        """The mask of each kind of layer, in the form that the chosen attention kernel takes.

        Packed documents (positions that start again) never see each other, also where a mask of padding is given:
        transformers looks for them only where there is none.
        """
        if isinstance(attention_mask, dict):  # `generate` made them, by `create_masks_for_generate`
            return attention_mask
        arguments = {"config": self.config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        arguments |= {CACHE: cache, "position_ids": position_ids}
        if attention_mask is not None and position_ids is not None and cache is None:
            documents = masking_utils.find_packed_sequence_indices(position_ids.expand(len(inputs_embeds), -1))
            if documents is not None and "flash" not in self.config._attn_implementation:  # flash reads position_ids
                arguments["and_mask_function"] = masking_utils.packed_sequence_mask_function(documents)
        build = masking_utils.LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING
        return {kind: build[kind](**arguments) for kind in sorted(set(self.config.attention_types()))}


class RhapsodeForCausalLM(RhapsodePreTrainedModel, GenerationMixin):
    """The language model: logits (B, T, V) and, with `labels`, the loss in nats per target token."""

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan: ClassVar = {"lm_head": "colwise_gather_output"}
    _pp_plan: ClassVar = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan: ClassVar = {"lm_head": "keep_full_weight"}

    def __init__(self, config: RhapsodeConfig):
        super().__init__(config)
        self.model = RhapsodeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,  # (B, T), not shifted; -100 is no target
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,  # the last n positions, or these; 0 is all
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        cache = take_cache(past_key_values, kwargs)
        outputs: BaseModelOutputWithPast = self.model(
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache=use_cache, **kwargs
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.scale_logits(self.lm_head(outputs.last_hidden_state[:, keep, :]))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        cache = getattr(outputs, CACHE)
        return CausalLMOutputWithPast(loss, logits, cache, outputs.hidden_states, outputs.attentions)

    def create_masks_for_generate(
        self, inputs_embeds, attention_mask, past_key_values=None, position_ids=None, **kwargs
    ) -> dict:
        cache = take_cache(past_key_values, kwargs)
        return self.model.attention_masks(inputs_embeds, attention_mask, cache, position_ids)

    def scale_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """What stands between the head and the softmax: the multiplier and the soft cap of the configuration."""
        if self.config.logit_scale != 1.0:
            logits = logits * self.config.logit_scale
        if (cap := self.config.final_logit_softcapping) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits


class BuiltDirectly:
    """For transformers' generic heads, whose own constructors would ask for trust once more in remote code."""

    head, bias = "score", True

    def __init__(self, config: RhapsodeConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = RhapsodeModel(config)
        self.dropout = nn.Dropout(config.residual_dropout)
        outputs = 2 if self.head == "qa_outputs" else config.num_labels
        self.add_module(self.head, nn.Linear(config.hidden_size, outputs, bias=self.bias))
        self.post_init()


class RhapsodeForSequenceClassification(BuiltDirectly, heads.GenericForSequenceClassification, RhapsodePreTrainedModel):
    """Scores (B, num_labels) read at the last token that is not padding; with one label, a reward model."""

    _auto_class, bias = "AutoModelForSequenceClassification", False


class RhapsodeForTokenClassification(BuiltDirectly, heads.GenericForTokenClassification, RhapsodePreTrainedModel):
    """Scores (B, T, num_labels)."""

    _auto_class = "AutoModelForTokenClassification"


class RhapsodeForQuestionAnswering(BuiltDirectly, heads.GenericForQuestionAnswering, RhapsodePreTrainedModel):
    """Scores (B, T) of each token as start and as end of the answer."""

    _auto_class, head = "AutoModelForQuestionAnswering", "qa_outputs"


__all__ = [*(path.split(".")[-1] for path in AUTO_MAP.values()), "RhapsodePreTrainedModel"]
