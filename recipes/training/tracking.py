"""Trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases and trackio, through Accelerate's classes.

Figures get the names that transformers' Trainer gives them: `train/loss`, `eval/loss`. Texts are left out, and a figure
that is marked measured or estimated carries its mark in its name, `train/energy_kwh (estimated)`.

A resumed run goes on in the same place. TensorBoard is told to forget what it has after the resumed step. Weights &
Biases and trackio find their run by the name that `tracking.json` in the run directory keeps; Weights & Biases refuses
the steps that it has already, which are the same figures, since a resumed run repeats them bit by bit, and trackio
keeps both. What does not work offline: Weights & Biases without a key, unless WANDB_MODE is offline or disabled.
"""

import importlib.metadata
import importlib.util
import json
import math
import re
import uuid
import warnings
from difflib import get_close_matches
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from ..options.base import UserError, one_line

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "rhapsode"
MEMORY = "tracking.json"  # in the run directory: which run of each tracker is ours


def check_trackers(names: list[str]) -> None:
    """Call before anything is written.

    Raises:
        UserError: a tracker that is unknown, not installed, or that would stop to ask for a login.
    """
    for name in names:
        if name not in TRACKERS:
            nearest = get_close_matches(name, TRACKERS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(TRACKERS)}"
            raise UserError(f"--report_to {name!r} is no tracker; {hint}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--report_to {name}: it is not installed; pip install {name}, or leave it out")
    if "wandb" in names:
        _check_login()


def _check_login() -> None:
    import wandb

    is_local = wandb.setup().settings.mode in ("offline", "disabled", "dryrun")
    try:
        if is_local or wandb.login(prompt=False, verify=False):
            return
    except TypeError as error:  # before 0.31 it could only ask
        version = importlib.metadata.version("wandb")
        raise UserError(f"--report_to wandb: version {version} is too old; pip install --upgrade wandb") from error
    raise UserError("--report_to wandb: no key; run `wandb login`, or set WANDB_API_KEY, or set WANDB_MODE=offline")


class Trackers:
    """The trackers of one run; on other processes than the first, and without any, every call does nothing.

    Args:
        names: from `--report_to`, approved of by `check_trackers`.
        run_name: what people call the run.
        directory: the run directory; it exists.
        config: the options, for the trackers to show.
        resume_step: the step that the run goes on from.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        names: list[str],
        run_name: str,
        directory: Path,
        config: dict,
        resume_step: int = 0,
    ):
        self.accelerator, self.failed = accelerator, set()
        if not names or not accelerator.is_main_process:
            return
        path = directory / MEMORY
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        stem = re.sub(r"[^A-Za-z0-9_.-]", "-", run_name)  # Weights & Biases takes no / or : in the id of a run
        ids = {name: known.get(name) or f"{stem}-{uuid.uuid4().hex[:8]}" for name in dict.fromkeys(names)}
        accelerator.log_with = [
            _build(name, ids[name], run_name, directory, resume_step, name in known) for name in ids
        ]
        try:
            accelerator.init_trackers(PROJECT)
            for tracker in accelerator.trackers:
                if tracker.name not in known:
                    tracker.store_init_configuration(_plain(config))
        except Exception as error:  # whatever the tracker's library raises: a server away, a directory not ours
            raise UserError(
                f"--report_to {' '.join(names)}: {one_line(error, 300)}; mend it, or leave it out"
            ) from error
        path.write_text(json.dumps(known | ids, indent=1), encoding="utf-8")

    def log(self, row: dict) -> None:
        """One row of `metrics.jsonl`. A tracker that fails is named once and does not stop the run."""
        figures = tracker_figures(row)
        for tracker in self.accelerator.trackers:
            self._guarded(tracker, lambda tracker=tracker: tracker.log(figures, step=row["step"]))

    def finish(self) -> None:
        """Send what is left and close. Leaves the processes together, unlike `Accelerator.end_training`."""
        for tracker in self.accelerator.trackers:
            self._guarded(tracker, tracker.finish)
        self.accelerator.trackers.clear()

    def _guarded(self, tracker: GeneralTracker, work) -> None:
        try:
            work()
        except Exception as error:  # training is worth more than its log
            if tracker.name not in self.failed:
                self.failed.add(tracker.name)
                warnings.warn(f"{tracker.name} failed ({one_line(error, 200)}); metrics.jsonl goes on", stacklevel=2)


def _build(
    name: str, identity: str, run_name: str, directory: Path, resume_step: int, is_known: bool
) -> GeneralTracker:
    if name == "tensorboard":
        purge = {"purge_step": resume_step + 1} if is_known else {}
        return TensorBoardTracker("tensorboard", str(directory), **purge)
    resume = {"resume": "allow"} if is_known else {}
    if name == "wandb":
        return WandBTracker(PROJECT, id=identity, name=run_name, dir=str(directory), **resume)
    return TrackioTracker(PROJECT, name=identity, **resume)


def _plain(config: dict) -> dict:
    """Values that every tracker takes."""
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config.items()}


def tracker_figures(row: dict) -> dict[str, float]:
    """The numbers of a row under the names that they have in a tracker."""
    marks = {key.removesuffix("_kind"): value for key, value in row.items() if key.endswith("_kind")}
    figures = {}
    for key, value in row.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        mark = marks.get(key.rpartition("_")[0])
        name = f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
        figures[f"{name} ({mark})" if mark else name] = value
    return figures
