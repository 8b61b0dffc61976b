# Copyright 2026 The Rhapsode authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The configuration: one decoder-only transformer, with a small switch for every way in which the open designs differ.

The defaults are our own best decoder (RoPE, RMSNorm before each sublayer, SwiGLU, grouped-query attention, normalised
queries and keys, no biases, tied embeddings). `presets.py` lists the other designs as differences from it.
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from .presets import preset_fields
from .validation import check_architecture


@strict
class RhapsodeConfig(PreTrainedConfig):
    r"""Everything that defines a Rhapsode network. Sizes count elements, dropouts are probabilities.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width D of the residual stream.
        intermediate_size: width of the feed-forward layer; `None` is 8/3 D rounded up to 64 when gated, else 4 D.
        num_hidden_layers: number of blocks.
        num_attention_heads: query heads H.
        num_key_value_heads: key and value heads K; H is multi-head, 1 is multi-query, anything between is
            grouped-query attention. `None` is H / 4 where 4 divides H, else H.
        head_dim: size C of a head; `None` is D / H.
        max_position_embeddings: longest sequence that the positions were made for.
        norm_type: `rms_norm` (Zhang and Sennrich 2019, arXiv:1910.07467) or `layer_norm` (Ba et al. 2016, 1607.06450).
        norm_affine, norm_bias: whether norms have a scale, and (LayerNorm only) an offset.
        norm_eps: added to the variance.
        norm_order: where norms stand around a sublayer F. `pre`: x + F(N(x)); `output`: x + N(F(x)) (OLMo 2);
            `sandwich`: x + N(F(N(x))) (Gemma 2); `post`: N(x + F(x)) (Vaswani et al. 2017, GPT-1).
        embedding_norm: a norm right after the embedding (BLOOM).
        parallel_block: x + Attention(N(x)) + FeedForward(N(x)) (GPT-J, PaLM).
        parallel_shared_norm: with `parallel_block`, one norm for both sublayers; otherwise one each (GPT-NeoX).
        residual_multiplier: factor on what a sublayer adds to the stream (Granite).
        attention_bias, attention_out_bias: biases of the q/k/v projections and of the output projection; the latter
            follows the former when `None`.
        attention_multiplier: factor on the scores; `None` is C ** -0.5.
        qk_norm: norm of queries and keys before RoPE. `head`: each head, scale shared by the heads (Qwen 3);
            `per_head`: each head with its own scale and never an offset (Cohere); `full`: the whole projection (OLMo 2).
        clip_qkv: clamp queries, keys and values to [-clip_qkv, clip_qkv] (OLMo, MPT).
        sliding_window: positions that a sliding layer sees, itself included; `None` is all.
        layer_types: `full_attention` or `sliding_attention` for each layer. `None`: all sliding if there is a window.
        position_embedding_type: `rope` (Su et al. 2021, arXiv:2104.09864), `learned`, `sinusoidal` or `none`.
        rope_parameters: transformers' dictionary: `rope_type` (default, linear, dynamic, yarn, llama3, longrope),
            `rope_theta`, `partial_rotary_factor`, ...
        rope_interleaved: rotate neighbouring pairs (GPT-J) and not the two halves of a head (GPT-NeoX, Llama).
        no_rope_layers: for each layer 1 where it rotates and 0 where it has no positions (SmolLM3's convention).
        mlp_gated: act(gate(x)) * up(x) (Shazeer 2020, arXiv:2002.05202) or the plain act(up(x)).
        hidden_act: name in `transformers.activations.ACT2FN`.
        mlp_bias: biases of the feed-forward projections.
        tie_word_embeddings: the head reuses the embedding.
        embedding_multiplier: factor on the embedding's output (Gemma, Granite).
        lm_head_bias: bias of the head.
        logit_scale: factor on the logits (Cohere).
        final_logit_softcapping: cap * tanh(logits / cap) (Gemma 2).
        attention_dropout, residual_dropout, embedding_dropout: on the attention weights, on what each sublayer adds,
            and on the embedded tokens.
        initializer_range: standard deviation of the normal initialisation.

    Raises:
        ValueError: for a combination that does not exist; the message names the values and the fix.
    """

    model_type = "rhapsode"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    # Sizes
    vocab_size: int = 32768
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    # Norms
    norm_type: Literal["rms_norm", "layer_norm"] = "rms_norm"
    norm_affine: bool = True
    norm_bias: bool = False
    norm_eps: float | int = 1e-6
    norm_order: Literal["pre", "output", "sandwich", "post"] = "pre"
    embedding_norm: bool = False
    # Block
    parallel_block: bool = False
    parallel_shared_norm: bool = True
    residual_multiplier: float | int = 1.0
    # Attention
    attention_bias: bool = False
    attention_out_bias: bool | None = None
    attention_multiplier: float | int | None = None
    qk_norm: Literal["none", "head", "per_head", "full"] = "head"
    clip_qkv: float | int | None = None
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    # Positions
    position_embedding_type: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    rope_parameters: RopeParameters | dict | None = None
    rope_interleaved: bool = False
    no_rope_layers: list[int] | None = None
    # Feed-forward
    mlp_gated: bool = True
    hidden_act: str = "silu"
    mlp_bias: bool = False
    # Embedding and head
    tie_word_embeddings: bool = True
    embedding_multiplier: float | int = 1.0
    lm_head_bias: bool = False
    logit_scale: float | int = 1.0
    final_logit_softcapping: float | int | None = None
    # Training
    attention_dropout: float | int = 0.0
    residual_dropout: float | int = 0.0
    embedding_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    # Generation
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs):
        H, D = self.num_attention_heads, self.hidden_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = H // 4 if H % 4 == 0 and H > 0 else H
        if self.head_dim is None:
            if H < 1 or D % H != 0:
                raise ValueError(
                    f"hidden_size={D} is not a multiple of num_attention_heads={H}; "
                    f"change one of them or state head_dim"
                )
            self.head_dim = D // H
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * D // (3 * 64)) * 64 if self.mlp_gated else 4 * D
        if self.attention_out_bias is None:
            self.attention_out_bias = self.attention_bias
        self.base_model_tp_plan = self._tensor_parallel_plan()
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here too, because `strict` would wrap the ValueError in a type of its own

    def validate_architecture(self):
        """Called again by transformers before saving, since fields can be edited after construction."""
        check_architecture(self)

    def attention_type(self, layer_idx: int) -> str:
        """`"full_attention"` or `"sliding_attention"`, with the meaning that transformers' caches give to the fields."""
        if self.layer_types is not None:
            return self.layer_types[layer_idx]
        return "full_attention" if self.sliding_window is None else "sliding_attention"

    def uses_rope(self, layer_idx: int) -> bool:
        if self.position_embedding_type != "rope":
            return False
        return self.no_rope_layers is None or bool(self.no_rope_layers[layer_idx])

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "RhapsodeConfig":
        """The configuration of a named design, e.g. `from_preset("falcon-7b", num_hidden_layers=2)`.

        Raises:
            ValueError: unknown name (the nearest one is in the message) or unknown field.
        """
        unknown = [key for key in overrides if key not in cls.__dataclass_fields__]
        if unknown:
            raise ValueError(f"{unknown[0]}={overrides[unknown[0]]!r} is not a field of RhapsodeConfig")
        return cls(**{**preset_fields(name), **overrides})

    def convert_rope_params_to_dict(self, **kwargs):
        if self.position_embedding_type == "rope":
            return super().convert_rope_params_to_dict(**kwargs)
        self.rope_parameters = None  # transformers would fill it with defaults that nothing reads
        for key in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
            kwargs.pop(key, None)
        return kwargs

    def _tensor_parallel_plan(self) -> dict[str, str]:
        # A norm over all heads, or a single shared head, needs the whole projection on every rank.
        whole = self.qk_norm in ("full", "per_head") or self.num_key_value_heads == 1
        column, row = ("colwise_gather_output", "rowwise_split_input") if whole else ("colwise", "rowwise")
        plan = {f"layers.*.self_attn.{name}_proj": column for name in "qkv"}
        plan["layers.*.self_attn.o_proj"] = row
        if self.qk_norm == "head" and self.norm_affine and not whole:
            plan |= {f"layers.*.self_attn.{name}_norm": "replicated_with_grad_allreduce" for name in "qk"}
        if self.mlp_gated:
            plan["layers.*.mlp.gate_proj"] = "colwise"
        return plan | {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}


__all__ = ["RhapsodeConfig"]
