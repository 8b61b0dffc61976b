"""Conversations that teach a model to use tools, and when not to: offline, from the standard library and arithmetic.

    calculator    "Add 12 and 7."        -> calculator("12 + 7") -> 19 -> "It is 19."
    search        "What does `x.y` do?"  -> search_documentation("x.y") -> passages -> the sentence, and [1]
    passages      the same question with the passages before it      -> the sentence, and [1]
    chat          "Say hello to Ada."    -> "Hello, Ada."

Calls are run when the rows are made, by the functions that the chat has. What a search finds is documentation of the
split's own objects, so that no sentence of another split is read on the way. A name that does not exist finds others,
and the answer is "I don't know."
"""

from collections.abc import Iterator
from itertools import islice

from ..chatting.calculator import calculator
from ..chatting.calls import Call
from ..chatting.passages import Passage
from ..chatting.retrieval import Index, Sources, search_tool, with_passages
from ..chatting.tools import Tools
from .arithmetic import sums
from .conversations import assistant, user
from .drawing import draw, side_of
from .library import standard_library
from .questions import SHARES, Question, questions

PASSAGES = 3  # that a search finds, as in the chat
PASSAGES_SHARE = 0.25  # of the questions about the library, those with the passages before them
CHAT_SHARE = 0.2  # as many questions without a tool, for each about the library
BOTH_SHARE = 0.6  # of the rows that are offered both tools; the others the one that they need, or none
NAMES = (
    *("Ada", "Alan", "Grace", "Edsger", "Barbara", "Donald", "Frances", "John", "Margaret", "Niklaus", "Radia"),
    *("Adele", "Dennis", "Hedy", "Guido", "Joan", "Linus", "Karen", "Brian", "Sophie", "Bjarne", "Lynn", "James"),
    *("Tony", "Jean", "Robin", "Shafi", "Leslie", "Anita", "Peter", "Katherine", "Evelyn", "Vint", "Steve", "Mary"),
)
GREETINGS = ("hello", "good morning", "good evening", "welcome", "goodbye", "thank you")
REQUESTS = ("Say {} to {}.", "Please say {} to {}.", "What do you say when you want to say {} to {}?")


class World:
    """The documentation of one split and the tools that work on it."""

    def __init__(self, split: str, seed: int, size: int | None, invented_share: float):
        self.questions = list(_one_each(questions(split, seed, size, invented_share)))
        real = {question.name: question.answer for question in self.questions if question.is_real}
        self.sources = Sources(Index(_documentation(real)), PASSAGES)
        self.tools = Tools(calculator, search_tool(self.sources))

    def run(self, call: Call) -> str:
        """The result of the first call of a conversation: its passages are numbered from 1."""
        self.sources.found.clear()
        return self.tools.run(call)


def tool_conversations(
    split: str, seed: int = 0, size: int | None = None, invented_share: float = 1.0
) -> Iterator[dict]:
    """Rows with `messages`, `tools` and `kind`, in an order that the seed gives; arguments as of `questions`."""
    world = World(split, seed, size, invented_share)
    rows = [row for row in (_about_library(question, world) for question in world.questions) if row]
    count = len(rows)
    rows += [_calculation(*item, world) for item in sums(split, count)]
    rows += [_row("chat", [user(q), assistant(a)], world) for q, a in _greetings(split, int(count * CHAT_SHARE))]
    return iter(sorted(rows, key=lambda row: draw("order", seed, str(row["messages"]))))


def _one_each(asked: list[Question]) -> Iterator[Question]:
    """The first of the questions about each name: which phrasing that is depends on the seed."""
    seen = set()
    for question in asked:
        if question.name not in seen:
            seen.add(question.name)
            yield question


def _documentation(sentences: dict[str, str]) -> list[Passage]:
    """As if each module had a file, with a line for each of its objects."""
    found, lines = [], {}
    for item in standard_library().documented:
        if item.name in sentences:
            lines[item.module] = lines.get(item.module, -1) + 2  # a blank line between two
            text = f"{item.name}: {item.sentence}"
            found.append(Passage(f"{item.module.replace('.', '/')}.md", lines[item.module], text))
    return found


def _about_library(question: Question, world: World) -> dict | None:
    """None where the search does not find what is to be said."""
    call = Call("search_documentation", {"query": question.name})
    result = world.run(call)
    texts = [passage.text for passage in world.sources.found]
    answer = question.answer
    if question.is_real:
        wanted = f"{question.name}: {question.answer}"
        if wanted not in texts:
            return None
        answer += f" [{texts.index(wanted) + 1}]"
    if draw("passages", question.name) < PASSAGES_SHARE:
        return _row("passages", [user(with_passages(question.prompt, result)), assistant(answer)], world)
    return _row("search", [user(question.prompt), *_called(call, result), assistant(answer)], world)


def _calculation(question: str, expression: str, world: World) -> dict:
    call = Call("calculator", {"expression": expression})
    result = world.run(call)
    return _row("calculator", [user(question), *_called(call, result), assistant(f"It is {result}.")], world)


def _called(call: Call, result: str) -> list[dict]:
    said = {"role": "assistant", "content": "", "tool_calls": [call.message()]}
    return [said, {"role": "tool", "content": result}]


def _greetings(split: str, count: int) -> Iterator[tuple[str, str]]:
    """(request, answer), with names that are of this split alone."""
    side = "train" if split == "rephrased" else split
    own = [name for name in NAMES if side_of(f"name {name}", SHARES) == side]
    every = ((greeting, name, request) for greeting in GREETINGS for name in own for request in REQUESTS)
    mixed = sorted(every, key=lambda item: draw("greeting", *item))
    for greeting, name, request in islice(mixed, count):
        yield request.format(greeting, name), f"{greeting.capitalize()}, {name}."


def _row(kind: str, messages: list[dict], world: World) -> dict:
    schemas = {schema["function"]["name"]: schema for schema in world.tools.schemas}
    key = messages[0]["content"]
    names = [call["function"]["name"] for m in messages for call in m.get("tool_calls", [])]
    if draw("both", key) < BOTH_SHARE:
        names = sorted(schemas, key=lambda name: draw("first", name, key))
    return {"messages": messages, "tools": [schemas[name] for name in names], "kind": kind}
