"""Run by test_sharded.py as two processes: trains models whole, by DDP, FSDP2 and tensor parallel, and writes what
came out.

    sharded_worker.py RANK DIRECTORY
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.data.tokens import IGNORED
from rhapsode.recipes.options.pretrain import PretrainOptions
from rhapsode.recipes.training.ema import WeightAverage
from rhapsode.recipes.training.gradients import clip_gradients
from rhapsode.recipes.training.loss import NextTokenLoss
from rhapsode.recipes.training.optimizers import build_optimizers
from rhapsode.recipes.training.parameters import block_matrices, blocks
from rhapsode.recipes.training.partial import freeze
from rhapsode.recipes.training.recompute import recompute_blocks
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.distributed import DistributedConfig

STEPS, ROWS, LENGTH = 2, 4, 24
DESIGNS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "final_logit_softcapping": 3.0},
    "frozen head": {"tie_word_embeddings": False, "lm_head_bias": True},
}


def batch_of(step: int, vocab_size: int) -> dict[str, torch.Tensor]:
    """Ragged: half of the rows have no more than a few targets, so that the processes have different numbers."""
    ids = torch.randint(vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(step))
    labels = ids.clone()
    labels[0, 3:], labels[1, 9:] = IGNORED, IGNORED
    return {"input_ids": ids, "labels": labels}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def wrap(loss: NextTokenLoss, kind: str):
    if kind == "ddp":
        return DistributedDataParallel(loss)
    if kind == "fsdp2":
        for block in blocks(loss.model).values():
            fully_shard(block)
        fully_shard(loss)
    return loss


def train(design: str, kind: str, rank: int) -> dict:
    """Two steps on all rows, or on this process's half of them."""
    torch.manual_seed(0)
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny", **DESIGNS[design])).train()
    options = PretrainOptions(
        optim="muon",
        layer_lr_decay=0.9,
        gradient_checkpointing=design == "untied",
        weight_decay=0.2,
    )
    freeze(model, ["lm_head.weight"] if design == "frozen head" else [])
    recompute_blocks(model, options)
    world = 1 if kind == "whole" else 2
    loss = wrap(NextTokenLoss(model, chunk=7, z_loss=1e-3), kind)
    optimizers, average = build_optimizers(model, options), WeightAverage(model, 0.9)
    found = {"losses": [], "norms": [], "matrices": list(block_matrices(model)), "blocks": list(blocks(model))}
    for step in range(STEPS):
        batch = batch_of(step, model.config.vocab_size)
        num_items = (batch["labels"][:, 1:] != IGNORED).sum()
        if world > 1:
            batch = {key: value.chunk(2)[rank] for key, value in batch.items()}
        nats = loss(batch, num_items)
        (nats * world).backward()
        norm = clip_gradients(model, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(model)
        nats = nats.detach()
        if world > 1:
            dist.all_reduce(nats)
        found["losses"].append(nats.item())
        found["norms"].append(norm.item())
    found["weights"] = {name: whole(p) for name, p in model.named_parameters()}
    found["average"] = {name: whole(t) for name, t in average.tensors().items()}
    with average.in_place_of_weights(model):
        found["swapped"] = {name: whole(p) for name, p in model.named_parameters()}
    found["restored"] = {name: whole(p) for name, p in model.named_parameters()}
    found["groups"] = [
        (type(o).__name__, g["peak_lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]])
        for o in optimizers
        for g in o.param_groups
    ]
    return found


def tensor_parallel(design: str, directory: Path, rank: int, tp_size: int) -> dict:
    """One step on all rows, by one process or by two that share each matrix."""
    torch.manual_seed(0)
    config = RhapsodeConfig.from_preset(
        "rhapsode-10m-tiny", num_attention_heads=4, num_key_value_heads=2, **DESIGNS[design]
    )
    model = RhapsodeForCausalLM(config)
    if tp_size > 1:
        if rank == 0:
            model.save_pretrained(directory / design)
        dist.barrier()
        model = RhapsodeForCausalLM.from_pretrained(
            directory / design, distributed_config=DistributedConfig(tp_size=tp_size)
        )
    batch = batch_of(0, config.vocab_size)
    loss = NextTokenLoss(model.train(), chunk=7)(batch, torch.tensor(50))
    loss.backward()
    norm = clip_gradients(model, 0.5)
    for optimizer in build_optimizers(model, PretrainOptions(optim="muon")):
        optimizer.step()
    weights = {name: whole(p) for name, p in model.named_parameters()}
    return {"losses": [loss.item()], "norms": [norm.item()], "weights": weights}


def main(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory / 'rendezvous'}", rank=rank, world_size=2)
    found = {(d, kind): train(d, kind, rank) for d in DESIGNS for kind in ("whole", "ddp", "fsdp2")}
    for design in ("tied", "untied"):
        for kind, size in (("one", 1), ("tensor parallel", 2)):
            found[design, kind] = tensor_parallel(design, directory, rank, size)
    if rank == 0:
        torch.save(found, directory / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
