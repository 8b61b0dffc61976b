"""What the demo prints in the end."""

from pathlib import Path

MODELS = {"base": "measure_base", "SFT": "measure_sft", "DPO": "measure_dpo", "PPO": "measure_ppo"}
LEARNED = 0.9  # exact answers of SFT; measured: a model with 0.57 is taught by preferences to abstain always
COLUMNS = {
    "judge": "judge",
    "exact_on_real": "exact on real",
    "abstention_precision": "abst. precision",
    "abstention_recall": "abst. recall",
    "kl": "KL from SFT",
}


def show(results: dict, root: Path) -> str:
    """The whole text, of the contents of results.json."""
    parts = [base_model(results), assistant(results), chat(results["chat"], root), times(results)]
    return "\n\n".join(["", *parts, f"reports: {root}/*/report.md; figures: {root}/results.json"])


def base_model(results: dict) -> str:
    model = results["model"]
    scores = {f"this model ({model['parameters'] / 1e6:.1f}M parameters)": model["eval_bits_per_byte"]}
    rows = "\n".join(f"  {name:<36}{score:6.3f}" for name, score in (scores | results["baselines"]).items())
    return (
        f"sample\n\n{indent(results['sample']['text'])}\n\n"
        "the export, opened where Rhapsode cannot be imported, goes on greedily\n\n"
        f"{indent(results['export']['text'])}\n\n"
        f"validation, in bits per byte ({model['eval_bytes']:,} bytes held out)\n\n{rows}"
    )


def assistant(results: dict) -> str:
    """The table: a row for each model, all measured on the same questions."""
    counts = results["measure_sft"]
    head = (
        f"the assistant ({results['chat_base']['parameters'] / 1e6:.1f}M parameters), asked in new words: "
        f"{counts['n'] - counts['n_invented']} questions about objects that it has learned,\n"
        f"{counts['n_invented']} about invented names that it has not seen"
    )
    lines = ["  " + f"{'':<6}" + "".join(f"{title:>17}" for title in COLUMNS.values())]
    for name, station in MODELS.items():
        found = results[station]
        cells = [cell(key, found) for key in COLUMNS]
        lines.append("  " + f"{name:<6}" + "".join(f"{text:>17}" for text in cells))
    if counts["exact_on_real"] < LEARNED:
        lines += [
            "",
            f"  SFT has learned too little: below {LEARNED} exact answers, preferences teach mostly to abstain",
        ]
    return head + "\n\n" + "\n".join(lines)


def cell(key: str, found: dict) -> str:
    """A share of nothing is no number."""
    if key == "abstention_precision" and not found["n_abstained"]:
        return "-"
    return f"{found[key]:.1f} nats" if key == "kl" else f"{found[key]:.2f}"


def chat(said: dict, root: Path) -> str:
    turns = [f"  > {turn['question']}   ({kind})\n  {turn['answer']}" for kind, turn in said.items()]
    return "\n\n".join(["a chat with the model of PPO", *turns, f"go on: rhapsode chat --model {root / 'ppo'}"])


def times(results: dict) -> str:
    rows = "\n".join(f"  {name:<46}{seconds:6.1f} s" for name, seconds in results["seconds"].items())
    together = f"  {'from beginning to end, two stations at a time':<46}{results['seconds_together']:6.1f} s"
    return f"where the time went\n\n{rows}\n{together}"


def indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())
