"""Options of `rhapsode bench`."""

from dataclasses import dataclass

from .base import UserError, check_choice, check_each, check_positive, option

SECTIONS = ("limits", "training", "decoding", "loss", "packing", "data", "checkpoints", "growth")
PEERS = ("trainer", "trainer_best", "trainer_best_tuned", "llama", "litgpt", "llama_cpp")
LLAMA_30M = "llama-30m"  # the default shape, no preset of the model's: exactly what LlamaForCausalLM computes
DTYPES = ("float32", "bfloat16")
POSITIVE = ("batch", "length", "rounds", "max_seconds", "prompt_tokens", "new_tokens", "loss_vocabulary", "text_bytes")


@dataclass
class BenchOptions:
    """Measure speed and memory on this machine beside what else trains and runs the same weights: one process each, in
    turn, medians and ratios round by round, against the machine's limits. Writes results.json, report.md, bench.png."""

    EXAMPLES = (
        "rhapsode bench",
        "rhapsode bench --measure limits training --peers trainer trainer_best --rounds 3",
        "rhapsode bench --config recipes/configs/bench_gpu.yaml",
    )

    measure: list[str] = option(list(SECTIONS), f"what to measure: {', '.join(SECTIONS)}", section="what")
    peers: list[str] = option(
        list(PEERS), f"what to measure beside Rhapsode, where it is installed: {', '.join(PEERS)}"
    )
    preset: list[str] = option(
        [LLAMA_30M],
        f"designs to train and decode, the first for the rest too; {LLAMA_30M}, or see `rhapsode presets`",
        section="the work",
    )
    config_overrides: list[str] = option([], "changes to the designs, e.g. qk_norm=none num_hidden_layers=4")
    dataset: list[str] = option(["stdlib"], "text of the rows: stdlib, files, directories, globs, Hub ids")
    text_bytes: int = option(4_000_000, "text that is read of it, in bytes")
    tokenizer: str | None = option(None, "directory or Hub id; none trains one on the text")
    batch: int = option(8, "sequences in one training step")
    length: int = option(512, "sequence length in tokens")
    torch_compile: bool = option(True, "measure compiled contenders too; they need a C++ compiler, and a minute each")
    rounds: int = option(5, "turns of each contender; fewer where the time is up", section="how long")
    prompt_tokens: int = option(128, "decoding: tokens of the prompt", section="sizes")
    new_tokens: int = option(64, "decoding: tokens to write, 2 or more")
    decode_batches: list[int] = option([1, 16], "decoding: texts that are written at once")
    decode_dtypes: list[str] = option(list(DTYPES), f"decoding: number formats of the weights: {', '.join(DTYPES)}")
    loss_vocabulary: int = option(131072, "loss: entries of the vocabulary")
    growth_lengths: list[int] = option([256, 512, 1024, 2048], "growth: sequence lengths in tokens")
    growth_vocabularies: list[int] = option([8192, 32768, 131072], "growth: entries of the vocabulary")
    growth_widths: list[int] = option([128, 256, 512], "growth: hidden sizes, the feed-forward layer growing along")
    max_seconds: float = option(
        720.0, "time for all, in seconds: rounds are left out where it runs short", section="how long"
    )
    output_dir: str = option(
        "runs/bench", "directory of results.json, report.md, bench.png and the contenders' logs", section="output"
    )
    overwrite_output_dir: bool = option(False, "delete the measurement that the directory holds")
    json: bool = option(False, "print results.json in place of the tables")
    seed: int = option(0, "of the weights and of the order of the rows")

    def __post_init__(self):
        check_positive(self, *POSITIVE)
        for name in ("decode_batches", "growth_lengths", "growth_vocabularies", "growth_widths"):
            if any(value < 1 for value in getattr(self, name)):
                raise UserError(f"--{name} {' '.join(map(str, getattr(self, name)))}: all must be above 0")
        check_each(self, ("length", "new_tokens"), lambda value: value >= 2, "must be 2 or more")
        check_each(self, ("seed",), lambda value: value >= 0, "must be 0 or more")
        for name, allowed in (("measure", SECTIONS), ("peers", PEERS), ("decode_dtypes", DTYPES)):
            for value in getattr(self, name):
                check_choice(name, value, allowed)
        if not self.measure or not self.preset:
            raise UserError("--measure and --preset: name at least one section and one design")
