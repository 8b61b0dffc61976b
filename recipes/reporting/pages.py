"""A report as Markdown and, beside it, as one HTML file that holds its pictures and asks nothing of a network.

Samples stand in reports, and a model or a document may write anything: HTML in them is text, an address is not
followed, and of files only a picture that lies beside the report is taken in.
"""

import base64
import html
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt

from ..options.base import write_whole

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def write_report_files(path: Path, markdown: str) -> Path:
    """Write `path`, which ends in .md, and the page with the same name; the pictures must be there already."""
    title = markdown.lstrip("# ").partition("\n")[0]
    page = PAGE.format(
        policy=POLICY,
        title=html.escape(title),
        style=files(__package__).joinpath("pages.css").read_text(encoding="utf-8"),
        body=render(markdown, path.parent),
    )
    write_whole(path.with_suffix(".html"), page)
    return write_whole(path, markdown)


def render(markdown: str, directory: Path) -> str:
    """The body of the page."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", lambda renderer, tokens, i, options, env: _picture(tokens[i], directory))
    return parser.render(markdown)


def _picture(token, directory: Path) -> str:
    name, text = str(token.attrs.get("src", "")), html.escape(token.content)
    path = directory / name
    if Path(name).name != name or not name.endswith(".png") or not path.is_file() or path.is_symlink():
        return text
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'
