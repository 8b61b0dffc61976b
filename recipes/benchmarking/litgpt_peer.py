"""The peer in training from litgpt: its model on the same weights, in the loop of its `pretrain`."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..training.hardware import supports_bf16
from .training import BETA2, LEARNING_RATE, MAX_GRAD_NORM, WARM_UPS, FixedRows
from .turns import Turns, device


def config_of(directory: Path):
    """litgpt's Config of a Llama checkpoint.

    Raises:
        ValueError: another family, or scaled rotary positions.
    """
    from litgpt.config import Config

    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rope = fields.get("rope_parameters") or {}
    if fields["model_type"] != "llama" or rope.get("rope_type", "default") != "default":
        raise ValueError(f"a {fields['model_type']!r} with {rope}; this contender knows plain Llama")
    return Config(
        name="bench",
        block_size=fields["max_position_embeddings"],
        n_layer=fields["num_hidden_layers"],
        n_embd=fields["hidden_size"],
        vocab_size=fields["vocab_size"],
        padded_vocab_size=fields["vocab_size"],
        n_head=fields["num_attention_heads"],
        n_query_groups=fields["num_key_value_heads"],
        head_size=fields["head_dim"],
        intermediate_size=fields["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=fields["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        bias=False,
        parallel_residual=False,
        rotary_percentage=1.0,
        rope_base=int(rope["rope_theta"]),
    )


def model_of(directory: Path):
    """litgpt's GPT. Its own conversion does the naming; the head is the embedding where it is so in the checkpoint."""
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama

    config = config_of(directory)
    weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights |= load_file(file)
    tied = "lm_head.weight" not in weights
    converted = {}
    if tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    copy_weights_hf_llama(config, {}, converted, weights)
    model = GPT(config)
    model.load_state_dict(converted)
    if tied:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def train(turns: Turns, model: str, rows: str, batch: int, length: int, seed: int, compiled: bool) -> None:
    """A unit is a step of `litgpt pretrain`: bfloat16 autocast where the hardware has it, and compiled."""
    import lightning
    from litgpt.utils import chunked_cross_entropy

    precision = "bf16-mixed" if supports_bf16(device()) else "32-true"
    fabric = lightning.Fabric(devices=1, accelerator="auto", precision=precision)
    fabric.seed_everything(seed)
    net = model_of(Path(model))
    net.max_seq_length = length
    net = fabric.setup(torch.compile(net) if compiled else net)
    adamw = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, betas=(0.9, BETA2), weight_decay=0.0, fused=True)
    optimizer = fabric.setup_optimizers(adamw)
    data, step = FixedRows(rows), 0

    def unit() -> dict:
        nonlocal step
        ids = data.batch(step * batch, batch)["input_ids"].to(fabric.device)
        loss = chunked_cross_entropy(net(ids)[:, :-1], ids[:, 1:])
        fabric.backward(loss)
        fabric.clip_gradients(net, optimizer, max_norm=MAX_GRAD_NORM, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        return {"loss": loss.item()}

    turns.ready(losses=[unit()["loss"] for _ in range(WARM_UPS)])
    turns.serve(unit)
