"""Every family of the table against its own class in transformers, at tiny random configurations.

The same logits, the same gradients, the same greedy text, and the same tensors when written back.
"""

import pytest
import torch
from rhapsode.hub import load_foreign, save_foreign
from rhapsode.hub.families import FAMILIES
from rhapsode.hub.tensors import foreign_tensors
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LENGTH = 112  # above 96: shorter sequences hide a wrong RoPE layout
LOGITS_TOLERANCE = 3e-6  # float32 rounding of sums in another order, relative to the largest logit
GRADIENT_TOLERANCE = 1e-5  # as above through the backward pass, relative to the largest gradient in the same module:
# without RoPE that of a key's bias is 0, and its terms, of the size of its weight's, cancel up to rounding
LEAVES = ("weight", "bias")
ROUNDED_SCALE = 2.0**-22  # a scale around zero passes through 1 + w: half a unit in the last place where 1 + w < 8
UNUSED_ROWS = 2  # of the position tables of OPT and BioGPT: they are written as zeros
TIE = 1e-5  # two logits closer than this, relative to the largest, may be ordered either way

ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
MIXED = {"sliding_window": 10, "layer_types": ["sliding_attention", "full_attention"]}
ALL_FULL = {"layer_types": ["full_attention", "full_attention"]}
UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
WIDE_HEADS = {"head_dim": 32}


def partial(factor: float) -> dict:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}}


def longrope() -> dict:
    factors = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, **factors}
    return {"rope_parameters": rope, "original_max_position_embeddings": 64}


CASES = {
    "llama": {},
    "llama-tied": TIED,
    "llama-multi-head": {"num_key_value_heads": 4},
    "llama-multi-query": {"num_key_value_heads": 1},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-wide-heads": WIDE_HEADS,
    "llama-pad": {"pad_token_id": 5, "hidden_act": "gelu"},
    **{f"llama-{name}": {"rope_parameters": rope} for name, rope in ROPES.items()},
    "llama-dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "max_position_embeddings": 64,
    },
    "internlm3": {"head_dim": 16},
    "internlm3-biases": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "iquestcoder": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 10, "head_dim": 32},
    "ministral": {"head_dim": 16} | MIXED,
    "qwen2": {},
    "qwen2-tied": TIED,
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 1},
    "qwen2-wide-heads": WIDE_HEADS,
    "qwen3": {"head_dim": 32},
    "qwen3-window": {"head_dim": 16, "attention_bias": True, "use_sliding_window": True} | MIXED,
    "olmo": {},
    "olmo-clip": {"clip_qkv": 0.5, "attention_bias": True},
    "olmo2": {},
    "olmo2-biases": {"attention_bias": True} | TIED,
    "olmo3": {"attention_bias": True} | MIXED,
    "olmo3-full": ALL_FULL,
    "smollm3": {"no_rope_layers": [1, 0]},
    "smollm3-window": {"no_rope_layers": [0, 1], "use_sliding_window": True} | MIXED | UNTIED,
    "smollm3-biases": {"no_rope_layers": [1, 1], "attention_bias": True, "mlp_bias": True},
    "seed_oss": {"head_dim": 16},
    "seed_oss-biases": {"head_dim": 32, "attention_out_bias": True, "mlp_bias": True},
    "cwm": {"head_dim": 16, "rope_parameters": ROPES["llama3"]} | MIXED,
    "cwm-full": {"head_dim": 16, "mlp_bias": True, "rope_parameters": ROPES["llama3"]} | ALL_FULL,
    "arcee": {},
    "arcee-biases": {"attention_bias": True, "mlp_bias": True, "rope_parameters": ROPES["yarn"]},
    "helium": {"head_dim": 16},
    "helium-biases": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "ernie4_5": {"head_dim": 16},
    "ernie4_5-biases": {"head_dim": 32, "use_bias": True} | UNTIED,
    "granite": {
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.3,
    },
    "granite-plain": {"attention_bias": True, "mlp_bias": True},
    "hyperclovax": {"embedding_multiplier": 10.0, "logits_scaling": 0.125, "attention_multiplier": 0.1},
    "hyperclovax-pre": {
        "use_post_norm": False,
        "residual_multiplier": 0.5,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "cohere": {},
    "cohere-qk-norm": {"use_qk_norm": True, "attention_bias": True, "logit_scale": 0.25} | UNTIED,
    "cohere2": MIXED,
    "cohere2-biases": {"attention_bias": True, "logit_scale": 0.5} | MIXED | UNTIED,
    "stablelm": {},
    "stablelm-parallel": {"use_parallel_residual": True, "use_qkv_bias": True},
    "stablelm-qk-norm": {"qk_layernorm": True} | partial(0.5),
    "stablelm-parallel-qk-norm": {"qk_layernorm": True, "use_parallel_residual": True} | TIED,
    "exaone4": MIXED,
    "exaone4-full": {"sliding_window": None} | ALL_FULL,
    "starcoder2": {},
    "starcoder2-window": {"use_bias": False, "sliding_window": 10} | UNTIED,
    "nemotron": {"head_dim": 16},
    "nemotron-biases": {"head_dim": 16, "attention_bias": True, "mlp_bias": True} | partial(1.0),
    "jais2": {"head_dim": 16},
    "jais2-plain": {"head_dim": 16, "attention_bias": False, "mlp_bias": False},
    "gemma": {"head_dim": 32},
    "gemma-biases": {"head_dim": 16, "attention_bias": True} | UNTIED,
    "gemma2": {"head_dim": 32, "attn_logit_softcapping": None} | MIXED,
    "gemma2-uncapped": {
        "head_dim": 16,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "query_pre_attn_scalar": 24,
        "attention_bias": True,
    }
    | ALL_FULL,
    "vaultgemma": {"head_dim": 16, "attn_logit_softcapping": None, "attention_bias": True} | MIXED,
    "glm": {"head_dim": 16},
    "glm-plain": {"head_dim": 32, "attention_bias": False} | TIED,
    "glm4": {"head_dim": 16},
    "glm4-plain": {"head_dim": 32, "attention_bias": False} | TIED,
    "phi3": {},
    "phi3-window": {"sliding_window": 10} | TIED,
    "phi3-partial": partial(0.5),
    "phi3-longrope": longrope(),
    "phi": {},
    "phi-qk-norm": {"qk_layernorm": True, "num_key_value_heads": 4},
    "phi-tied": TIED,
    "persimmon": {},
    "persimmon-plain": {"qk_layernorm": False} | TIED,
    "gpt_neox": {},
    "gpt_neox-sequential": {"use_parallel_residual": False, "attention_bias": False} | partial(1.0) | TIED,
    "falcon": {},  # the 7B style
    "falcon-11b": {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 2} | UNTIED,
    "falcon-40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-40b-biases": {"new_decoder_architecture": True, "num_kv_heads": 1, "bias": True},
    "falcon-multi-head": {"multi_query": False, "num_kv_heads": 4},
    "falcon-sequential": {"multi_query": False, "parallel_attn": False, "bias": True},
    "falcon-linear": {"rope_parameters": ROPES["linear"]},
    "gpt2": {},
    "gpt2-untied": {"n_inner": 80, "activation_function": "gelu"} | UNTIED,
    "gpt2-unscaled": {"scale_attn_weights": False, "reorder_and_upcast_attn": True},
    "openai-gpt": {},
    "openai-gpt-relu": {"afn": "relu"} | UNTIED,
    "gpt_bigcode": {},
    "gpt_bigcode-multi-head": {"multi_query": False, "n_inner": 80} | UNTIED,
    "gptj": {"rotary_dim": 8},
    "gptj-tied": {"rotary_dim": 16, "n_inner": 80} | TIED,
    "codegen": {"rotary_dim": 8},
    "codegen-tied": {"n_head": 8, "rotary_dim": 4} | TIED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 10},
    "gpt_neo-global": {"attention_types": [[["global"], 2]], "intermediate_size": 80} | UNTIED,
    "opt": {},
    "opt-post-norm": {"do_layer_norm_before": False} | UNTIED,
    "opt-bare": {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"},
    "biogpt": {},
    "biogpt-untied": {"scale_embedding": False} | UNTIED,
}


def model_type(case: str) -> str:
    return max((name for name in FAMILIES if case.startswith(name)), key=len)


def test_every_family_has_a_case():
    assert {model_type(case) for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_family(case, seed, tools, tmp_path, record_property):
    family = model_type(case)
    theirs = tools.random_model(family, **CASES[case])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_foreign(tmp_path / "theirs", attn_implementation="eager").eval()

    record_property("logits", same_logits(ours, theirs, tools))
    record_property("gradients", same_gradients(ours, theirs, FAMILIES[family], tools))
    same_text(ours, theirs, tools)
    same_tensors_written_back(ours, theirs, family, tmp_path, tools)


def random_tokens(tools, *shape):
    return torch.randint(6, tools.vocabulary, shape)  # above the padding id of any case


def same_logits(ours, theirs, tools) -> float:
    ids = random_tokens(tools, 2, LENGTH)
    with torch.no_grad():
        difference = tools.relative_difference(ours(ids).logits, theirs(ids).logits)
    assert difference < LOGITS_TOLERANCE
    return difference


def same_gradients(ours, theirs, family, tools) -> float:
    ids = random_tokens(tools, 1, LENGTH)
    for model in (ours, theirs):
        model(ids, labels=ids).loss.backward()
    mine = gradients_in_their_names(ours, family)
    # GPT-NeoX calls its head `lm_head` in memory, and `embed_out` in its files.
    head = family.names_for(ours.config).get("lm_head", "lm_head")
    reference = {name.replace("lm_head", head): p.grad for name, p in theirs.named_parameters()}
    worst = 0.0
    for name, gradient in reference.items():
        module = name.rpartition(".")[0]
        unit = max(reference[f"{module}.{leaf}"].abs().max() for leaf in LEAVES if f"{module}.{leaf}" in reference)
        difference = ((mine[name] - gradient.double()).abs().max() / unit).item()
        assert difference < GRADIENT_TOLERANCE, f"gradient of {name} differs by {difference:.2e}"
        worst = max(worst, difference)
    return worst


def gradients_in_their_names(ours, family) -> dict[str, torch.Tensor]:
    """A packing is linear but for an offset (norms around zero), so gradients pass through it less its value at 0."""
    gradients = {name: parameter.grad.double() for name, parameter in ours.named_parameters()}
    zeros = {name: torch.zeros_like(gradient) for name, gradient in gradients.items()}
    offset = dict(foreign_tensors(family, ours.config, zeros))
    return {name: g - offset[name] for name, g in foreign_tensors(family, ours.config, gradients)}


def same_text(ours, theirs, tools, new_tokens: int = 8) -> None:
    """Greedy text of each prompt alone in their class, against ours with and without cache, alone and padded left."""
    prompts = [random_tokens(tools, 1, 24), random_tokens(tools, 1, 17)]
    greedy = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    padded = torch.zeros(2, 24, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        padded[row, 24 - prompt.shape[1] :], mask[row, 24 - prompt.shape[1] :] = prompt[0], 1
    for cache in (True, False):
        batch = ours.generate(padded, attention_mask=mask, use_cache=cache, **greedy)[:, 24:]
        for row, prompt in enumerate(prompts):
            ones = torch.ones_like(prompt)
            alone = ours.generate(prompt, attention_mask=ones, use_cache=cache, **greedy)[0, prompt.shape[1] :]
            expected = theirs.generate(prompt, attention_mask=ones, **greedy)[0, prompt.shape[1] :]
            assert_same_choice(alone, expected, prompt, theirs)
            assert_same_choice(batch[row], expected, prompt, theirs)


def assert_same_choice(tokens, expected, prompt, theirs) -> None:
    different = (tokens != expected).nonzero()
    if len(different) == 0:
        return
    at = different[0, 0].item()
    with torch.no_grad():
        logits = theirs(torch.cat((prompt[0], expected[:at]))[None]).logits[0, -1]
    gap = (logits[expected[at]] - logits[tokens[at]]).item() / logits.abs().max().item()
    assert gap < TIE, f"token {at}: {tokens.tolist()} and {expected.tolist()}"


def same_tensors_written_back(ours, theirs, family: str, tmp_path, tools) -> None:
    save_foreign(ours, tmp_path / "back", family)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    rounded = any(packing.rounds for packing in FAMILIES[family].packings)
    for name, tensor in before.items():
        if family in ("opt", "biogpt") and "embed_positions" in name:
            assert not after[name][:UNUSED_ROWS].any()
            tensor, after[name] = tensor[UNUSED_ROWS:], after[name][UNUSED_ROWS:]
        if rounded and "norm" in name and name.endswith("weight"):
            assert (tensor - after[name]).abs().max() <= ROUNDED_SCALE, name
        else:
            assert torch.equal(tensor, after[name]), name
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager", output_loading_info=True
    )
    assert type(again) is type(theirs)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = random_tokens(tools, 1, LENGTH)
    with torch.no_grad():
        difference = tools.relative_difference(again.eval()(ids).logits, theirs(ids).logits)
    assert difference <= (LOGITS_TOLERANCE if rounded else 0)
