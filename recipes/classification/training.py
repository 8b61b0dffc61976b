"""The loss of GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

    L = L_labels + lm_coef L_text

    L_labels    one class: - log softmax(W_y h_T)[y]    several: the mean of the labels' binary cross-entropies
                numbers: (W_y h_T - y)^2, h_T being the state of the last token
    L_text      the mean over a row's tokens of - log p(token | all before it), by the head that the model wrote with

Each is a mean over the rows of an optimizer step, however many forward passes and processes share them. The head for
text is GPT-1's embedding, and so it is here in models that tie the two; a head of its own stays as it was, and the
gradient goes through it. The text's loss is there in training only: the held-out loss is that of the labels.
"""

import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DataCollatorWithPadding, EvalPrediction, Trainer
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..alignment.models import loading
from ..options.base import UserError, one_line
from ..options.classify import MULTI, REGRESSION, ClassifyOptions
from ..training.whole_checkpoints import WholeCheckpoints
from .labels import Labels
from .measures import decide, measure


def label_losses(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """(B,) from logits (B, K) and labels (B,) or (B, K)."""
    logits = logits.float()
    if problem_type == REGRESSION:
        return (logits[:, 0] - labels) ** 2
    if problem_type == MULTI:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")


class TextHead:
    """The causal model's way from hidden states to logits, with a stand-in for its body."""

    def __init__(self, options: ClassifyOptions, classifier):
        self.model, self.lm_coef = _open_writer(options), options.lm_coef
        self.head, self.body = self.model.get_output_embeddings().requires_grad_(False), _Given()
        setattr(self.model, self.model.base_model_prefix, self.body)
        if classifier.config.tie_word_embeddings:
            self.head.weight = classifier.get_input_embeddings().weight

    def weighted_losses(self, hidden: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B,): lm_coef times the nats per token of each row; `hidden` (B, T, D) are the classifier's last states."""
        self.body.hidden = hidden[:, :-1]
        logits = self.model.to(hidden.device)(input_ids=ids[:, :-1], use_cache=False).logits.float()  # (B, T - 1, V)
        self.body.hidden = None
        counted = (mask[:, 1:] * mask[:, :-1]).float()
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * counted
        return self.lm_coef * losses.sum(-1) / counted.sum(-1).clamp(min=1)


class _Given(nn.Module):
    hidden: torch.Tensor | None = None

    def forward(self, *_, **__) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.hidden)


def _open_writer(options: ClassifyOptions):
    problem = None
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            options.model, dtype="float32", output_loading_info=True, **loading(options)
        )
        if report["missing_keys"]:
            problem = f"it has no {', '.join(sorted(report['missing_keys']))}"
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        problem = one_line(error, 300)
    if problem:
        raise UserError(f"--lm_coef {options.lm_coef}: {options.model} is no language model: {problem}; use 0")
    return model


class ClassificationTrainer(WholeCheckpoints, Trainer):
    """transformers' Trainer with the loss above; `peft_config` as trl's trainers take it."""

    def __init__(self, labels: Labels, text_head: TextHead | None, model, peft_config=None, **arguments):
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
        tokenizer = arguments["processing_class"]
        collator = DataCollatorWithPadding(tokenizer)
        super().__init__(model, data_collator=collator, compute_metrics=self._measures, **arguments)
        self.labels, self.text_head = labels, text_head
        self.model_accepts_loss_kwargs = True  # it then counts a step's labels, and leaves dividing to `compute_loss`

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, writes = inputs["labels"], self.text_head is not None and model.training
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        outputs = model(ids, attention_mask=mask, output_hidden_states=writes, use_cache=False)
        losses = label_losses(outputs.logits, labels, self.labels.problem_type)
        if writes:
            losses = losses + self.text_head.weighted_losses(outputs.hidden_states[-1], ids, mask)
        counted = labels.numel() if num_items_in_batch is None else num_items_in_batch
        rows = counted / (labels.numel() / len(labels))  # several labels are counted one by one
        loss = losses.sum() / rows
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over them
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def _measures(self, found: EvalPrediction) -> dict[str, float]:
        return measure(found.label_ids, decide(found.predictions, self.labels), self.labels)
