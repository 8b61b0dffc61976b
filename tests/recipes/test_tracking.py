"""Trackers: TensorBoard's own reader says what arrived there; Weights & Biases and trackio are played by stand-ins."""

import json
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from accelerate import Accelerator
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training import tracking
from rhapsode.recipes.training.tracking import MEMORY, Trackers, check_trackers, tracker_figures

CONFIG = {"learning_rate": 1e-3, "dataset": ["stdlib"], "max_steps": None, "bf16": True}


class StandIn(ModuleType):
    """A tracker's library: remembers how it was called, and fails when it is told to."""

    def __init__(self, name: str, mode: str = "online", has_key: bool = True):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.started, self.rows, self.shown, self.finished, self.error = [], [], {}, 0, None
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.shown.update(values))
        self.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode))
        self.login = lambda prompt, verify: has_key

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, values, step):
        if self.error:
            raise self.error
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def stand_in(monkeypatch):
    def install(name: str, **settings) -> StandIn:
        library = StandIn(name, **settings)
        monkeypatch.setitem(sys.modules, name, library)
        return library

    return install


def row(step: int) -> dict:
    return {"step": step, "loss": 10.0 / step, "tokens": 100 * step, "mfu": 0.5, "mfu_peak": "measured"}


def open_trackers(names: list[str], directory, resume_step: int = 0) -> Trackers:
    return Trackers(Accelerator(cpu=True), names, "a/first: run", directory, CONFIG, resume_step)


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(directory / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path):
    """Killed after step 5, resumed from step 3: as an uninterrupted run."""
    pytest.importorskip("tensorboard")
    check_trackers(["tensorboard"])
    for steps, resume_step in ((range(1, 6), 0), (range(4, 8), 3)):
        trackers = open_trackers(["tensorboard"], tmp_path, resume_step)
        for step in steps:
            trackers.log(row(step))
        trackers.log({"step": steps[-1], "eval_loss": 1.5})
        trackers.finish()
    found = scalars(tmp_path)
    assert found.keys() == {"train/loss", "train/tokens", "train/mfu", "eval/loss"}
    assert found["train/loss"] == [(step, pytest.approx(10.0 / step)) for step in range(1, 8)]
    assert found["eval/loss"] == [(7, 1.5)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_in_the_same_run(name, tmp_path, stand_in):
    library = stand_in(name)
    check_trackers([name])
    for resume_step in (0, 3):
        trackers = open_trackers([name], tmp_path, resume_step)
        trackers.log(row(resume_step + 1))
        trackers.finish()
    key = "id" if name == "wandb" else "name"
    first, second = library.started
    assert first["project"] == second["project"] == "rhapsode"
    assert first[key] == second[key] == json.loads((tmp_path / MEMORY).read_text())[name]
    assert first[key].startswith("a-first--run-")
    assert "resume" not in first and second["resume"] == "allow"
    assert library.shown == {"learning_rate": 1e-3, "dataset": "['stdlib']", "max_steps": "None", "bf16": True}
    assert [step for step, _ in library.rows] == [1, 4]
    assert library.finished == 2
    (tmp_path / MEMORY).unlink()
    open_trackers([name], tmp_path).finish()
    assert library.started[2][key] != first[key]  # another run of the same name is another run


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path, stand_in):
    broken, sound = stand_in("wandb"), stand_in("trackio")
    trackers = open_trackers(["wandb", "trackio"], tmp_path)
    broken.error = ConnectionError("the server\nis away")
    with pytest.warns(UserWarning, match=r"wandb failed \(the server is away\)") as caught:
        for step in (1, 2, 3):
            trackers.log(row(step))
    assert len(caught) == 1
    assert [step for step, _ in sound.rows] == [1, 2, 3]
    broken.error = None  # it is back
    trackers.log(row(4))
    assert [step for step, _ in broken.rows] == [4]


def test_a_tracker_that_does_not_start_stops_the_command(tmp_path, stand_in):
    library = stand_in("wandb")
    library.init = lambda **settings: 1 / 0
    with pytest.raises(UserError, match="--report_to wandb: division by zero; mend it, or leave it out"):
        open_trackers(["wandb"], tmp_path)
    assert not (tmp_path / MEMORY).exists()


def test_without_trackers_nothing_happens(tmp_path):
    trackers = open_trackers([], tmp_path)
    trackers.log(row(1))
    trackers.finish()
    assert list(tmp_path.iterdir()) == []


def test_other_processes_than_the_first_keep_silent(tmp_path, stand_in):
    """Accelerate's own class for Weights & Biases would start a run on every process."""
    library = stand_in("wandb")
    trackers = Trackers(SimpleNamespace(is_main_process=False, trackers=[]), ["wandb"], "first", tmp_path, CONFIG)
    trackers.log(row(1))
    trackers.finish()
    assert library.started == [] and list(tmp_path.iterdir()) == []


# what is refused before anything is written


def test_an_unknown_tracker_names_the_nearest():
    with pytest.raises(UserError, match="--report_to 'tensorbord' is no tracker; did you mean tensorboard"):
        check_trackers(["tensorbord"])
    with pytest.raises(UserError, match="use tensorboard, wandb, trackio"):
        check_trackers(["xyz"])


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_tracker_that_is_not_installed_names_the_command(name, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=f"--report_to {name}: it is not installed; pip install {name}"):
        check_trackers([name])


def test_weights_and_biases_never_asks(stand_in):
    stand_in("wandb", has_key=False)
    with pytest.raises(UserError, match="no key; run `wandb login`, or set WANDB_API_KEY, or set WANDB_MODE=offline"):
        check_trackers(["wandb"])
    for mode in ("offline", "disabled"):
        library = stand_in("wandb", mode=mode, has_key=False)
        check_trackers(["wandb"])
        assert library.started == []


def test_an_old_version_that_could_only_ask(stand_in, monkeypatch):
    stand_in("wandb").login = lambda timeout=None: True
    monkeypatch.setattr(tracking.importlib.metadata, "version", lambda name: "0.16")
    with pytest.raises(UserError, match=r"version 0\.16 is too old; pip install --upgrade wandb"):
        check_trackers(["wandb"])


def test_names_of_figures():
    values = {"step": 4, "loss": 2.0, "eval_loss": 2.5, "grad_norm": None, "update_norm": float("nan")}
    marks = {"energy_kwh": 0.1, "energy_kind": "estimated", "gpu_energy_kwh": 0.05, "gpu_energy_kind": "measured"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracker_figures(values | marks | {"mfu_peak": "known", "finished": True}) == {
            "train/loss": 2.0,
            "eval/loss": 2.5,
            "train/energy_kwh (estimated)": 0.1,
            "train/gpu_energy_kwh (measured)": 0.05,
        }
