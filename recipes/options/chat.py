"""Options of `rhapsode chat`."""

from dataclasses import dataclass

from .base import UserError, option
from .sampling import SamplingOptions

TOOLS = ("calculator", "search_documentation")


@dataclass
class ChatOptions(SamplingOptions):
    """Talk with a model that answers, in the terminal; /help lists what can be typed. With a question, or with
    questions on standard input, a line each, it answers those and ends, at the first bad command too. With
    --documents the best passages go before each question, or with --tools search_documentation the model searches
    by itself; answers cite them as [1]."""

    EXAMPLES = (
        "rhapsode chat --model runs/sft",
        'rhapsode chat "What does os.getcwd do?" --model runs/sft --json',
        "rhapsode chat --model runs/sft --documents docs --tools calculator search_documentation",
    )

    question: str = option("", "answer this and end; the empty text is a chat", positional=True)
    model: str = option("runs/sft", "directory or Hub id of a model with a chat template")
    system: str | None = option(None, "system prompt", section="the conversation")
    max_length: int | None = option(None, "tokens of the context; none is the model's longest")
    json: bool = option(False, "print one JSON object a line: answer, calls, sources, tokens per second")
    documents: str | None = option(
        None, "directory of .md .txt .rst .py files to answer from", section="documents and tools"
    )
    passages: int = option(3, "passages of --documents for a question or a search")
    tools: list[str] = option([], f"functions that the model may call: {', '.join(TOOLS)}")
    max_tool_rounds: int = option(4, "times that it may call tools and read results before it answers")

    def __post_init__(self):
        super().__post_init__()
        for name, low in (("passages", 1), ("max_tool_rounds", 1), ("max_length", 2)):
            self._check_range(name, low)
        for tool in self.tools:
            if tool not in TOOLS:
                raise UserError(f"--tools {tool}: use {', '.join(TOOLS)}; a question comes before the flags")
        if "search_documentation" in self.tools and not self.documents:
            raise UserError("--tools search_documentation searches --documents; name a directory")
