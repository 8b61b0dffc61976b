"""How the processes of a run share its work.

    ddp               each process holds the whole model and computes a part of the batch; gradients are averaged
    fsdp2             the same, but each keeps only a part of every weight, gradient and optimizer state, and a block's
                      weights are gathered for its turn (Zhao et al. 2023, arXiv:2304.11277; torch's `fully_shard`)
    deepspeed         the same, but each keeps only a part of the gradients and the optimizer: see `zero.py`
    tensor_parallel   all compute the same batch, each with a part of every matrix, by the plan that the model declares
                      (Shoeybi et al. 2019, arXiv:1909.08053; transformers' `DistributedConfig`)

The launcher says which: `accelerate launch --config_file recipes/configs/accelerate/fsdp2.yaml ...` leaves it in the
environment. Accelerate falls back to DDP where FSDP is asked for on a CPU; here it is the same code on every device.
"""

import copy
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ..options.base import UserError
from .gradients import clip_gradients
from .zero import Spread, gradient_norm


class Parallel:
    """`data_index` of `data_count`: which share of every batch is this process's."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.strategy = _strategy(accelerator.num_processes)
        one_batch = self.strategy in ("single", "tensor_parallel")
        self.data_count = 1 if one_batch else accelerator.num_processes
        self.data_index = 0 if one_batch else accelerator.process_index

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this process's device; under tensor parallelism, its part of it."""
        if self.strategy == "fsdp2":  # `fully_shard` moves a part at a time: the whole may not fit
            return model
        if self.strategy == "tensor_parallel":
            return self._split_matrices(model)
        return model.to(self.accelerator.device)

    def _split_matrices(self, model):
        """Loaded again in parts, from a file: the only public way to transformers' tensor parallelism."""
        from transformers.distributed.configuration_utils import DistributedConfig

        if not getattr(model, "_tp_plan", None):
            raise UserError(f"tensor_parallel: {type(model).__name__} declares no plan for it; use ddp or fsdp2")
        kernel, dtype = model.config._attn_implementation, model.dtype
        with self.shared_directory() as directory:
            if self.is_main:
                model.save_pretrained(directory)
            self.wait()
            split = type(model).from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation=kernel,
                distributed_config=DistributedConfig(tp_size=self.accelerator.num_processes),
            )
            self.wait()
        return split.train(model.training)

    def wrap(self, loss: nn.Module) -> nn.Module:
        """The module whose forward pass the loop calls."""
        if self.strategy == "ddp":
            return self.accelerator.prepare_model(loss)
        if self.strategy == "fsdp2":
            return self._shard(loss)
        return loss

    def _shard(self, loss: nn.Module) -> nn.Module:
        kinds = set(getattr(loss.model, "_no_split_modules", None) or ())
        mesh = dist.device_mesh.init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        for module in loss.modules():
            if type(module).__name__ in kinds:
                fully_shard(module, mesh=mesh)
        fully_shard(loss, mesh=mesh)  # embedding, last norm and head
        register_fsdp_forward_method(loss, "logits")
        return loss.to(self.accelerator.device)  # what is left: buffers

    @contextmanager
    def evaluating(self, loss: nn.Module):
        """What `wrap` was given, for calls that need no gradient."""
        try:
            yield loss.module if self.strategy in ("ddp", "deepspeed") else loss
        finally:
            if self.strategy == "fsdp2":  # otherwise what was gathered last stays until a backward pass
                loss.reshard()

    @contextmanager
    def accumulating(self, loss: nn.Module, is_last: bool):
        """Backward passes in here add to the gradients; only the last one of a step exchanges them."""
        if self.strategy == "fsdp2":
            loss.set_requires_gradient_sync(is_last)
            yield
        elif self.strategy == "ddp" and not is_last:
            with loss.no_sync():
                yield
        elif self.strategy == "deepspeed":  # exchanges them at each, and adds up its part
            loss.set_gradient_accumulation_boundary(is_last)
            yield
        elif self.strategy == "tensor_parallel":  # transformers sums what has been accumulated, not what is added
            held = [(p, p.grad) for p in loss.parameters() if p.grad is not None]
            for p, _ in held:
                p.grad = None
            yield
            for p, grad in held:
                p.grad = grad if p.grad is None else p.grad.add_(grad)
        else:
            yield

    def clip_gradients(self, loss: nn.Module, limit: float) -> torch.Tensor:
        """Scale them down to a norm of `limit`, 0 for no limit; their norm before, the same on all processes."""
        return gradient_norm(loss) if self.strategy == "deepspeed" else clip_gradients(loss, limit)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over the processes that compute different parts of the batch."""
        return value if self.data_count == 1 else self.accelerator.reduce(value, reduction="sum")

    def largest(self, *values: float) -> list[float]:
        """The largest value of each on all processes: for what each would measure or be told at another moment."""
        if self.accelerator.num_processes == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def from_main(self, value):
        """The main process's value, of anything that pickles."""
        if self.accelerator.num_processes == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def from_each(self, value) -> list:
        """The values of the processes that compute different parts of the batch, in their order."""
        if self.data_count == 1:
            return [value]
        values = [None] * self.data_count
        dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable):
        """Do it once, for all; what goes wrong goes wrong on every process, and none waits for the others."""
        fault = result = None
        if self.is_main:
            try:
                result = work()
            except (OSError, ValueError) as error:
                fault = error
        fault, result = self.from_main((fault, result))
        if fault is not None:
            raise fault
        return result

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    @contextmanager
    def shared_directory(self):
        """A temporary directory of the main process's that all of them see; they share a file system, as ever."""
        with tempfile.TemporaryDirectory() if self.is_main else _Nowhere() as directory:
            yield self.from_main(directory)


class _Nowhere:
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


def _strategy(num_processes: int) -> str:
    if num_processes == 1:
        return "single"
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return "deepspeed"
    if _is_set("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError("fsdp_version 1 of accelerate's configuration is outdated; set fsdp_version: 2")
        return "fsdp2"
    tp_size = int(os.environ.get("PARALLELISM_CONFIG_TP_SIZE", "1"))
    if _is_set("ACCELERATE_USE_PARALLELISM_CONFIG") and tp_size > 1:
        if tp_size != num_processes:
            raise UserError(f"tp_size {tp_size} with {num_processes} processes: they must be equal; or use fsdp2")
        return "tensor_parallel"
    return "ddp"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def whole_model(model: nn.Module, is_main: bool) -> nn.Module | None:
    """On the main process the model with full tensors, on its own; every process must ask."""
    full = {name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    if not is_main:
        return None
    config = copy.deepcopy(model.config)
    vars(config).pop("distributed_config", None)
    rebuilt = type(model)(config)
    rebuilt.load_state_dict(full, assign=True)
    rebuilt.tie_weights()
    rebuilt.generation_config = model.generation_config
    return rebuilt.eval()


def whole(tensor: torch.Tensor | Spread) -> torch.Tensor:
    """The full tensor of one that is spread over processes; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor | Spread) else tensor


def spread_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a full tensor that every process has, as `like` is spread; on its device."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor.to(like.device)
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
