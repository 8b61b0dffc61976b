"""What every test shares. A property must hold for any draw: the seed is fresh, and printed where a test fails.

`RHAPSODE_TEST_SEED=17 pytest ...` runs a failure again.
"""

import os
import secrets

import hypothesis
import pytest

# Threads cost more than they bring to matrices this small: ten times the time where the machine is shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shared machine stalls at times; how long a test takes is looked at elsewhere.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Half a minute and more each. Files are handed to the workers in this order; one of these at the end would run alone.
LONGEST = (
    *("test_scaling", "test_demo", "test_processes", "test_bench", "test_pretrain", "test_pretrain_resume"),
    *("test_saving", "test_chat", "test_faults", "test_faults_damage", "test_bad_input", "test_attention"),
    *("test_ppo_trainer", "test_ppo_processes", "test_ppo", "test_inspect", "test_inspect_page"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)  # stable: nothing else changes places


WITHOUT_RHAPSODE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rhapsode":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
"""


@pytest.fixture(scope="session")
def without_rhapsode() -> str:
    """The beginning of a program in which `import rhapsode` fails, as on a machine that does not have it."""
    return WITHOUT_RHAPSODE


DERIVATIVE = 1e-5  # central differences in float64: the step squared (1e-8), and rounding over the step (1e-8)
STEP = 3e-7  # along a direction of length about 300
RIGHT, DRAWS = 3, 8


@pytest.fixture(scope="session")
def derivatives():
    """(the slope of `loss()` along a random direction through all of the model's parameters by its gradient, the same
    by central differences); in float64. `is_the_derivative` compares them."""

    def measure(model, loss) -> tuple[float, float]:
        import torch

        model.zero_grad()
        loss().backward()
        directions = [(p, torch.randn_like(p)) for p in model.parameters()]
        slope = sum((p.grad * d).sum() for p, d in directions if p.grad is not None).item()
        losses = []
        with torch.no_grad():
            for step in (STEP, -2 * STEP, STEP):
                for p, d in directions:
                    p += step * d
                losses.append(loss().item())
        return slope, (losses[0] - losses[1]) / (2 * STEP)

    return measure


@pytest.fixture(scope="session")
def is_the_derivative(derivatives):
    """Whether the gradient is right to `DERIVATIVE` in `RIGHT` of up to `DRAWS` draws of a model, its loss (what `make`
    gives) and a direction.

    A step in thirty crosses a kink, which has no derivative; a wrong gradient of one matrix is right by chance in one
    of 600. Six failures of the one or three of the other among eight draws come less than once in a million.
    """

    def check(make) -> bool:
        right = 0
        for draw in range(DRAWS):
            slope, measured = derivatives(*make())
            close = slope == pytest.approx(measured, rel=DERIVATIVE, abs=DERIVATIVE)
            right += close and abs(slope) > 100 * DERIVATIVE  # where nothing depends on the parameters it is 0
            if right == RIGHT or draw - right >= DRAWS - RIGHT:
                break
        return right == RIGHT

    return check


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tokenized text goes into a temporary directory, and not into the cache of whoever runs the tests."""
    from rhapsode.recipes.data import building

    building.DEFAULT_CACHE = str(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def seed() -> int:
    """A fresh seed, with Python's, NumPy's and torch's generators set to it."""
    value = int(os.environ.get("RHAPSODE_TEST_SEED") or secrets.randbelow(2**31))
    print(f"seed: RHAPSODE_TEST_SEED={value}")  # pytest shows it beside the traceback
    import transformers

    transformers.set_seed(value)
    return value
