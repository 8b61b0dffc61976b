"""What a checkpoint holds beside what `transformers.Trainer` writes: a run resumed from it goes on bit for bit.

It is whole or not there: see `whole_checkpoints.py`.

    value_model/            the value model (also in the final directory)
    ppo_state_RANK.pt       the rollout being learned from, its order, beta, the guard, figures not yet logged

The rollout has to be there: it was made by a policy that no longer is.
"""

from pathlib import Path

import safetensors.torch
import torch
from transformers import Trainer

from ..training.whole_checkpoints import WholeCheckpoints
from .values import VALUE_FILE

PREFIX = "value_model."


def split_weights(state_dict: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """The policy's weights, and the value model's under its own names."""
    policy = {name: weight for name, weight in state_dict.items() if PREFIX not in name}
    value = {name.split(PREFIX, 1)[1]: weight for name, weight in state_dict.items() if PREFIX in name}
    return policy, value


def save_value_model(weights: dict[str, torch.Tensor], directory: str) -> None:
    whole = {name: weight.detach().cpu().contiguous().clone() for name, weight in weights.items()}
    path = Path(directory) / VALUE_FILE
    path.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(whole, path, metadata={"format": "pt"})


def load_value_model(value_model: torch.nn.Module, directory: str) -> None:
    path = Path(directory) / VALUE_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no {VALUE_FILE}: it is no checkpoint of a PPO run")
    value_model.load_state_dict(safetensors.torch.load_file(path))


def save_state(state: dict, directory: str, process: int) -> None:
    path = Path(directory) / f"ppo_state_{process}.pt"
    temporary = path.with_name(f".unfinished-{path.name}")
    torch.save(state, temporary)
    temporary.replace(path)


def load_state(directory: str, process: int) -> dict:
    """On the CPU, whatever it was saved from."""
    path = Path(directory) / f"ppo_state_{process}.pt"
    if not path.is_file():
        raise ValueError(f"{path} is missing: resume with as many processes as the checkpoint was written by")
    return torch.load(path, map_location="cpu", weights_only=True)


class ResumableTrainer(WholeCheckpoints, Trainer):
    """Writes and reads them. `use_cache` is what the model's configuration said before training."""

    def _save(self, output_dir=None, state_dict=None):
        output_dir = output_dir or self.args.output_dir
        if state_dict is None:
            state_dict = self.accelerator.unwrap_model(self.model).state_dict()
        policy, value = split_weights(state_dict)
        config = self.accelerator.unwrap_model(self.model).config
        config.use_cache, during = self.use_cache, config.use_cache  # checkpointing of gradients switches it off
        super()._save(output_dir, policy)
        config.use_cache = during
        if self.args.should_save:
            save_value_model(value, output_dir)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        now = {"buffer": self.buffer.state(), "beta": self.controller.beta, "metrics": self.metrics.state()}
        save_state(now | {"guard": self.step_guard.guard.state()}, output_dir, self.args.process_index)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled:
            load_value_model(self.value_model, resume_from_checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            load_value_model(self.value_model, self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            before = load_state(checkpoint, self.args.process_index)
            self.buffer.load(before["buffer"], self.accelerator.device)
            self.controller.beta = before["beta"]
            self.metrics.load(before["metrics"])
            self.step_guard.guard.load(before["guard"])
