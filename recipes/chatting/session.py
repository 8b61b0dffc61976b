"""A chat: what was said, the model, its tools and documents, and one method that answers a question."""

import json
from collections.abc import Callable
from typing import NamedTuple

from ..options.base import UserError, printable
from ..options.chat import ChatOptions
from .calculator import calculator
from .calls import Call, read_answer
from .conversation import Conversation
from .passages import Passage, read_passages
from .retrieval import Index, Sources, search_tool, with_passages
from .tools import Tools
from .turn import Turn
from .writing import Writer, Written


class Answer(NamedTuple):
    """`cited` are the numbers of those `passages` that the text names; `ending` is how it came to its end."""

    text: str
    runs: list[tuple[Call, str]]
    passages: list[Passage]
    cited: list[int]
    tokens: int
    seconds: float
    ending: str  # finished, max_new_tokens, max_tool_rounds, SIGINT or SIGTERM


def open_sources(options: ChatOptions) -> Sources | None:
    """The documents of a chat, with their index; None where it has none."""
    return Sources(Index(read_passages(options.documents)), options.passages) if options.documents else None


class Session:
    def __init__(self, model, tokenizer, options: ChatOptions, sources: Sources | None):
        self.options, self.sources = options, sources
        functions = {"calculator": calculator}
        if self.sources:
            functions["search_documentation"] = search_tool(self.sources)
        self.tools = Tools(*(functions[name] for name in dict.fromkeys(options.tools)))
        self.writer = Writer(model, tokenizer, options, self.tools.schemas)
        self.conversation = Conversation(options.system)
        self.last: tuple[list[int], list[int]] | None = None  # what the model saw and wrote last

    def reset(self) -> None:
        self.conversation.reset()
        self.last = None

    def ask_again(self, question: str, **how) -> Answer:
        """Another answer to the last question, in place of its turn.

        Raises:
            UserError: it does not fit any more; the conversation stays as it was.
        """
        turns, first = list(self.conversation.turns), self.conversation.first
        self.conversation.take_back()
        try:
            return self.ask(question, **how)
        except UserError:
            self.conversation.turns, self.conversation.first = turns, first
            raise

    def use(self, options: ChatOptions) -> None:
        """Go on with these options; the conversation stays."""
        self.options = options
        self.writer.use(options)

    def ask(self, question: str, show: Callable | None = None, tell: Callable = lambda line: None) -> Answer:
        """The answer to a question, which both become part of the conversation.

        Args:
            show: gets the text of the answer piece by piece.
            tell: gets a line about each call, and about what the model no longer sees.

        Raises:
            UserError: the question does not fit into the context; the conversation stays as it was.
        """
        turn = Turn({"role": "user", "content": question}, self.tools.run, self.options.max_tool_rounds)
        shown, written = self._shown(question, tell), []
        while turn.answer is None:
            ids = self._visible([shown, *turn.messages[1:]], tell)
            written.append(self.writer.write(ids, show))
            self.last = ids, written[-1].ids
            text, calls = read_answer(self.writer.tokenizer, written[-1].ids)
            before = len(turn.runs)
            turn.take(text, [] if written[-1].signal else calls)
            for call, result in turn.runs[before:]:
                tell(printable(f"[{call.name} {json.dumps(call.arguments, ensure_ascii=False)}: {result}]"))
        self.conversation.turns.append(turn.messages)
        return self._answer(turn, written)

    def _shown(self, question: str, tell: Callable) -> dict:
        """The user's turn as the model reads it: passages that fit, unless the model searches by itself."""
        plain = {"role": "user", "content": question}
        if not self.sources:
            return plain
        searches = "search_documentation" in self.options.tools
        for count in range(0 if searches else self.options.passages, 0, -1):
            self.sources.found.clear()
            message = plain | {"content": with_passages(question, self.sources.search(question, count))}
            if len(self.writer.encode([*self.conversation.system, message])) <= self.writer.room:
                return message
            tell(f"[{count} passages do not fit into the context of {self.writer.length} tokens]")
        self.sources.found.clear()
        return plain

    def _visible(self, now: list[dict], tell: Callable) -> list[int]:
        hidden = self.conversation.first
        ids = self.conversation.visible(now, self.writer.encode, self.writer.room)
        if self.conversation.first > hidden:
            gone = f"the first {self.conversation.first} of {len(self.conversation.turns)} turns"
            tell(f"[the context of {self.writer.length} tokens is full; the model no longer sees {gone}]")
        return ids

    def _answer(self, turn: Turn, written: list[Written]) -> Answer:
        last = written[-1]
        ending = last.signal or ("finished" if last.is_whole else "max_new_tokens")
        return Answer(
            text=turn.answer,
            runs=turn.runs,
            passages=list(self.sources.found) if self.sources else [],
            cited=self.sources.cited(turn.answer) if self.sources else [],
            tokens=sum(len(w.ids) for w in written),
            seconds=sum(w.seconds for w in written),
            ending="max_tool_rounds" if turn.was_stopped else ending,
        )
