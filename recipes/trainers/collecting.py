"""The part of the trainer that makes rollouts: prompts, completions, scores, advantages, and what is logged of them.

It knows nothing of losses. What `PPOTrainer` sets in its constructor is used here: `rewards`, `reference`, `buffer`,
`controller`, `metrics`, `step_guard`, `generation_config`, `eos_ids`.
"""

import torch
from accelerate.utils import gather_object
from trl.models import unwrap_model_for_generation

from . import models
from .advantages import gae, token_rewards, whiten
from .kl import kl_terms
from .metrics import length_figures, reward_figures, value_figures
from .rewards import Scored, weighted
from .rollouts import RolloutSampler, generate, right_padded, tokenize_prompts
from .state import ResumableTrainer
from .tables import print_table, track_table, write_table


class RolloutTrainer(ResumableTrainer):
    """`_prepare_inputs` turns a batch of prompts into the next micro-batch of a rollout."""

    def _total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        return self.accelerator.reduce(tensor.clone(), reduction="sum")

    # Data

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["prompt"]

    def get_train_dataloader(self):
        """A batch of it is the prompts of a rollout on this process, as often as micro-batches are made of it."""
        size = self._train_batch_size * self.args.steps_per_generation
        return self._get_dataloader(self.train_dataset, "Training", size, self._get_train_sampler, is_training=True)

    def _get_train_sampler(self, train_dataset=None):
        args, dataset = self.args, self.train_dataset if train_dataset is None else train_dataset
        return RolloutSampler(
            rows=len(dataset),
            prompts=args.generation_batch_size // args.num_generations,
            generations=args.num_generations,
            repeats=args.steps_per_generation * args.num_iterations,
            seed=args.seed if args.shuffle_dataset else None,
            epoch=lambda: int((self.state.epoch or 0) + 1e-6),
        )

    def _prepare_inputs(self, inputs: list[dict]) -> dict:
        if not self.model.training:
            return self._make_rollout(inputs)
        if self.buffer.needs_rollout:
            self.buffer.fill(self._make_rollout(inputs))
        return self.buffer.next()

    # Rollouts

    @torch.no_grad()
    def _make_rollout(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Complete and score prompts: (B, T) tensors by name, see `advantages.py`."""
        args, mode, device = self.args, "train" if self.model.training else "eval", self.accelerator.device
        self.model.eval()
        scored = self._complete(rows)
        batch = right_padded(scored.prompt_ids, scored.completion_ids, self.generation_config.pad_token_id, device)
        now = self._score_tokens(self.model, batch, values=True)
        kl = self._divergence(batch, now["log_probs"])
        scores = self.rewards.score(scored, self.state, device, args.per_device_eval_batch_size)
        self.model.train(mode == "train")
        totals, ended = weighted(scores, self.rewards.weights), torch.tensor(scored.ended, device=device)
        whole = batch["mask"]
        rewards = token_rewards(self._final_scores(totals, ended), kl["penalty"], whole, self.controller.beta)
        advantages, returns = gae(rewards, now["state_values"], whole, args.gamma, args.lam)
        batch["mask"] = whole * ~totals.isnan()[:, None]  # what no function scores teaches nothing
        if args.mask_truncated_completions:
            batch["mask"] = batch["mask"] * ended[:, None]
        if args.normalize_advantages:
            advantages = whiten(advantages, batch["mask"], self._total)
        self._note_rollout(mode, scored, scores, totals, kl["k1"], whole)
        self.metrics.add(mode, value_figures(now["state_values"], returns, batch["mask"], self._total))
        learned = {"old_logps": now["log_probs"], "old_values": now["state_values"]}
        return batch | learned | {"advantages": advantages, "returns": returns}

    def _complete(self, rows: list[dict]) -> Scored:
        prompt_ids = tokenize_prompts(
            self.processing_class, [row["prompt"] for row in rows], self.args.chat_template_kwargs
        )
        size, completion_ids = self.args.rollout_batch_size or len(rows), []
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as policy,
            self.backend.summon_full_params(self.model_wrapped, recurse=False),
        ):
            for i in range(0, len(rows), size):
                completion_ids += generate(policy, prompt_ids[i : i + size], self.generation_config, self.eos_ids)
        return Scored(rows, prompt_ids, completion_ids, self.processing_class, self.eos_ids)

    def _score_tokens(self, model, batch: dict, values: bool) -> dict[str, torch.Tensor]:
        """Log-probabilities and values of a whole rollout, a micro-batch at a time."""
        found = {"log_probs": [], "state_values": []} if values else {"log_probs": []}
        size = self.args.per_device_train_batch_size
        for i in range(0, len(batch["mask"]), size):
            ids, attention, mask = (batch[name][i : i + size] for name in ("input_ids", "attention_mask", "mask"))
            with self.accelerator.autocast():
                output = model(input_ids=ids, attention_mask=attention, scored=mask, value_rows=None if values else 0)
            for name, parts in found.items():
                parts.append(getattr(output, name) * mask)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _divergence(self, batch: dict, logps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per token from the reference: k1 for the log, and the estimator that the penalty takes."""
        if self.args.beta == 0:
            return {"k1": torch.zeros_like(logps), "penalty": torch.zeros_like(logps)}
        if self.reference is not None:
            reference = self._score_tokens(self.reference, batch, values=False)
        else:
            with models.as_reference(self.accelerator.unwrap_model(self.model)):
                reference = self._score_tokens(self.model, batch, values=False)
        names = {"k1": "k1", "penalty": self.args.kl_estimator}
        return {key: kl_terms(logps, reference["log_probs"], kind) * batch["mask"] for key, kind in names.items()}

    def _final_scores(self, totals: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """(B,) clipped, less the penalty for a missing EOS; 0 where no function applied."""
        scores = totals.nan_to_num(0.0)
        if self.args.reward_clip_range:
            scores = scores.clamp(*self.args.reward_clip_range)
        return scores - (self.args.missing_eos_penalty or 0.0) * ~ended

    # Figures

    def _note_rollout(self, mode: str, scored: Scored, scores, totals, k1: torch.Tensor, mask: torch.Tensor) -> None:
        """Log what the rollout was like, adapt beta, and end training if the policy is too far from its reference."""
        gather = self.accelerator.gather
        ended = gather(torch.tensor(scored.ended, device=mask.device))
        lengths, scores, totals, kl = gather(mask.sum(1)), gather(scores), gather(totals), gather(k1.sum(1))
        self.metrics.add(mode, length_figures(lengths, ended) | reward_figures(scores, totals, self.rewards.names))
        if mode == "train":
            prompts = gather(torch.tensor([len(ids) for ids in scored.prompt_ids], device=mask.device))
            self.state.num_input_tokens_seen += int(lengths.sum() + prompts.sum())
        self.metrics.found[mode]["num_tokens"] = [float(self.state.num_input_tokens_seen)]
        if self.args.beta:
            mean, beta = kl.mean().item(), self.controller.beta
            figures = {"kl": (kl.sum() / lengths.sum()).item(), "objective/kl": mean, "objective/kl_coef": beta}
            self.metrics.add(mode, figures | {"objective/rlhf_reward": totals.nanmean().item() - beta * mean})
            if mode == "train":
                self.controller.update(mean, len(kl))
                if self.args.stop_training_kl is not None and mean > self.args.stop_training_kl:
                    self.step_guard.end_training()
        self._note_functions(mode, scored, scores)

    def _note_functions(self, mode: str, scored: Scored, scores: torch.Tensor) -> None:
        """What reward functions logged, in one order on all processes; and the table."""
        rewards = self.rewards
        for name in sorted(set(gather_object(list(rewards.metrics)))):
            values = gather_object(rewards.metrics.get(name, []))
            self.metrics.add(mode, {name: sum(values) / len(values)})
        table = {}
        if self.args.log_completions:
            table = {"prompt": gather_object(scored.prompts), "completion": gather_object(scored.answers)}
            table |= {name: scores[:, i].tolist() for i, name in enumerate(rewards.names)}
            for name in sorted(set(gather_object(list(rewards.extra)))):
                values = rewards.extra.get(name, [None] * len(scored.prompts))
                if len(values) != len(scored.prompts):
                    raise ValueError(
                        f"log_extra({name!r}) got {len(values)} values for {len(scored.prompts)} completions"
                    )
                table[name] = gather_object(values)
        rewards.metrics.clear()
        rewards.extra.clear()
        same = mode == "eval" and self.table.keys() == table.keys()  # one table of all batches of an evaluation
        self.table = {name: self.table[name] + column for name, column in table.items()} if same else table

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        logs.update(self.metrics.take(mode))
        if mode == "train" and "loss" in logs:
            logs["policy/skipped_steps"] = self.step_guard.skipped
        super().log(logs, start_time)
        if self.table and self.is_world_process_zero():
            write_table(self.table, self.args.output_dir, mode, self.state.global_step)
            print_table(self.table, self.state.global_step, self.args.num_completions_to_print)
            track_table(self.table, self.args.report_to)
        self.table = {}

    # Evaluation

    def evaluate(self, *args, **kwargs):
        """Completions are sampled from the same random numbers each time, and training's are left as they are."""
        self.table = {}
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            return super().evaluate(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        self._prepare_inputs(inputs)
        return None, None, None

    def floating_point_ops(self, inputs) -> int:
        return 0  # a batch of the dataloader is prompts; how many tokens they became, `num_tokens` says
