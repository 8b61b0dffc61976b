"""Options of `rhapsode evaluate`."""

from dataclasses import dataclass

from .base import UserError, check_each, check_positive, option


@dataclass
class EvaluateOptions:
    """What any causal language model makes of held-out text (perplexity, bits per byte; every token counts once), of
    tasks, and of its training text. Without --tasks, --harness and --memorization it is text; with them, text where
    --dataset says which."""

    EXAMPLES = (
        "rhapsode evaluate --model runs/demo/model --dataset book.txt --split all",
        "rhapsode evaluate --model runs/demo/model --tasks python_statements python_builtins --memorization 200",
        "rhapsode evaluate --model runs/mine --compare_with runs/demo/model",
    )

    model: str = option("runs/pretrain", "directory or Hub id", section="model")
    compare_with: str | None = option(None, "another model, measured on the same; differences with their intervals")
    bf16: bool = option(False, "bfloat16 autocast")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")
    dataset: list[str] | None = option(
        None, "stdlib (also what none means), files, directories, globs or Hub ids", section="text"
    )
    text_column: str = option("text", "column or field of tables that holds the text")
    split: str = option("validation", "part of the data; all takes every document", ("train", "validation", "all"))
    max_length: int | None = option(None, "tokens read at once; none is the model's longest, at most 2048")
    stride: int | None = option(None, "tokens by which the window over text moves; none is half of it")
    max_documents: int | None = option(None, "score only the first so many documents; none is all")
    breakdown: str = option("dataset", "what text is told apart by, where there are several", ("dataset", "file"))
    per_document: str | None = option(None, "new .jsonl file for the figures of each document")
    tasks: list[str] = option([], "tasks by name (see recipes/tasks) or .yaml files", section="tasks")
    num_fewshot: int | None = option(None, "answered examples before each question; none is the task's own number")
    max_examples: int | None = option(None, "ask only the first so many rows of a task; none is all")
    per_example: str | None = option(None, "new .jsonl file for what was made of each example of the tasks")
    harness: list[str] = option([], "tasks, ours or its own, that lm-evaluation-harness is to measure")
    memorization: int = option(
        0, "windows of training text, and of held-out text, to go on with; 0 is none", section="memorization"
    )
    prefix_tokens: int = option(32, "of a window, given to the model")
    continuation_tokens: int = option(32, "of a window, to be guessed word for word")
    batch_size: int = option(8, "windows, questions or prompts in one forward pass", section="computing and output")
    bootstrap_samples: int = option(1000, "draws for the intervals of what is no share")
    seed: int = option(0, "of intervals, of the choice of shots, and of the windows of --memorization")
    json: bool = option(False, "print one JSON object")

    def __post_init__(self):
        check_positive(self, "max_length", "stride", "batch_size", "max_documents", "max_examples", "bootstrap_samples")
        check_each(self, ("memorization", "num_fewshot", "seed"), lambda value: value >= 0, "must be 0 or more")
        check_positive(self, "prefix_tokens", "continuation_tokens")
        if self.max_length == 1:
            raise UserError("--max_length 1 leaves nothing to predict; use 2 or more")
        for name, needs in (("per_document", self.reads_text), ("per_example", self.tasks)):
            if getattr(self, name) and not needs:
                what = "--dataset" if name == "per_document" else "--tasks"
                raise UserError(f"--{name} {getattr(self, name)}: nothing of that kind is measured; give {what}")
        for name in ("num_fewshot", "max_examples"):
            if getattr(self, name) is not None and not (self.tasks or self.harness):
                raise UserError(f"--{name} {getattr(self, name)} is for --tasks and --harness; give one of them")

    @property
    def reads_text(self) -> bool:
        """Whether perplexity is asked for."""
        return bool(self.dataset) or not (self.tasks or self.harness or self.memorization)

    @property
    def texts(self) -> list[str]:
        return self.dataset or ["stdlib"]
