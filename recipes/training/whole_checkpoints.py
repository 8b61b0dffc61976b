"""Checkpoints of a `transformers.Trainer` that are whole or not there, as those of pretraining are.

transformers writes a checkpoint's files one after the other into the directory of its final name, and takes the one
with the highest number on resume: after a kill in the middle it opens half of one, and an optimizer or a random state
that is missing is passed over in silence. Here they are written under another name, sealed (`sealing.py`), and checked
before they are read. `identity.json` in each says what the run has learned from, and the number of processes:
transformers skips the rows that a run has seen by their number, whatever they are.
"""

import json
import shutil
import warnings
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..options.base import UserError, one_line
from .sealing import TEMPORARY, as_os_error, newest_whole, not_finite, numbered, remove_unfinished, seal

PREFIX = f"{PREFIX_CHECKPOINT_DIR}-"
IDENTITY = "identity.json"
STATE = "trainer_state.json"
NOT_SAVED = "has a value that is not finite, and is not saved"


class WholeCheckpoints:
    """In front of a trainer's class. `identity` is what a resumed run must have alike, of anything that JSON holds."""

    identity: dict | None = None
    _unfinished: Path | None = None

    def newest_checkpoint(self) -> str | None:
        """The newest intact checkpoint of the output directory, for `train(resume_from_checkpoint=...)`.

        Raises:
            UserError: it is of other rows or other models, or was written by another number of processes.
        """
        found = [None]
        if self.args.process_index == 0:
            found = [newest_whole(Path(self.args.output_dir), PREFIX)]
        newest = broadcast_object_list(found)[0]
        if newest is None:
            return None
        before = json.loads((newest / IDENTITY).read_text(encoding="utf-8"))
        now = self._own_identity()
        for name in now:
            if name in before and before[name] != now[name]:
                raise UserError(
                    f"--resume with other {name} than the run in {newest} has ({_said(now[name])} in place of "
                    f"{_said(before[name])}); give the same, or start a new run"
                )
        return str(newest)

    def check_finite(self, here: bool = False) -> None:
        """
        Args:
            here: ask this process alone; the others may be elsewhere.

        Raises:
            UserError: a weight is a NaN or infinite.
        """
        found = [not_finite(self.model.named_parameters())]
        name = next(filter(None, found if here else gather_object(found)), None)
        if name:
            raise UserError(f"step {self.state.global_step}: {name} {NOT_SAVED}; {self._kept()}")

    def _own_identity(self) -> dict:
        return {"processes": self.args.world_size} | (self.identity or {})

    def _run_epoch(self, *args, **kwargs):
        """Nothing where the checkpoint was the run's last: transformers looks at the number of steps after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial):
        return str(self._unfinished or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        root, step = Path(self._get_output_dir(trial)), self.state.global_step
        temporary, final = root / f"{TEMPORARY}{step}", root / f"{PREFIX}{step}"
        if self.args.should_save:
            remove_unfinished(root)
        self.accelerator.wait_for_everyone()
        try:
            self._attempt(lambda: self._write(temporary, model, trial))
            self._attempt(lambda: self._finish(temporary / final.name, final))
        finally:
            self._unfinished = None
            if self.args.should_save:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.args.should_save:
            self._rotate(root, final)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(final))

    def _write(self, temporary: Path, model, trial) -> None:
        if name := not_finite(model.named_parameters()):
            raise UserError(f"{name.removeprefix('module.')} {NOT_SAVED}")
        self._unfinished = temporary
        super()._save_checkpoint(model, trial)

    def _finish(self, written: Path, final: Path) -> None:
        if not self.args.should_save:
            return
        if self.state.best_model_checkpoint == str(written):  # transformers has noted where it looked for it
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(written / STATE))
        (written / IDENTITY).write_text(json.dumps(self._own_identity()), encoding="utf-8")
        seal(written, final)

    def _rotate(self, root: Path, latest: Path) -> None:
        """As transformers does, but of those up to the latest: one above it is damaged, or another run's."""
        found = numbered(root, PREFIX)
        found = found[: found.index(latest) + 1]
        protected = {latest, Path(self.state.best_model_checkpoint or latest)}
        for path in found:
            if not self.args.save_total_limit or len(found) <= max(self.args.save_total_limit, len(protected)):
                break
            if path not in protected:
                shutil.rmtree(path)
                found = found[1:]

    def _attempt(self, work) -> None:
        """Do a part of the writing; what goes wrong on one process goes wrong on all, in one line."""
        fault = None
        try:
            work()
        except UserError as error:
            fault = str(error)
        except (OSError, SafetensorError, RuntimeError) as error:
            if (written := as_os_error(error)) is None:
                raise
            fault = one_line(written.strerror or written)
        if fault := next(filter(None, gather_object([fault])), None):
            raise UserError(f"checkpoint at step {self.state.global_step}: {fault}; {self._kept()}")

    def _kept(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is damaged was said when it was passed over
            return f"the newest whole checkpoint is {newest_whole(Path(self.args.output_dir), PREFIX) or 'none'}"

    def _push_from_checkpoint(self, checkpoint_folder):
        """Not from a directory that is about to be renamed: later."""


def with_whole_checkpoints(trainer_class: type) -> type:
    """The trainer's class with `WholeCheckpoints` in front."""
    if issubclass(trainer_class, WholeCheckpoints):
        return trainer_class
    return type(trainer_class.__name__, (WholeCheckpoints, trainer_class), {"__module__": trainer_class.__module__})


def _said(value) -> str:
    return ", ".join(f"{key} {v}" for key, v in value.items()) if isinstance(value, dict) else str(value)
