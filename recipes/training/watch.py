"""What is watched while a run goes: metrics.jsonl, trackers, energy, the clock, the progress bar."""

import torch

from ..options.pretrain import PretrainOptions
from ..reporting.metrics_file import MetricsLog
from .energy import EnergyMeter
from .hardware import memory_row, total_peak_flops
from .metrics import Stopwatch, flops_per_token, progress_bar
from .parallel import Parallel
from .precision import Precision
from .tracking import Trackers


class Watch:
    """Every process has one and makes the same calls; the main process writes."""

    def __init__(self, options: PretrainOptions, parallel: Parallel, precision: Precision, directory, resume_step: int):
        accelerator = parallel.accelerator
        self.parallel, self.device = parallel, accelerator.device
        self.metrics = MetricsLog(directory / "metrics.jsonl", resume_step) if parallel.is_main else None
        before = self.metrics.last if self.metrics else {}
        name = options.run_name or directory.name
        self.trackers = Trackers(accelerator, options.report_to, name, directory, vars(options), resume_step)
        self.energy = EnergyMeter(accelerator, options.track_energy, before)
        self.stopwatch = Stopwatch(before)
        self.peak, self.peak_kind = total_peak_flops(accelerator, precision.products)
        self.losses: list[float] = []
        self.bar = None

    def start(self, model, length: int, total_steps: int, progress, since: dict | None = None) -> None:
        """Before the first step; `since` is what a checkpoint has kept of the line that is not yet full."""
        self.flops = flops_per_token(model, length)
        self.bar = progress_bar(total_steps, progress.step, self.parallel.is_main)
        self._mark(progress)
        if since:
            self.losses, self.tokens, self.seconds = since["losses"], since["tokens"], since["seconds"]

    def since(self) -> dict:
        """What the next line of the log is made of, for a checkpoint between two lines."""
        return {"losses": self.losses, "tokens": self.tokens, "seconds": self.seconds}

    def _mark(self, progress) -> None:
        self.tokens, self.seconds, self.losses = progress.tokens, progress.seconds, []

    def step(self, loss: float) -> None:
        self.losses.append(loss)
        self.bar.update()

    def log(self, progress, figures: dict) -> float:
        """A line on the steps since the last one: their mean loss, which is returned, and `figures` of the newest."""
        speed = (progress.tokens - self.tokens) / max(progress.seconds - self.seconds, 1e-9)
        row = {
            "step": progress.step,
            "loss": torch.tensor(self.losses, dtype=torch.float64).mean().item(),
            **figures,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": speed,
            "mfu": speed * self.flops / self.peak,
            "mfu_peak": self.peak_kind,
            **memory_row(self.device),
            **self.stopwatch.row(),
            **self.energy.row(),
        }
        shown = f"loss {row['loss']:.3f}, {speed:,.0f} tokens/s, MFU {row['mfu']:.0%}"
        self.bar.set_postfix_str(shown, refresh=False)
        self._write(row)
        self._mark(progress)
        return row["loss"]

    def log_evaluation(self, step: int, figures: dict) -> None:
        self._write({"step": step, **figures})

    def _write(self, row: dict) -> None:
        if self.metrics:
            self.metrics.write(**row)
        self.trackers.log(row)

    def close(self) -> None:
        """The progress bar: what is said next, of a run that failed too, gets a line of its own."""
        if self.bar is not None:
            self.bar.close()

    def finish(self) -> dict:
        """Close everything; the last sums of time and energy."""
        self.close()
        row = self.stopwatch.row() | self.energy.stop()
        self.trackers.finish()
        return row
