"""What `rhapsode COMMAND --help` prints: how to call it, what it does, examples, and its options by section.

A class of options opens a section with `option(..., section="data")`; the fields after it belong to it as well. The
sections of a command are those of its own class and of the classes that it extends, and equal names are one section.
`EXAMPLES` of the class, if it has any, are command lines.
"""

import argparse
import shutil

ARGUMENTS = "arguments"  # those without a flag
GENERAL = "general"
NO_SECTION = "options"
WIDEST = 110
UNBROKEN = "\N{NO-BREAK SPACE}"


class HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog):
        width = shutil.get_terminal_size((WIDEST, 24)).columns
        super().__init__(prog, max_help_position=32, width=max(60, min(WIDEST, width)))

    def _fill_text(self, text, width, indent):
        """The first paragraph is filled; examples stay as they are."""
        prose, *examples = text.split("\n\n")
        return "\n\n".join([super()._fill_text(prose, width, indent), *examples])

    def _split_lines(self, text, width):
        """As lines; a default is not cut in two."""
        kept = super()._split_lines(text.replace("(default: ", f"(default:{UNBROKEN}"), width)
        return [line.replace(UNBROKEN, " ") for line in kept]

    def _get_default_metavar_for_optional(self, action):
        return getattr(action.type, "__name__", "value").upper()

    def _format_args(self, action, default_metavar):
        several = {"+": "{0} ...", "*": "[{0} ...]"}.get(action.nargs)
        if several is None:
            return super()._format_args(action, default_metavar)
        return several.format(self._metavar_formatter(action, default_metavar)(1)[0])


def usage(prog: str, positional: dict[str, bool]) -> str:
    """`positional` has the names of what is given without a flag, and whether it is any number of them."""
    names = "".join(f" [{name} ...]" if several else f" [{name}]" for name, several in positional.items())
    return f"{prog}{names} [--config FILE.yaml] [--option VALUE ...]"


def description(options_class: type, text: str) -> str:
    """What the command does, and its examples: the class's own, not those of the class that it extends."""
    examples = vars(options_class).get("EXAMPLES", ())
    parts = [" ".join(text.split())] + ["examples:\n" + "\n".join(f"  {line}" for line in examples)] * bool(examples)
    return "\n\n".join(parts)


def default_text(value) -> str:
    """A default as it is typed, but for switches, which are on or off."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, int) and value >= 100_000:
        return f"{value:_}"
    return '""' if value == "" else str(value)


def sections(options_class: type) -> dict[str, list[str]]:
    """The names of the fields by section: what is run and where, the command's own, then what it shares with others."""
    of, opened = {}, {}
    for depth, owner in enumerate(reversed(options_class.__mro__)):
        own = vars(owner).get("__dataclass_fields__", {})
        current = None
        for name in vars(owner).get("__annotations__", {}):
            said = own[name].metadata["section"]
            current = said or current
            if said or name not in of:  # a default that a class replaces stays in its section
                of[name] = ARGUMENTS if own[name].metadata["positional"] else current or NO_SECTION
                opened.setdefault(of[name], depth)
    first = next((title for title in opened if title != ARGUMENTS), None)
    order = sorted(opened, key=lambda title: (title != ARGUMENTS, title != first, -opened[title]))
    return {title: [name for name, section in of.items() if section == title] for title in order}
