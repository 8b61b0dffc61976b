"""The page: one HTML file with its style, its scripts and its data, which asks nothing of a network.

The data are JSON in a script element, with every `<` escaped, and the scripts put texts into the page as texts only:
what a model or a document says can close no element and run nothing. The policy in the head forbids the rest.
"""

import html
import json
from importlib.resources import files

SCRIPTS = ("base.js", "tokens.js", "sampling.js", "attention.js", "blueprint.js", "rotation.js")


def render(data: dict) -> str:
    """`data` has a title and, each or None, `reading`, `rotation` and `blueprint`."""
    web = files(__package__) / "web"
    script = "\n".join(web.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "title": html.escape(data["title"]),
        "style": web.joinpath("page.css").read_text(encoding="utf-8"),
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "script": script,
    }
    # Split first: what is put in may hold the name of another place.
    pieces = web.joinpath("page.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
