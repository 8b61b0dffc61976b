"""What only the report of a classifier has: figures beside those of a constant answer, and the confusion table."""

from ..reporting.tables import table

NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_micro": "F1 over all labels",
    "f1_macro": "F1, mean of the labels",
    "matthews_correlation": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "mse": "mean squared error",
}
MOST_CLASSES = 20  # that make a table one can read


def classification_sections(results: dict) -> list[str]:
    """Markdown; nothing for runs that classify nothing."""
    if "classification" not in results:
        return []
    columns = results["classification"]
    rows = [[NAMES[key], *(f"{columns[c][key]:.4f}" for c in ("model", "constant"))] for key in columns["model"]]
    parts = ["## Held-out rows", table(["", "this model", "the same answer to all, best in training"], rows)]
    confusion = results.get("confusion")
    if confusion and len(confusion["names"]) <= MOST_CLASSES:
        counts = zip(confusion["names"], confusion["counts"], strict=True)
        rows = [[name, *map(str, row)] for name, row in counts]
        parts += ["## Answers by true class", table(["true class", *confusion["names"]], rows)]
    return parts
