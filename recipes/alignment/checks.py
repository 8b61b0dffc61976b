"""Rows of trl's conversational formats: the columns that each kind takes, and the order of roles.

    sft          messages, or prompt and completion
    preference   prompt, chosen, rejected; without prompt, what chosen and rejected begin with in common
    prompt       prompt
    unpaired     prompt, completion, label; or a preference, which gives one row of each label

A text in place of a list of messages is the user's turn in a prompt and the assistant's in an answer. What is wrong is
told in one line with the file, the row and the field.
"""

from collections.abc import Callable
from difflib import get_close_matches

from ..options.base import UserError

ROLES = ("system", "user", "assistant", "tool")
FOLLOWS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
ORDER = "the order is system (if any), then user and assistant in turn, tool only after an assistant's tool_calls"


def checked(row: dict, kind: str, where: str) -> list[dict]:
    """The row of a file as rows of the kind: sft, preference, prompt or unpaired. Other columns stay as they are.

    Raises:
        UserError: a column that is missing, an empty text, a role that is unknown or out of order.
    """
    if not isinstance(row, dict):
        raise UserError(f"--dataset {where}: {type(row).__name__} and not an object with fields")
    check = next((c for columns, c in WAYS[kind].items() if all(row.get(name) is not None for name in columns)), None)
    if check is None:
        raise _no_column(row, tuple(WAYS[kind]), where)
    return check(row, where)


def first_question(row: dict) -> str:
    """By which a row is put on one side of a split: what its user says first."""
    messages = row.get("messages") or row["prompt"]
    return next(message["content"] for message in messages if message["role"] == "user")


def _no_column(row: dict, ways: tuple[tuple[str, ...], ...], where: str) -> UserError:
    """Names what the row comes closest to lacking, and the column that may be a misspelling of it."""
    meant = max(ways, key=lambda way: sum(row.get(name) is not None for name in way))
    missing = next(name for name in meant if row.get(name) is None)
    takes = f"this takes {' or '.join(' + '.join(way) for way in ways)}"
    if missing in row:
        return UserError(f"--dataset {where}: {missing} is null; {takes}")
    nearest = get_close_matches(missing, [name for name in row if name not in meant], n=1)
    found = f"the nearest is {nearest[0]!r}" if nearest else f"found {', '.join(row) or 'none'}"
    return UserError(f"--dataset {where}: no column {missing!r}; {found}; {takes}")


def _messages(row, where):
    messages = row["messages"]
    if isinstance(messages, str):
        raise UserError(f"--dataset {where}: messages is a text; it must be a list of objects with role and content")
    return [row | {"messages": _turns(messages, where, "messages", None, ("assistant",))}]


def _prompt(row, where):
    return [row | {"prompt": _prompt_of(row, where)}]


def _completion(row, where):
    return [row | {"prompt": _prompt_of(row, where), "completion": _answer(row, where, "completion")}]


def _unpaired(row, where):
    if not isinstance(row["label"], bool):
        raise UserError(
            f"--dataset {where}: label is {row['label']!r}; use true for a good completion, false for a bad one"
        )
    return _completion(row, where)


def _preference(row, where):
    answers = {name: _answer(row, where, name) for name in ("chosen", "rejected")}
    if answers["chosen"] == answers["rejected"]:
        raise UserError(f"--dataset {where}: chosen and rejected are the same; leave this row out")
    return [row | {"prompt": _prompt_of(row, where), **answers}]


def _implicit_preference(row, where):
    """A preference whose answers are whole conversations."""
    both = {}
    for name in ("chosen", "rejected"):
        if isinstance(row[name], str):
            raise UserError(f"--dataset {where}: {name} is a text and there is no column 'prompt' that it answers")
        both[name] = _turns(row[name], where, name, None, ("assistant",))
    chosen, rejected = both["chosen"], both["rejected"]
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    if shared == 0 or chosen[shared - 1]["role"] not in ("user", "tool"):
        raise UserError(f"--dataset {where}: chosen and rejected must be equal up to a user's turn and then differ")
    return [row | {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}]


def _both_labels(check: Callable) -> Callable:
    def unpaired(row, where):
        (pair,) = check(row, where)
        rest = {name: value for name, value in pair.items() if name not in ("chosen", "rejected")}
        return [rest | {"completion": pair[name], "label": name == "chosen"} for name in ("chosen", "rejected")]

    return unpaired


def _prompt_of(row, where):
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return _turns(prompt, where, "prompt", None, ("user", "tool"))


def _answer(row, where, field):
    answer = row[field]
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    return _turns(answer, where, field, "user", ("assistant",))


def _turns(messages, where: str, field: str, before: str | None, ends: tuple[str, ...]) -> list[dict]:
    """The messages, checked; `before` is the role that precedes them, `ends` the roles that may be last."""
    if not isinstance(messages, list) or not messages:
        raise UserError(f"--dataset {where}: {field} is {messages!r:.60}; it must be a list of messages, at least one")
    previous, calls = before, before == "tool"
    for i, message in enumerate(messages):
        at = f"--dataset {where}: {field}[{i}]"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{at} is {message!r:.60}; it must be an object with role and content")
        role, content, has_calls = message["role"], message["content"], bool(message.get("tool_calls"))
        if role not in ROLES:
            raise UserError(f"{at}.role is {role!r}; use {', '.join(ROLES)}")
        if role not in FOLLOWS[previous] or (role == "tool" and previous == "assistant" and not calls):
            raise UserError(f"{at}.role is {role!r} after {previous or 'nothing'}; {ORDER}")
        if not (content is None and has_calls) and not isinstance(content, str):
            raise UserError(f"{at}.content is {type(content).__name__}; it must be a text")
        if not has_calls and not content.strip():
            raise UserError(f"{at}.content is empty; give the {role}'s text or leave the row out")
        previous, calls = role, has_calls or (calls and role == "tool")
    if previous not in ends:
        raise UserError(f"--dataset {where}: {field} ends with role {previous!r}; it must end with {' or '.join(ends)}")
    return messages


WAYS: dict[str, dict[tuple[str, ...], Callable]] = {
    "sft": {("messages",): _messages, ("prompt", "completion"): _completion},
    "preference": {("prompt", "chosen", "rejected"): _preference, ("chosen", "rejected"): _implicit_preference},
    "prompt": {("prompt",): _prompt},
    "unpaired": {
        ("prompt", "completion", "label"): _unpaired,
        ("prompt", "chosen", "rejected"): _both_labels(_preference),
        ("chosen", "rejected"): _both_labels(_implicit_preference),
    },
}
