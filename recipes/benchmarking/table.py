"""The figures as tables: one a figure, one row a contender."""

from ..reporting.tables import table
from .figures import LESS, Figure
from .interleaving import OURS
from .machine import NOT_INSTALLED

TITLES = {"limits": "The machine", "training": "Training", "decoding": "Decoding", "loss": "Loss"}
TITLES |= {"packing": "Packing", "data": "Data", "checkpoints": "Checkpoints", "growth": "Growth"}


def report(figures: list[Figure], results: dict) -> str:
    """Markdown: where and how it was measured, then a section after the other."""
    machine, options = results["machine"], results["options"]
    where = machine.get("accelerator") or f"{machine['processor']} ({' '.join(machine['flags'])})"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# Speed and memory",
        f"{where}; {machine['cores']} cores, {machine['threads']} threads, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"load at the start {machine['load'][0]:.1f}. {versions}.",
        f"`{results['command']}`, seed {options['seed']}, {results['seconds']:.0f} s. Medians of up to "
        f"{options['rounds']} rounds in which the contenders take turns, the lowest and the highest beside them; "
        "ratios are medians of the rounds' ratios.",
    ]
    missing = [name for name, version in results["peers"].items() if version == NOT_INSTALLED]
    if missing:
        lines.append(f"Not installed, and so not measured: {', '.join(missing)}.")
    if results["goals"]:
        rows = [_goal(goal) for goal in results["goals"]]
        lines += ["## Goals", table(["", "measured", "goal", "reached"], rows)]
    for section in dict.fromkeys(figure.section for figure in figures):
        lines.append(f"## {TITLES[section]}")
        lines += [_figure(figure) for figure in figures if figure.section == section and figure.axis is None]
        growing = [figure for figure in figures if figure.section == section and figure.axis is not None]
        for axis, unit in dict.fromkeys((figure.axis, figure.unit) for figure in growing):
            lines.append(_growth([figure for figure in growing if (figure.axis, figure.unit) == (axis, unit)]))
    return "\n\n".join(lines)


def _goal(goal: dict) -> list[str]:
    bound = f"{'at least' if goal['at_least'] else 'at most'} {goal['bound']:g}"
    return [goal["what"], f"{goal['value']:.3g}", bound, "yes" if goal["is_reached"] else "no"]


def _figure(figure: Figure) -> str:
    cells = [_row(figure, entry) for entry in figure.entries]
    return _head(figure, figure.what) + table(
        ["", "median", "lowest .. highest", "of the limit", "to the peers"], cells
    )


def _growth(figures: list[Figure]) -> str:
    """One table for all points of an axis."""
    cells = [[f"{f.at:,}", *_row(f, entry)] for f in figures for entry in f.entries]
    header = [figures[0].axis, "", "median", "lowest .. highest", "of the limit", "to the peers"]
    return _head(figures[0], f"growth with {figures[0].axis}") + table(header, cells, numbers_from=2)


def _head(figure: Figure, what: str) -> str:
    direction = ", less is better" if figure.better == LESS else ""
    return f"**{what}, {figure.unit}{direction}" + (f"; limit: {figure.limit}" if figure.limit else "") + "**\n\n"


def _row(figure: Figure, entry) -> list[str]:
    if not entry.values:
        return [entry.name, "-", "-", "-", entry.fault or "not measured"]
    spread = f"{number(min(entry.values))} .. {number(max(entry.values))}" if len(entry.values) > 1 else "once"
    share = "-" if entry.share is None else f"{entry.share:.1%}"
    ratios = figure.ratios(entry.name) if entry.kind == OURS else {}
    shown = ", ".join(f"{ratio:.2f} x {peer}" for peer, ratio in ratios.items())
    return [entry.name, number(entry.median), spread, share, shown or "-"]


def number(value: float) -> str:
    """Three or four digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
