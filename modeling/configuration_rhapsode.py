# Copyright 2026 The Rhapsode authors.
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
"""The configuration: one decoder-only transformer, with a small switch for every way in which the open designs differ.

The defaults are our own best decoder (RoPE, RMSNorm before each sublayer, SwiGLU, grouped-query attention, normalised
queries and keys, no biases, tied embeddings). `presets.py` lists the other designs as differences from it.
"""

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters
from transformers.utils import logging

from .presets import preset
from .validation import check_architecture, check_choice

if TYPE_CHECKING:
    # transformers tells two directories with one name apart by a hash of the configuration and of what it imports, by
    # the text: without this line a model would run with the code of another revision, opened before in the process.
    from .modeling_rhapsode import RhapsodePreTrainedModel  # noqa: F401


@strict
class RhapsodeConfig(PreTrainedConfig):
    """Everything that defines a network; a combination that does not exist is a `ValueError`. Sizes count elements."""

    model_type = "rhapsode"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "cache"]
    base_model_pp_plan: ClassVar = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 32768  # rows of the embedding
    hidden_size: int = 768  # width D of the residual stream
    intermediate_size: int | None = None  # of the feed-forward layer; None: 8/3 D rounded up to 64 if gated, else 4 D
    num_hidden_layers: int = 12  # blocks
    num_attention_heads: int = 12  # query heads H
    num_key_value_heads: int | None = None  # K: H multi-head, 1 multi-query, else grouped-query; None: H / 4, or H
    head_dim: int | None = None  # size C of a head; None: D / H
    max_position_embeddings: int = 2048  # longest sequence that the positions were made for
    norm_type: str = "rms_norm"  # (Zhang and Sennrich 2019, 1910.07467), or layer_norm (Ba et al. 2016, 1607.06450)
    norm_affine: bool = True  # norms have a scale
    norm_bias: bool = False  # and, LayerNorm only, an offset
    norm_eps: float | int = 1e-6  # added to the variance
    # pre: x + F(N(x)); output (OLMo 2): x + N(F(x)); sandwich (Gemma 2): x + N(F(N(x))); post (GPT-1): N(x + F(x))
    norm_order: str = "pre"
    embedding_norm: bool = False  # a norm right after the embedding (BLOOM)
    parallel_block: bool = False  # x + Attention(N(x)) + FeedForward(N(x)) (GPT-J, PaLM)
    parallel_shared_norm: bool = True  # with parallel_block one norm for both; otherwise one each (GPT-NeoX)
    residual_multiplier: float | int = 1.0  # on what a sublayer adds to the stream (Granite)
    attention_bias: bool = False  # of the q, k and v projections
    attention_out_bias: bool | None = None  # of the output projection; None: as attention_bias
    attention_multiplier: float | int | None = None  # on the scores; None: C ** -0.5
    # Of queries and keys before RoPE. head: a scale shared by the heads (Qwen 3); per_head: one for each head, never an
    # offset (Cohere); full: over the whole projection (OLMo 2); none
    qk_norm: str = "head"
    clip_qkv: float | int | None = None  # clamp queries, keys and values to [-clip_qkv, clip_qkv] (OLMo, MPT)
    sliding_window: int | None = None  # positions that a sliding layer sees, itself included; None: all
    # full_attention or sliding_attention each; None: sliding if there is a window, and no field, which vLLM would index
    layer_types: list[str] | None = field(default_factory=lambda: None)
    position_embedding_type: str = "rope"  # (Su et al. 2021, arXiv:2104.09864), learned, sinusoidal or none
    # transformers' dictionary: rope_type (default, linear, dynamic, yarn, llama3, longrope), ...; absent if not "rope"
    rope_parameters: RopeParameters | dict | None = field(default_factory=lambda: None)
    rope_interleaved: bool = False  # rotate neighbouring pairs (GPT-J), not the halves of a head (GPT-NeoX, Llama)
    no_rope_layers: list[int] | None = None  # 1 where a layer rotates, 0 where it has no positions (as in SmolLM3)
    mlp_gated: bool = True  # act(gate(x)) * up(x) (Shazeer 2020, arXiv:2002.05202), or the plain act(up(x))
    hidden_act: str = "silu"  # a name in transformers.activations.ACT2FN
    mlp_bias: bool = False  # of the feed-forward projections
    tie_word_embeddings: bool = True  # the head reuses the embedding
    embedding_multiplier: float | int = 1.0  # on the embedding's output (Gemma, Granite)
    lm_head_bias: bool = False
    logit_scale: float | int = 1.0  # on the logits (Cohere)
    final_logit_softcapping: float | int | None = None  # cap * tanh(logits / cap) (Gemma 2)
    attention_dropout: float | int = 0.0  # probability, on the attention weights
    residual_dropout: float | int = 0.0  # on what each sublayer adds
    embedding_dropout: float | int = 0.0  # on the embedded tokens
    initializer_range: float | int = 0.02  # standard deviation of the normal initialisation
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs):
        H, D = self.num_attention_heads, self.hidden_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = H // 4 if H % 4 == 0 and H > 0 else H
        if self.head_dim is None and (H < 1 or D % H != 0):
            raise ValueError(
                f"hidden_size={D} is not a multiple of num_attention_heads={H}; change one or state head_dim"
            )
        self.head_dim = D // H if self.head_dim is None else self.head_dim
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * D // (3 * 64)) * 64 if self.mlp_gated else 4 * D
        if self.attention_out_bias is None:
            self.attention_out_bias = self.attention_bias
        self.base_model_tp_plan = self._tensor_parallel_plan()
        if self.position_embedding_type != "rope":  # transformers asks `hasattr` whether a model rotates
            kwargs = self._without_rope(kwargs)
        if self.layer_types is None:
            del self.layer_types
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here too, because `strict` would wrap the ValueError in a type of its own

    def validate_architecture(self):
        """Called again by transformers before saving, since fields can be edited after construction."""
        check_architecture(self)

    def attention_types(self) -> list[str]:
        """`"full_attention"` or `"sliding_attention"` for each layer, as transformers' caches read the fields."""
        if (types := getattr(self, "layer_types", None)) is not None:
            return list(types)
        return ["full_attention" if self.sliding_window is None else "sliding_attention"] * self.num_hidden_layers

    def uses_rope(self, layer_idx: int) -> bool:
        rotates = self.no_rope_layers or [1] * self.num_hidden_layers
        return self.position_embedding_type == "rope" and bool(rotates[layer_idx])

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "RhapsodeConfig":
        """A named design, e.g. `from_preset("falcon-7b", num_hidden_layers=2)`; `ValueError` for an unknown name."""
        for key in overrides:
            check_choice("field", key, (*cls.__dataclass_fields__, "num_labels", "attn_implementation"))
        return cls(**{**preset(name).fields, **overrides})

    def _without_rope(self, kwargs: dict) -> dict:
        if self.rope_parameters:
            text = f"position_embedding_type={self.position_embedding_type!r}: rope_parameters are ignored"
            logging.get_logger(__name__).warning(text)
        del self.rope_parameters
        return {k: v for k, v in kwargs.items() if k not in ("rope_theta", "rope_scaling", "partial_rotary_factor")}

    __eq__ = PreTrainedConfig.__eq__  # a dataclass would compare every field, also the one that is not there

    def _tensor_parallel_plan(self) -> dict[str, str]:
        # A norm over all heads, or a single shared head, needs the whole projection on every rank.
        whole = self.qk_norm in ("full", "per_head") or self.num_key_value_heads == 1
        column, row = ("colwise_rep", "rowwise_rep") if whole else ("colwise", "rowwise")
        plan = {f"layers.*.self_attn.{name}_proj": column for name in "qkv"} | {"layers.*.self_attn.o_proj": row}
        if self.qk_norm == "head" and self.norm_affine and not whole:
            plan |= {f"layers.*.self_attn.{name}_norm": "replicated_with_grad_allreduce" for name in "qk"}
        if self.mlp_gated:
            plan["layers.*.mlp.gate_proj"] = "colwise"
        return plan | {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}
