"""What `load_foreign` does with whole checkpoints: dtypes, shards, old files, and everything that it refuses."""

import json
import subprocess
import sys

import pytest
import torch
from rhapsode.hub import load_foreign, save_foreign
from rhapsode.modeling import RhapsodeForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SHARD = "200KB"
LOADING_ALLOWED = 1.4  # resident memory per size of the checkpoint: the model, and mapped pages of what was unpacked
SAVING_ALLOWED = 0.4  # beside the model: two shards of a tenth each, and room for the allocator
REFUSED = {
    "llama-partial": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor=0.5",
    ),
    "olmo3-two-ropes": (
        "olmo3",
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            },
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "differ between the layer types",
    ),
    "smollm3-window-off": (
        "smollm3",
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "no_rope_layers": [1, 1]},
        "use_sliding_window=False",
    ),
    "helium-head-dim": ("helium", {"head_dim": 32}, "head_dim=32"),
    "gemma2-softcap": ("gemma2", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=null"),
    "vaultgemma-softcap": ("vaultgemma", {}, "attn_logit_softcapping=50.0"),
    "gemma-bidirectional": ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    "gpt2-inverse-layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    "gpt2-cross-attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    "gpt_bigcode-cross-attention": ("gpt_bigcode", {"add_cross_attention": True}, "add_cross_attention=True"),
    "gptj-rotary-dim": ("gptj", {"rotary_dim": 0}, "rotary_dim=0"),
    "codegen-heads": ("codegen", {"n_head": 2, "rotary_dim": 8}, "n_head=2"),
    "opt-projection": ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim=32"),
    "opt-no-final-norm": ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
    "falcon-alibi": ("falcon", {"alibi": True}, "ALiBi"),
}
UNKNOWN = {
    "mixtral": ({"num_local_experts": 8}, "mixture of experts"),
    "qwen3_moe": ({"num_experts": 8}, "mixture of experts"),
    "deepseek_v3": ({"kv_lora_rank": 512, "n_routed_experts": 256}, "latent attention"),
    "bloom": ({}, "ALiBi"),
    "mpt": ({}, "ALiBi"),
    "bert": ({}, "not a causal decoder"),
    "t5": ({"is_encoder_decoder": True}, "encoder"),
    "mamba": ({}, "state-space"),
    "gemma3_text": ({}, "different bases"),
    "llava": ({"vision_config": {"hidden_size": 8}}, "vision"),
    "never-heard-of": ({}, "none of"),
    "rhapsode": ({}, "from_pretrained"),
}


def write_config(directory, **fields):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields))


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_a_setting_by_name(case, tools, tmp_path):
    model_type, settings, expected = REFUSED[case]
    tools.config(model_type, **settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        load_foreign(tmp_path)
    assert_one_line(error, expected)


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_refuses_a_model_type_with_the_reason(model_type, tmp_path):
    fields, reason = UNKNOWN[model_type]
    write_config(tmp_path, model_type=model_type, **fields)
    with pytest.raises(ValueError) as error:
        load_foreign(tmp_path)
    assert_one_line(error, repr(model_type), reason)


def test_refuses_a_configuration_that_its_own_class_refuses(tmp_path):
    write_config(tmp_path, model_type="llama", hidden_size="wide")
    with pytest.raises(ValueError) as error:
        load_foreign(tmp_path)
    assert_one_line(error, "hidden_size", "'llama'")


def test_refuses_quantized_files_and_a_config(tools, tmp_path):
    write_config(tmp_path, model_type="llama", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ValueError, match="dequantize"):
        load_foreign(tmp_path)
    with pytest.raises(ValueError, match="follows from the checkpoint"):
        load_foreign(tmp_path, config=tools.config("llama"))


def test_refuses_missing_and_unknown_tensors(seed, tools, tmp_path):
    tools.random_model("llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        load_foreign(tmp_path)
    save_file(
        tensors | {"model.layers.1.mlp.up_proj.weight": lost, "model.extra": lost.clone()}, file, {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"unknown model\.extra"):
        load_foreign(tmp_path)


def test_an_untied_backbone_lacks_its_head(seed, tools, tmp_path):
    tools.random_model("llama").model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight"):
        load_foreign(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("gpt2", {}), ("openai-gpt", {}), ("opt", {}), ("gemma", {"head_dim": 16}), ("falcon", {}), ("gpt_bigcode", {})],
)
def test_files_without_the_prefix_of_the_backbone(model_type, settings, seed, tools, tmp_path):
    """The original files of GPT-2 are those of the backbone: `h.0.ln_1.weight`."""
    theirs = tools.random_model(model_type, **settings)
    theirs.base_model.save_pretrained(tmp_path)
    assert not any(name.startswith("transformer.") for name in load_file(tmp_path / "model.safetensors"))
    ours = load_foreign(tmp_path, attn_implementation="eager").eval()
    ids = torch.randint(tools.vocabulary, (1, 100))
    with torch.no_grad():
        assert tools.relative_difference(ours(ids).logits, theirs(ids).logits) < 3e-6


def test_old_files_keep_masks_and_tables(seed, tools, tmp_path):
    theirs = tools.random_model("gpt_neox")
    theirs.save_pretrained(tmp_path)
    buffers = {}
    for i in range(2):
        attention = f"gpt_neox.layers.{i}.attention"
        buffers[f"{attention}.bias"] = torch.ones(1, 1, 256, 256).tril().bool()
        buffers[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        buffers[f"{attention}.rotary_emb.inv_freq"] = torch.ones(2)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | buffers, file, metadata={"format": "pt"})
    load_foreign(tmp_path)


def test_device_map_and_no_pickled_files(seed, tools, tmp_path):
    theirs = tools.random_model("gpt2")
    theirs.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    ours = load_foreign(tmp_path, device_map="cpu")
    for a, b in zip(ours.parameters(), load_foreign(tmp_path).parameters(), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle"):
        load_foreign(tmp_path)


def test_a_head_of_its_own_wins_over_a_tied_configuration(seed, tools, tmp_path):
    """As in transformers; and it is written back, not lost."""
    theirs = tools.random_model("gpt2", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "theirs")
    fields = json.loads((tmp_path / "theirs" / "config.json").read_text())
    write_config(tmp_path / "theirs", **fields | {"tie_word_embeddings": True})
    ours = load_foreign(tmp_path / "theirs")
    assert not ours.config.tie_word_embeddings
    save_foreign(ours, tmp_path / "back", "gpt2")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_old_spelling_of_rotary_settings(tmp_path, seed, tools):
    tools.random_model("llama").save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["rope_parameters"]
    fields |= {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32"}
    write_config(tmp_path, **fields)
    rope = load_foreign(tmp_path).config.rope_parameters
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == ("linear", 5e5, 2.0)


@pytest.mark.parametrize("model_type", ["phi3", "gpt2", "llama"])
def test_bfloat16_and_shards(model_type, seed, tools, tmp_path):
    theirs = tools.random_model(model_type, vocab_size=1024, tie_word_embeddings=False).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size=SHARD)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours = load_foreign(tmp_path)
    assert ours.dtype == torch.bfloat16 == ours.config.dtype
    wide = load_foreign(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(1024, (1, 100))
    with torch.no_grad():
        assert tools.relative_difference(wide(ids).logits, theirs(ids).logits) < 3e-6
    for a, b in zip(ours.parameters(), wide.parameters(), strict=True):
        assert torch.equal(a.float(), b)


def test_half_precision_rounds_scales_around_zero_and_says_so(seed, tools, tmp_path, caplog):
    tools.random_model("gemma", head_dim=16).to(torch.bfloat16).save_pretrained(tmp_path)
    from transformers.utils import logging

    logging.get_logger("transformers").propagate, before = True, logging.get_logger("transformers").propagate
    try:
        load_foreign(tmp_path)
    finally:
        logging.get_logger("transformers").propagate = before
    assert "load with dtype=torch.float32" in caplog.text


def test_afterwards_it_is_a_rhapsode_model(seed, tools, tmp_path):
    theirs = tools.random_model("gpt2")
    theirs.generation_config.max_new_tokens = 7
    theirs.save_pretrained(tmp_path / "theirs")
    ours, info = load_foreign(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing_keys"]
    assert ours.generation_config.max_new_tokens == 7
    ours.save_pretrained(tmp_path / "ours")
    names = load_file(tmp_path / "ours" / "model.safetensors").keys()
    assert "model.layers.0.self_attn.q_proj.weight" in names and "lm_head.weight" not in names
    again = RhapsodeForCausalLM.from_pretrained(tmp_path / "ours")
    for a, b in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


MEASURE = """
import sys, threading, time
import rhapsode
from rhapsode.hub import load_foreign, save_foreign

def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

peak, done = 0.0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident("VmRSS"))
        time.sleep(0.005)

before = resident("VmRSS")
watcher = threading.Thread(target=watch)
watcher.start()
model = load_foreign(sys.argv[1])
for parameter in model.parameters():
    parameter.detach().flatten()[::1024].sum()  # touch every page: files are mapped, and read when they are needed
between = resident("VmRSS")
loading, peak = max(peak, between) - before, 0.0
save_foreign(model, sys.argv[2], sys.argv[3], max_shard_size="60MB")
done = True
watcher.join()
print("RESULT", loading, peak - between)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox"])  # nothing, everything and the queries are packed
def test_a_checkpoint_does_not_need_twice_its_size(model_type, tools, tmp_path):
    size = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16}
    grouped = {"num_key_value_heads": 4} if model_type != "gpt_neox" else {}
    config = tools.config(model_type, vocab_size=32000, **size, **grouped)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="150MB")
    del model
    megabytes = sum(file.stat().st_size for file in (tmp_path / "theirs").glob("*.safetensors")) / 2**20
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "theirs"), str(tmp_path / "back"), model_type]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT"))
    loading, saving = map(float, line.split()[1:])
    print(f"{model_type}: {megabytes:.0f} MB on disk; loading takes {loading:.0f}, saving {saving:.0f} more")
    assert loading < LOADING_ALLOWED * megabytes
    assert saving < SAVING_ALLOWED * megabytes
