"""What only the report of `rhapsode abstain` has: what the model knows, the data, agreement against being right."""

from pathlib import Path

from ..reporting.tables import table
from .curves import plot_agreement

ROWS = {
    "questions": "questions",
    "known": "of them known to the model before",
    "right": "sampled answers that are right",
    "agreement": "mean agreement of two answers",
}


def knowledge_sections(results: dict, target: Path) -> list[str]:
    """Markdown, with its picture in `target`; nothing for other runs."""
    if "knowledge" not in results:
        return []
    found = results["knowledge"]
    cells = [[name, *(_show(key, one[key]) for one in found.values())] for key, name in ROWS.items()]
    plot_agreement(results["agreement"], target / "agreement.png")
    separation = results["separation"]
    said = "Of a known and an unknown question the known one has the higher agreement with probability"
    return [
        "## What the model knows",
        table(["", *found], cells),
        f"Questions left out, for they are too long: {results['left_out']:,}.",
        "## Data",
        table(["file", "rows"], [[name, f"{count:,}"] for name, count in results["written"].items()]),
        "## Agreement",
        f"{said} {separation:.3f} (0.5 is chance)." if separation is not None else "",
        "![agreement](agreement.png)",
    ]


def _show(key: str, value: float) -> str:
    return f"{value:,}" if key == "questions" else f"{value:.3f}"
