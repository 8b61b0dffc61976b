"""scaling.md, .html and .png: the runs, the laws through them, and the larger model with what was predicted for it."""

from pathlib import Path

import numpy as np

from ..reporting.curves import ACCENT, GRID, INK
from ..reporting.pages import write_report_files
from .fitting import Fit
from .forms import compute_optimal

COLOURS = "cividis"
LINE_POINTS = 200
OPTIMAL = "compute-optimal, C = 6 N D"


def write_report(results: dict, fitted: Fit, directory: Path) -> None:
    """`fitted` is the law whose prediction counts."""
    plot(results, fitted, directory / "scaling.png")
    write_report_files(directory / "scaling.md", markdown(results))


def table(results: dict) -> str:
    """The predictions beside what was measured, for the terminal."""
    h, p = results["held_out"], results["prediction"]
    lines = [
        f"{h['size']}: {h['parameters']:,} parameters, {results['parameter_ratio']:.1f} times the largest in the fit, "
        f"{h['tokens']:,} tokens",
        f"predicted {p['loss']:.4f} ({p['low']:.4f} to {p['high']:.4f}), measured {h['loss']:.4f} nats/token: "
        f"error {results['error']:+.2%}",
        "",
        f"{'law':<12}{'N':<15}{'predicted':>10}{'error':>9}",
    ]
    lines += [f"{e['law']:<12}{e['N']:<15}{e['loss']:>10.4f}{e['error']:>+9.2%}" for e in results["errors"]]
    return "\n".join(lines)


def markdown(results: dict) -> str:
    h, p, share = results["held_out"], results["prediction"], f"{results['confidence']:.0%}"
    chance = results["noise_between_seeds"]
    runs = [_run_cells(r) for r in sorted([*results["runs"], h], key=lambda r: (r["parameters"], r["tokens"]))]
    heads = ("size", "parameters", "without embeddings", "tokens", "seed", "TFLOP", "loss", "bits per byte", "seconds")
    errors = [
        (e["law"], e["N"], f"{e['loss']:.4f}", f"{e['low']:.4f} to {e['high']:.4f}", f"{e['error']:+.2%}")
        for e in results["errors"]
    ]
    compared = (
        f"{p['loss']:.4f}",
        f"{p['low']:.4f} to {p['high']:.4f}",
        f"{h['loss']:.4f}",
        f"{results['error']:+.2%}",
    )
    fits = [
        (f["law"], f["N"], f"`{name}`", f"{c['value']:.4g}", f"{c['low']:.4g} to {c['high']:.4g}", f"{f['noise']:.2%}")
        for f in results["fits"]
        for name, c in f["coefficients"].items()
    ]
    return (
        "\n\n".join(
            [
                "# Scaling laws",
                f"{h['size']} has {h['parameters']:,} parameters, {results['parameter_ratio']:.1f} times the largest "
                f"in the fit ({results['non_embedding_ratio']:.1f} times without embeddings). Its loss after "
                f"{h['tokens']:,} tokens was predicted on {p['written']}, before it was trained, by the {p['law']} law "
                f"over {_parameters(p['N'])}.",
                _markdown_table(("predicted", f"{share} interval", "measured", "error"), [compared]),
                "" if chance is None else f"Seeds alone change a loss by {chance:.2%} (standard deviation).",
                "![loss against parameters, tokens and compute](scaling.png)",
                "## All predictions",
                _markdown_table(("law", "N counts", "predicted", f"{share} interval", "error"), errors),
                "## Coefficients",
                _markdown_table(("law", "N counts", "coefficient", "value", f"{share} interval", "noise"), fits),
                _optimum(results),
                "## Runs",
                "Losses are in nats per token of all validation documents.",
                _markdown_table(heads, runs),
            ]
        )
        + "\n"
    )


def _run_cells(r: dict) -> tuple[str, ...]:
    counts = (f"{r[key]:,}" for key in ("parameters", "non_embedding", "tokens", "seed"))
    measured = (f"{r['flops'] / 1e12:.3f}", f"{r['loss']:.4f}", f"{r['bits_per_byte']:.4f}", f"{r['seconds']:.0f}")
    return (r["size"], *counts, *measured)


def _parameters(kind: str) -> str:
    return "all parameters" if kind == "all" else "parameters that are not embeddings"


def _optimum(results: dict) -> str:
    if results["compute_optimal"] is None:
        return "These runs determine no compute-optimal size: their loss hardly depends on N, or on D."
    N, D = results["compute_optimal"]
    sizes, budgets = ([r[key] for r in results["runs"]] for key in ("parameters", "tokens"))
    beyond = "" if min(sizes) <= N <= max(sizes) and min(budgets) <= D <= max(budgets) else ", outside the ladder"
    return (
        f"For the arithmetic of the larger run (6 N D) the Chinchilla form puts the least loss at {N:,.0f} parameters "
        f"and {D:,.0f} tokens{beyond}."
    )


def _markdown_table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(results: dict, fitted: Fit, path: Path) -> None:
    """Loss over parameters, tokens and compute, with the law's lines and the larger model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kind = "parameters" if results["prediction"]["N"] == "all" else "non_embedding"
    runs, h = results["runs"], results["held_out"]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), sharey=True, layout="constrained")
    _panel(axes[0], runs, h, fitted, x=kind, along="tokens", kind=kind)
    _panel(axes[1], runs, h, fitted, x="tokens", along=kind, kind=kind)
    _compute_panel(axes[2], runs, h, fitted, kind)
    titles = ("tokens", "parameters", None)
    for axis, x, title in zip(axes, (h[kind], h["tokens"], h["flops"]), titles, strict=True):
        _held_out(axis, results, x)
        axis.legend(title=title, frameon=False, fontsize=8, title_fontsize=8)
        axis.grid(color=GRID, linewidth=0.5, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(xlabel=f"N, {_parameters(results['prediction']['N'])}", ylabel="validation loss, nats per token")
    axes[1].set(xlabel="D, training tokens", xticks=sorted({r["tokens"] for r in [*runs, h]}))
    axes[2].set(xlabel="C, FLOPs of training")
    figure.suptitle(
        f"{fitted.law.formula}: {results['error']:+.2%} off at {results['parameter_ratio']:.1f} times the parameters",
        color=INK,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis, runs, h, fitted, x: str, along: str, kind: str) -> None:
    """Points and one line of the law for each value of `along`."""
    values = sorted({r[along] for r in runs} | {h[along]})
    colours = _colours(len(values))
    ends = [r[x] for r in runs] + [h[x]]
    grid = np.geomspace(min(ends), max(ends), LINE_POINTS)
    for value, colour in zip(values, colours, strict=True):
        N, D = (grid, value) if x == kind else (value, grid)
        only_held_out = value == h[along] and not any(r[along] == value for r in runs)
        axis.plot(grid, fitted.predict(N, D), color=ACCENT if only_held_out else colour, linewidth=1.3, zorder=1)
        points = [(r[x], r["loss"]) for r in runs if r[along] == value]
        if points:
            axis.scatter(*zip(*points, strict=True), color=colour, s=28, zorder=2, label=_short(value))
    _log_axes(axis)


def _compute_panel(axis, runs, h, fitted, kind: str) -> None:
    sizes = sorted({r[kind] for r in runs})
    for size, colour in zip(sizes, _colours(len(sizes) + 1), strict=False):
        mine = sorted((r["flops"], r["loss"]) for r in runs if r[kind] == size)
        axis.plot(*zip(*mine, strict=True), "o-", color=colour, markersize=5, linewidth=1, zorder=2)
    if fitted.law.name == "chinchilla":
        coefficients = fitted.law.coefficients(fitted.theta, fitted.n0, fitted.d0)
        ends = [r["flops"] for r in runs] + [h["flops"]]
        optimal = {C: compute_optimal(coefficients, C) for C in np.geomspace(min(ends), max(ends), LINE_POINTS)}
        best = [(C, float(fitted.predict(*pair))) for C, pair in optimal.items() if pair]
        if best:
            axis.plot(*zip(*best, strict=True), color=INK, linestyle="--", linewidth=1.2, zorder=1, label=OPTIMAL)
    _log_axes(axis)


def _held_out(axis, results: dict, x: float) -> None:
    h, p = results["held_out"], results["prediction"]
    error = [[p["loss"] - p["low"]], [p["high"] - p["loss"]]]
    predicted = f"{h['size']} predicted, {results['confidence']:.0%}"
    bar = {"fmt": "_", "color": ACCENT, "capsize": 4, "markersize": 12, "linewidth": 1.4, "label": predicted}
    axis.errorbar(x, p["loss"], error, zorder=3, **bar)
    star = {"color": ACCENT, "markersize": 13, "markeredgecolor": "white", "label": f"{h['size']} measured"}
    axis.plot(x, h["loss"], "*", zorder=4, linestyle="none", **star)


def _log_axes(axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

    axis.set(xscale="log", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_formatter(NullFormatter())


def _colours(count: int) -> list:
    import matplotlib

    return [matplotlib.colormaps[COLOURS](x) for x in np.linspace(0.1, 0.8, count)]


def _short(number: float) -> str:
    for unit, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
