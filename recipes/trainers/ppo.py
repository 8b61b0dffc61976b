"""PPO for causal language models, on `transformers.Trainer`.

Ziegler et al. 2019 (arXiv:1909.08593), Stiennon et al. 2020 (arXiv:2009.01325), Ouyang et al. 2022 (arXiv:2203.02155).
For a prompt x and a completion y of the policy pi, with the reference rho, scores r and the value model V:

    maximise  E[r(x, y) - beta KL(pi(. | x) || rho(. | x))]        by rollouts of completions, several epochs over each
    rewards of tokens, advantages, returns                          `advantages.py`
    KL and its coefficient                                          `kl.py`
    losses of policy, value, entropy and pretraining text           `losses.py`

Rollouts are made in `_prepare_inputs`, as trl's GRPOTrainer and RLOOTrainer make theirs. Loop, schedules, callbacks,
trackers, checkpoints and pushing to the Hub are those of `transformers.Trainer`.

How we differ from the PPO that trl had until 1.12: prompts are texts or conversations and rewards are functions or
models, as in its other trainers; whitening and the mean over tokens are over all processes; the score is at the last
token of the completion, never on the padding behind it; one model and one optimizer, saved with the value model,
resumed bit for bit.
"""

import time

import torch
from accelerate.utils import is_peft_model, set_seed
from datasets import Dataset
from transformers import PreTrainedModel
from trl.distributed import DistributedBackend

from . import models
from .buffer import RolloutBuffer
from .collecting import RolloutTrainer
from .config import PPOConfig
from .guards import StepGuard
from .kl import KLController
from .losses import policy_terms, update_kl, value_terms
from .metrics import UPDATE_SUMS, Metrics
from .pretraining import PretrainingRows, with_pretraining
from .rewards import Rewards
from .rollouts import check_data, sampling_config
from .scoring import add_token_scores
from .values import build_value_model

TAGS = ["rhapsode", "ppo"]


class PPOTrainer(RolloutTrainer):
    """Arguments as those of trl's `RLOOTrainer`.

    Args:
        model: a causal language model, a PEFT model around one, or the name of one.
        reward_funcs: one or a list of: functions as for trl's `GRPOTrainer`, models for sequence classification with
            one label, names of such models.
        args: a `PPOConfig`.
        train_dataset: a `datasets.Dataset` with a column `prompt`, of texts or of conversations; reward functions get
            its other columns.
        eval_dataset: one like it, or several by name.
        processing_class: the tokenizer; that of the model by default.
        reward_processing_classes: tokenizers of the reward models; their own by default.
        callbacks, optimizers: as in `transformers.Trainer`.
        peft_config: train adapters of this kind.
        pretraining_dataset: a `datasets.Dataset` with a column `text` or `messages`, for `ptx_coef`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs,
        args: PPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class=None,
        reward_processing_classes=None,
        callbacks=None,
        optimizers=(None, None),
        peft_config=None,
        pretraining_dataset: Dataset | None = None,
    ):
        args = args or PPOConfig(f"{_last_name(model)}-PPO")
        check_data(args, train_dataset, eval_dataset, pretraining_dataset)
        set_seed(args.seed)  # adapters begin at random
        policy = models.open_policy(model, args)
        tokenizer = models.open_tokenizer(processing_class, policy, args)
        load = models.load_arguments(args)
        self.rewards = Rewards(reward_funcs, reward_processing_classes, args.reward_weights, load, tokenizer)
        self.eos_ids = models.stop_tokens(policy, tokenizer)
        self.generation_config = sampling_config(args, tokenizer, self.eos_ids)
        self.use_cache = policy.config.use_cache
        policy = self._add_models(policy, args, peft_config)
        self.step_guard = StepGuard(args.max_skipped_steps, args.fp16)
        self.metrics, self.table, self.moved, self.step_time = Metrics(), {}, 0.0, 0.0
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # each pass uses all: heads, values, adapters
        self.controller = KLController(args.beta, args.kl_target, args.kl_horizon)
        super().__init__(
            model=policy,
            args=args,
            data_collator=list,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=[self.step_guard, *(callbacks or ())],
            optimizers=optimizers,
        )
        self._after_trainer(args, pretraining_dataset)

    def _add_models(self, policy, args: PPOConfig, peft_config):
        """The policy with adapters, value model and reference."""
        has_adapters = is_peft_model(policy)
        base = policy.get_base_model() if has_adapters else policy
        self.is_peft = has_adapters or peft_config is not None
        self.reference = models.copy_reference(base, args) if args.beta and not self.is_peft else None
        self.value_model = build_value_model(args.value_model, base, self.rewards.models, has_adapters, peft_config)
        policy = models.add_adapters(policy, peft_config)
        if self.is_peft and args.gradient_checkpointing:
            policy.enable_input_require_grads()
        if args.disable_dropout:
            for model in filter(None, (policy, self.reference, self.value_model)):
                models.switch_dropout_off(model)
        add_token_scores(policy.get_base_model() if self.is_peft else policy, args.temperature, self.value_model)
        if self.reference is not None:
            add_token_scores(self.reference, args.temperature)
        return policy

    def _after_trainer(self, args: PPOConfig, pretraining_dataset) -> None:
        """What needs the processes, which `Trainer` has found."""
        if args.n_gpu > 1:
            raise ValueError("several GPUs in one process; start one process for each with accelerate launch")
        # Before transformers 5.19 these two stand for `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs, self.compute_loss_func = False, self.compute_loss
        if self.reference is not None:
            self.reference = models.prepare_frozen(self.reference, self.accelerator, shard=True)
        self.rewards.prepare(lambda model: models.prepare_frozen(model, self.accelerator, shard=False))
        self.buffer = RolloutBuffer(
            args.steps_per_generation, args.gradient_accumulation_steps, args.num_iterations, self._total
        )
        self.pretraining = None
        if pretraining_dataset is not None:
            processes = (args.world_size, args.process_index)
            self.pretraining = PretrainingRows(
                pretraining_dataset,
                self.processing_class,
                args.ptx_max_length,
                args.per_device_train_batch_size,
                *processes,
                args.seed,
            )
        self.backend = DistributedBackend(self.accelerator)
        self.accelerator.unwrap_model(self.model).add_model_tags(TAGS)
        set_seed(args.seed, device_specific=True)  # other completions on each process

    # Updates

    def training_step(self, model, inputs, num_items_in_batch=None):
        start = time.perf_counter()
        if self.buffer.is_stopped and not self.buffer.needs_rollout:
            self.buffer.skip()
            loss = torch.zeros((), device=self.args.device)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_time += time.perf_counter() - start
        if self.buffer.ends_update:
            self.metrics.add("train", {"step_time": self.step_time})
            limit = self.args.stop_update_kl
            self.buffer.is_stopped |= limit is not None and self.moved > limit
            self.moved = self.step_time = 0.0
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The share of this micro-batch in the mean over the tokens of the update."""
        if return_outputs:
            raise ValueError("PPOTrainer computes its loss from tensors of the rollout and has no outputs to return")
        args, rows, width = self.args, *inputs["mask"].shape
        given = inputs
        if self.pretraining is not None:
            given = with_pretraining(
                inputs, self.pretraining.rows(self.buffer.step - 1), self.generation_config.pad_token_id
            )
        output = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            scored=given["mask"],
            value_rows=rows,
        )
        terms = self._terms(inputs, output.log_probs[:rows, :width], output.state_values[:, :width])
        terms["entropy"] = output.entropy[:rows, :width]
        sums = {name: (terms[name] * inputs["mask"]).sum() / inputs["tokens"] for name in UPDATE_SUMS}
        loss = sums["loss/policy"] + args.vf_coef * sums["loss/value"] - args.entropy_coef * sums["entropy"]
        if self.pretraining is not None:
            sums["loss/ptx"] = -(output.log_probs * given["mask"])[rows:].sum() / self._pretraining_tokens()
            loss = loss + args.ptx_coef * sums["loss/ptx"]
        self._note_update({name: value.detach() for name, value in sums.items()})
        return loss * self.accelerator.num_processes  # DDP takes the mean over processes

    def _terms(self, inputs: dict, logps: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, T) terms of the loss, and what is logged with them."""
        args, mask = self.args, inputs["mask"]
        logps, old = logps * mask, inputs["old_logps"] * mask
        high = args.epsilon if args.epsilon_high is None else args.epsilon_high
        policy, low_clips, high_clips = policy_terms(logps, old, inputs["advantages"], args.epsilon, high)
        value, value_clips = value_terms(values, inputs["old_values"], inputs["returns"], args.cliprange_value)
        return {
            "loss/policy": policy,
            "loss/value": value,
            "clip_ratio/low_mean": low_clips.float(),
            "clip_ratio/high_mean": high_clips.float(),
            "clip_ratio/value": value_clips.float(),
            "policy/ratio": (logps - old).detach().exp(),
            "policy/update_kl": update_kl(logps, old).detach(),
        }

    def _pretraining_tokens(self) -> torch.Tensor:
        """Of the update that the current micro-batch is in, on all processes."""
        last = -(-self.buffer.step // self.buffer.accumulation) * self.buffer.accumulation
        count = self.pretraining.tokens(last - self.buffer.accumulation, last)
        return self._total(torch.tensor(float(count), device=self.accelerator.device))

    def _note_update(self, sums: dict[str, torch.Tensor]) -> None:
        """A micro-batch's shares in the means of its update."""
        found = dict(zip(sums, self._total(torch.stack(list(sums.values()))).tolist(), strict=True))
        self.moved += found["policy/update_kl"]
        whole = self.buffer.accumulation  # `Metrics` takes the mean over micro-batches
        self.metrics.add("train", {name: value * whole for name, value in found.items()})
        region = found["clip_ratio/low_mean"] + found["clip_ratio/high_mean"]
        self.metrics.add("train", {"clip_ratio/region_mean": region * whole})

    # Optimizer, Hub

    def create_optimizer(self, *args, **kwargs):
        """The value model in groups of its own where it has a rate of its own."""
        optimizer, rate = super().create_optimizer(*args, **kwargs), self.args.value_learning_rate
        if rate is not None:
            own = {id(p) for p in self.value_model.parameters()}
            for group in list(optimizer.param_groups):
                mine = [p for p in group["params"] if id(p) in own]
                group["params"] = [p for p in group["params"] if id(p) not in own]
                if mine:
                    optimizer.add_param_group(group | {"params": mine, "lr": rate})
        return optimizer

    def create_model_card(self, *args, tags=None, **kwargs):
        tags = [tags] if isinstance(tags, str) else list(tags or ())
        super().create_model_card(*args, tags=[*tags, *TAGS], **kwargs)


def _last_name(model) -> str:
    name = model if isinstance(model, str) else model.config._name_or_path
    return name.rstrip("/").split("/")[-1] or "model"
