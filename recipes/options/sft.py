"""Options of `rhapsode sft`."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import option


@dataclass
class SftOptions(AnsweringOptions):
    """Supervised fine-tuning: teach a base model to answer in chats. Only what the assistant says, and the end of its
    turn, is in the loss; of prompts with completions only the completion is. --learning_rate none is 2e-5, and ten
    times as much with --use_peft; models of some millions of parameters want 1e-3."""

    EXAMPLES = (
        "rhapsode sft --config recipes/configs/sft.yaml --model runs/demo/chat_base",
        "rhapsode sft --model runs/pretrain --dataset chats.jsonl --use_peft",
    )

    output_dir: str = option("runs/sft", "the run directory")
    packing: bool = option(
        False, "several rows in one of --max_length tokens; they do not see each other", section="data"
    )
