"""Energy: sums and marks against sums by hand, the integral against powers of which it is known."""

import importlib.util
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from accelerate import Accelerator
from rhapsode.recipes.training import energy
from rhapsode.recipes.training.energy import EnergyMeter, Nvml, add_up, part_kinds

KWH = 3.6e6  # joules
TIMING = 0.02  # seconds between the test's reading of the clock and the meter's, on a busy machine, and more
MOST_WATTS = 20_000  # no machine takes more


def reading(part: str, kwh: float, kind: str, **others) -> dict:
    return {f"{part}_energy_kwh": kwh, f"{part}_energy_kind": kind, **others}


def test_sums_and_marks():
    """What is estimated once is estimated; parts keep their own marks."""
    gpu, cpu = reading("gpu", 2.0, "measured", co2_kg=0.5), reading("cpu", 1.0, "measured")
    assert add_up([gpu, cpu, gpu]) == {
        **{"energy_kwh": 5.0, "energy_kind": "measured", "co2_kg": 1.0, "co2_kind": "estimated"},
        **reading("cpu", 1.0, "measured"),
        **reading("gpu", 4.0, "measured"),
    }
    mixed = add_up([gpu, reading("gpu", 1.0, "estimated"), reading("cpu", 1.0, "measured")])
    assert (mixed["energy_kind"], mixed["gpu_energy_kind"], mixed["cpu_energy_kind"]) == (
        *("estimated", "estimated", "measured"),
    )
    assert add_up([gpu, reading("ram", 1.0, "estimated")])["energy_kind"] == "estimated"


def test_without_a_figure_there_is_none():
    assert add_up([]) == add_up([{}, {"co2_kg": 1.0}]) == {}


def hardware(**modes) -> list:
    """Objects as codecarbon has them: the class says what it is, `_mode` how a processor is read."""
    return [type(name, (), {} if mode is None else mode)() for name, mode in modes.items()]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("intel_rapl", "measured"), ("windows_emi", "measured"), ("intel_power_gadget", "measured")),
        *(("cpu_load", "estimated"), ("constant", "estimated"), ("a mode of the future", "estimated")),
    ],
)
def test_a_processor_is_measured_only_by_its_counters(mode, kind):
    found = part_kinds(hardware(CPU={"_mode": mode}, GPU=None, RAM=None))
    assert found == {"cpu": kind, "gpu": "measured", "ram": "estimated"}


def test_what_we_do_not_know_is_no_measurement():
    assert part_kinds(hardware(CPU=None)) == {"cpu": "estimated"}
    assert part_kinds(hardware(Toaster=None)) == {}
    assert part_kinds(hardware(AppleSiliconChip={"chip_part": "GPU"})) == {"gpu": "measured"}


def test_constant_power_times_time():
    start = time.perf_counter()
    meter = Nvml(None, watts=lambda: 360.0, seconds_between=0.005)
    time.sleep(0.1)
    figures = meter.read()
    elapsed = time.perf_counter() - start
    assert figures["gpu_energy_kind"] == "measured"
    assert figures["gpu_energy_kwh"] * KWH / 360 == pytest.approx(elapsed, abs=TIMING)
    meter.stop()
    assert not meter.thread.is_alive()


def test_changing_power_is_integrated_by_trapezoids(monkeypatch):
    """Readings of 0, 100 and 300 W at 0, 1 and 3 s: 50 J and 400 J."""
    clock, power = iter([0.0, 1.0, 3.0]), iter([0.0, 100.0, 300.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(clock))
    meter = Nvml(None, watts=lambda: next(power), seconds_between=3600)
    meter.read()
    assert meter.read()["gpu_energy_kwh"] * KWH == pytest.approx(450)
    meter.stopped.set()


@pytest.fixture
def without_codecarbon(monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "codecarbon" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(energy.importlib.util, "find_spec", hidden)


def test_nothing_is_invented(without_codecarbon):
    """A processor without codecarbon: no figure, not a guess."""
    meter = EnergyMeter(Accelerator(cpu=True))
    assert meter.row() == meter.stop() == {}


def test_a_meter_that_breaks_keeps_what_it_had(without_codecarbon):
    meter = EnergyMeter(Accelerator(cpu=True), before=reading("gpu", 1.0, "measured", loss=3.0))
    answers = iter([reading("gpu", 0.5, "measured")])
    meter.source = SimpleNamespace(read=lambda: next(answers, None) or 1 / 0)
    assert meter.row()["energy_kwh"] == 1.5  # what the resumed run had is in it
    with pytest.warns(UserWarning, match="energy is counted up to here only"):
        assert meter.row()["energy_kwh"] == 1.5
    assert meter.row()["energy_kwh"] == 1.5


def fake_codecarbon(monkeypatch, hardware: list, total) -> dict:
    """A codecarbon that calls its handler as the real one does; returns what it was asked for."""
    asked = {}

    class Tracker:
        _hardware = hardware

        def __init__(self, **settings):
            asked.update(settings)

        def start(self):
            if total is not None:
                asked["output_handlers"][0].live_out(total, None)

        def stop(self):
            asked["output_handlers"][0].out(SimpleNamespace(**{**vars(total), "cpu_energy": 9.0}), None)

    for name, content in {"codecarbon": Tracker, "codecarbon.output": type("BaseOutput", (), {})}.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        setattr(module, "OfflineEmissionsTracker" if content is Tracker else "BaseOutput", content)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_codecarbon_is_asked_to_keep_to_itself(monkeypatch):
    """No file, no network, no hold on the signals that save a checkpoint; its figures arrive, the last ones too."""
    total = SimpleNamespace(cpu_energy=2.0, gpu_energy=0.0, ram_energy=1.0, emissions=0.7)
    asked = fake_codecarbon(monkeypatch, hardware(RAM=None, CPU={"_mode": "intel_rapl"}), total)
    meter = EnergyMeter(Accelerator(cpu=True))
    assert meter.row() == {
        **{"energy_kwh": 3.0, "energy_kind": "estimated", "co2_kg": 0.7, "co2_kind": "estimated"},
        **reading("cpu", 2.0, "measured"),
        **reading("ram", 1.0, "estimated"),
    }
    assert asked["output_methods"] == [] and asked["allow_multiple_runs"] is True
    assert asked["emissions_endpoint"] is None and asked["electricitymaps_api_token"] is None
    assert meter.stop()["cpu_energy_kwh"] == 9.0


def test_a_codecarbon_that_gives_nothing_is_named(monkeypatch):
    """It swallows its own errors; training goes on."""
    fake_codecarbon(monkeypatch, [], None)
    with pytest.warns(UserWarning, match="codecarbon failed.*energy is not tracked"):
        meter = EnergyMeter(Accelerator(cpu=True))
    assert meter.row() == {}


def test_the_real_codecarbon(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    meter = EnergyMeter(Accelerator(cpu=True))
    start = time.perf_counter()
    time.sleep(0.5)
    row = meter.stop()
    assert row["cpu_energy_kind"] in ("measured", "estimated") and row["ram_energy_kind"] == "estimated"
    assert row["energy_kind"] == row["co2_kind"] == "estimated"
    assert 0 < row["energy_kwh"] * KWH / (time.perf_counter() - start) < MOST_WATTS
    assert 0 < row["co2_kg"] < row["energy_kwh"]  # no grid emits a kilogram for a kWh
    assert list(tmp_path.iterdir()) == []  # no emissions.csv
