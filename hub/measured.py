"""The figures of a run as a model card shows them: in tables for readers, in a list for the Hub's `model-index`."""

import math

# What a run's results.json may hold: the name in the metadata, and what readers see.
HEADLINES = {
    "eval_bits_per_byte": ("bits_per_byte", "bits per byte"),
    "eval_perplexity": ("perplexity", "perplexity"),
    "eval_loss": ("loss", "held-out loss"),
    "accuracy": ("accuracy", "held-out pairs ranked right"),
    "margin": ("margin", "mean margin of the rewards"),
    "calibration_error": ("ece", "expected calibration error"),
    "eval_rewards/accuracies": ("accuracy", "held-out pairs ranked right by the implicit reward"),
    "win_rate": ("win_rate", "win rate against the model before, by the judge"),
    "kl": ("kl", "KL from the model before, nats an answer"),
    "eval_reward": ("reward", "held-out reward of sampled answers"),
    "eval_objective/kl": ("kl", "their KL from the model before, nats an answer"),
    "loss_after": ("loss", "the student's held-out loss"),
}
ANSWERS = {
    "judge": "judge, mean score",
    "exact_on_real": "exact answers, of those that have one",
    "abstention_precision": "abstention precision",
    "abstention_recall": "abstention recall",
    "n": "prompts",
}
ENERGY = {
    "energy_kwh": ("energy", "kWh"),
    "cpu_energy_kwh": ("of it processors", "kWh"),
    "gpu_energy_kwh": ("of it accelerators", "kWh"),
    "ram_energy_kwh": ("of it memory", "kWh"),
    "co2_kg": ("carbon dioxide", "kg"),
}


def headline_figures(results: dict) -> list[tuple[str, str, float]]:
    """(name of the metric, what readers see, value) of all that `model-index` takes; no name twice."""
    found = [(kind, label, results.get(key)) for key, (kind, label) in HEADLINES.items()]
    after = results.get("after") or {}
    found += [(key, label, after.get(key)) for key, label in ANSWERS.items() if key != "n"]
    classified = (results.get("classification") or {}).get("model") or {}
    found += [(key, key.replace("_", " "), value) for key, value in classified.items()]
    figures, seen = [], set()
    for kind, label, value in found:
        if _is_number(value) and kind not in seen:
            figures.append((kind, label, value))
            seen.add(kind)
    return figures


def evaluation_tables(results: dict) -> str:
    """All that was measured, with what it was compared with; empty where nothing was."""
    parts = []
    rows = [(label, f"{results[key]:.4f}") for key, (_, label) in HEADLINES.items() if _is_number(results.get(key))]
    bits = results.get("baselines") or {}
    rows += [(f"bits per byte of {name}", f"{value:.4f}") for name, value in bits.items() if _is_number(value)]
    parts += [table(["", ""], rows)] if rows else []
    columns = [when for when in ("before", "after", "teacher") if isinstance(results.get(when), dict)]
    if columns:
        cells = [(label, *(_cell(results[when].get(key)) for when in columns)) for key, label in ANSWERS.items()]
        parts.append(table(["", *columns], cells))
    if models := results.get("classification"):
        measures = list(next(iter(models.values())))
        cells = [(name, *(_cell(found.get(m)) for m in measures)) for name, found in models.items()]
        parts.append(table(["", *(m.replace("_", " ") for m in measures)], cells))
    return "\n\n".join(parts)


def energy_table(results: dict) -> str:
    """Each figure with whether it was measured or estimated."""
    rows = []
    for key, (label, unit) in ENERGY.items():
        if _is_number(results.get(key)):
            kind = results.get(key.rpartition("_")[0] + "_kind", "estimated")
            rows.append((label, f"{results[key]:.6g} {unit}, {kind}"))
    return table(["", ""], rows) if rows else ""


def emissions(results: dict, command: str, device: str | None) -> dict:
    """The Hub's `co2_eq_emissions`, whose unit is the gram."""
    if not _is_number(results.get("co2_kg")):
        return {}
    found = {"emissions": round(1000 * results["co2_kg"], 6), "source": "codecarbon, estimated"}
    found["training_type"] = "pre-training" if command == "pretrain" else "fine-tuning"
    return found | ({"hardware_used": device} if device else {})


def table(header: list[str], rows: list[tuple]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    escaped = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
    lines += [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join(lines)


def _cell(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else f"{value:,}"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
