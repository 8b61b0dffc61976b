"""Reports as one HTML file: what Markdown says, with its pictures, and nothing that a sample could smuggle in."""

import base64
import re
from html.parser import HTMLParser

import pytest
from rhapsode.recipes.reporting.pages import render, write_report_files

PICTURE = b"\x89PNG\r\n\x1a\n and the rest"
REPORT = """# a < b

| name | value |
|---|---:|
| loss | 1.5 |

![curves](curves.png)

```text
<script>alert(1)</script>
```
"""


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "curves.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(b"not to be shown")
    return tmp_path / "run"


def test_both_files_say_the_same(directory):
    path = write_report_files(directory / "report.md", REPORT)
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8") == REPORT
    assert "<title>a &lt; b</title>" in page and "<h1>a &lt; b</h1>" in page
    assert re.search(r"<td>loss</td>\s*<td[^>]*>1.5</td>", page)
    (source,) = Tags(page).addresses
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PICTURE


@pytest.mark.parametrize(
    "sample",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](../secret.png)",
        "![x](/etc/passwd.png)",
        "![x](http://127.0.0.1/x.png)",
        '![x" onload="alert(1)](missing.png)',
        "[x](javascript:alert(1))",
        "| a | b |\n|---|---|\n| <script>alert(1)</script> | ![x](../secret.png) |",
    ],
)
def test_a_sample_runs_nothing_and_reads_nothing(directory, sample):
    found = Tags(render(sample, directory))
    assert not {"script", "img"} & set(found.tags)
    assert not [address for address in found.addresses if address.startswith("javascript")]
