"""How the figures of runs are named and written in reports, and the tables that they stand in."""

from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    key: str
    label: str
    show: Callable
    mark: str | None = None  # the key that says whether the figure is measured, estimated or known
    note: str = "({})"  # how the mark is written


def _count(value) -> str:
    return f"{value:,}"


def _share(value) -> str:
    return f"{value:.1%}"


def _gib(value) -> str:
    return f"{value / 2**30:.2f} GiB"


def _loss(value) -> str:
    return f"{value:.4f}"


def seconds(value) -> str:
    """In the unit that fits: 12.3 s, 4 min 05 s, 3 h 20 min."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _kwh(value) -> str:
    return f"{value:,.2f} kWh" if value >= 0.1 else f"{value * 1000:.3g} Wh"


def _kg(value) -> str:
    return f"{value:,.2f} kg" if value >= 0.1 else f"{value * 1000:.3g} g"


NATS = ", nats per token"
SECTIONS = {
    "Result": (
        Figure("eval_loss", f"validation loss{NATS}", _loss),
        Figure("eval_perplexity", "validation perplexity", "{:,.2f}".format),
        Figure("eval_bits_per_byte", "validation bits per byte", _loss),
        Figure("eval_tokens", "validated on, tokens", _count),
        Figure("eval_bytes", "validated on, bytes", _count),
        Figure("loss", f"last training loss{NATS}", _loss),
        Figure("best_eval_loss", "lowest validation loss on the way", _loss),
    ),
    "Run": (
        Figure("architecture", "architecture", str),
        Figure("parameters", "parameters", _count),
        Figure("trainable_parameters", "of them trained", _count),
        Figure("precision", "precision", str),
        Figure("processes", "processes", _count),
        Figure("parallelism", "shared by", str),
        Figure("device", "device", str),
        Figure("versions", "versions", str),
        Figure("step", "steps", _count),
        Figure("skipped_steps", "of them skipped", _count),
        Figure("tokens", "tokens", _count),
    ),
    "Data": (
        Figure("data_documents", "training documents", _count),
        Figure("data_tokens", "training tokens", _count),
        Figure("data_bytes", "training bytes", _count),
        Figure("data_rows", "rows", _count),
        Figure("epoch", "passes over them", "{:.2f}".format),
        Figure("data_padding_share", "padding", _share),
        Figure("data_cut_share", "documents that were cut", _share),
    ),
    "Cost": (
        Figure("seconds", "training", seconds),
        Figure("eval_seconds", "evaluation on the way", seconds),
        Figure("checkpoint_seconds", "checkpoints", seconds),
        Figure("tokens_per_second", "tokens per second, median", "{:,.0f}".format),
        Figure("mfu", "MFU, median", _share, "mfu_peak", "({} peak)"),
        Figure("memory_bytes", "peak memory of a process (measured)", _gib),
        Figure("memory_reserved_bytes", "peak memory reserved on the device (measured)", _gib),
        Figure("energy_kwh", "energy", _kwh, "energy_kind"),
        Figure("cpu_energy_kwh", "of it processors", _kwh, "cpu_energy_kind"),
        Figure("gpu_energy_kwh", "of it accelerators", _kwh, "gpu_energy_kind"),
        Figure("ram_energy_kwh", "of it memory", _kwh, "ram_energy_kind"),
        Figure("co2_kg", "carbon dioxide", _kg, "co2_kind"),
    ),
}


def sections(values: dict) -> list[str]:
    """Headings and tables of one run's figures; what is not there is left out."""
    parts = []
    for title, figures in SECTIONS.items():
        rows = [row for figure in figures if (row := _row(figure, values))]
        if title == "Result":
            rows += [[name, f"{value:.4f} bits per byte"] for name, value in values.get("baselines", {}).items()]
        if rows:
            parts += [f"## {title}", table(["", ""], rows, numbers_from=2)]
    return parts


def _row(figure: Figure, values: dict) -> list[str] | None:
    if values.get(figure.key) is None:
        return None
    return [f"{figure.label} {_note(figure, values)}".rstrip(), figure.show(values[figure.key])]


def _note(figure: Figure, values: dict) -> str:
    mark = values.get(figure.mark)
    return figure.note.format(mark) if mark else ""


def comparison(runs: dict[str, dict], unit: str = NATS) -> str:
    """One row a figure, one column a run; the mark stands at each figure, since it may differ between runs.

    `unit` is that of the losses, nothing where they are not all of one kind.
    """
    rows = [["finished", *("yes" if values["finished"] else "no" for values in runs.values())]]
    for figure in (figure for figures in SECTIONS.values() for figure in figures):
        cells = [
            "" if values.get(figure.key) is None else f"{figure.show(values[figure.key])} {_note(figure, values)}"
            for values in runs.values()
        ]
        if any(cells):
            rows.append([figure.label.replace(NATS, unit), *map(str.rstrip, cells)])
    return table(["", *runs], rows)


def table(header: list[str], rows: list[list[str]], numbers_from: int = 1) -> str:
    """Markdown; columns from `numbers_from` on are set to the right."""
    rule = ["---:" if i >= numbers_from else "---" for i in range(len(header))]
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows))
    first, *rest = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([first, f"|{'|'.join(rule)}|", *rest])
