"""Options of `rhapsode generate`."""

from dataclasses import dataclass

from .base import UserError, option
from .sampling import SamplingOptions


@dataclass
class GenerateOptions(SamplingOptions):
    """Continue a text with any causal language model, as it is written or, with --no-stream, at the end; or all
    prompts of a file, a line of JSON each: a text, or messages that the model's chat template turns into one."""

    EXAMPLES = (
        'rhapsode generate "def " --model runs/demo/model --max_new_tokens 40',
        "rhapsode generate --prompts prompts.txt --output texts.jsonl --temperature 0",
    )

    prompt: str = option("", "text to continue; the empty text lets the model begin", positional=True)
    prompts: str | None = option(
        None, "file of prompts: .txt, a line each, or .jsonl .json .csv .parquet", section="a file of prompts"
    )
    prompt_column: str = option("prompt", "column of --prompts that holds a text, or messages with role and content")
    output: str | None = option(None, "new .jsonl file for the rows of --prompts with their continuations")
    resume: bool = option(False, "go on with the --output of a run that was stopped")
    batch_size: int = option(8, "prompts of --prompts that are continued together")
    num_return_sequences: int = option(1, "continuations to write; more than one are not streamed", section="output")
    probabilities: bool = option(False, "print or write what the model gave to each token that was written")
    torch_compile: bool = option(
        False, "compile the step that writes a token: some 20 s once, then several times faster; for long texts"
    )
    stream: bool = option(True, "print each word as soon as it is there")
    json: bool = option(False, "print one JSON object: prompt, continuations, settings, tokens per second")

    def __post_init__(self):
        super().__post_init__()
        self._check_range("num_return_sequences", 1)
        self._check_range("batch_size", 1)
        if bool(self.prompts) != bool(self.output):
            raise UserError("--prompts FILE and --output FILE.jsonl belong together; give both")
        if self.prompts and self.prompt:
            raise UserError("a prompt on the command line and --prompts: give one of them")
        if self.resume and not self.prompts:
            raise UserError("--resume goes on with --prompts and --output; give them too")
        if self.output and not self.output.endswith(".jsonl"):
            raise UserError(f"--output {self.output} must be a .jsonl file")
