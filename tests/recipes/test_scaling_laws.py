"""The laws and their fits, on losses whose law is known."""

import numpy as np
import pytest
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.scaling_laws.fitting import HUBER_DELTA, _objective, error_on_largest, fit
from rhapsode.recipes.scaling_laws.forms import LAWS, compute_optimal
from scipy.optimize import approx_fprime, least_squares, minimize_scalar

N, D = (x.ravel() for x in np.meshgrid([6e4, 1.2e5, 2.4e5, 4.8e5], [2e5, 4e5, 8e5, 1.6e6]))
LARGER = 2e6, 1.6e6  # a held-out run, four times the largest
TRUE = {
    "chinchilla": {"E": 1.5, "A": 250.0, "B": 400.0, "alpha": 0.45, "beta": 0.4},
    "kaplan": {"aN": 0.1, "aD": 0.12, "Nc": 1e10, "Dc": 3e9},
    "kaplan_n": {"aN": 0.1, "Nc": 1e10},
}
# L-BFGS stops where the objective, in units of delta squared, no longer falls by 1e-10 of itself.
EXACT = 1e-4
NOISE = 0.004  # of log L; seeds change a small model's loss by about as much
# Forward differences with a step of 1e-7 of quantities around 1.
DERIVATIVE_TOLERANCE = 1e-5


def true_loss(name, N, D):
    c = TRUE[name]
    if name == "chinchilla":
        return c["E"] + c["A"] / N ** c["alpha"] + c["B"] / D ** c["beta"]
    if name == "kaplan":
        return ((c["Nc"] / N) ** (c["aN"] / c["aD"]) + c["Dc"] / D) ** c["aD"]
    return (c["Nc"] / N) ** c["aN"]


def noisy(name, seed, noise=NOISE):
    return true_loss(name, N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))


@pytest.mark.parametrize("name", LAWS)
def test_derivatives(name, seed):
    law, generator = LAWS[name], np.random.default_rng(seed)
    theta, n, d = generator.normal(0, 0.5, len(law.internal)), np.array([-1.0, 0.3, 2.0]), np.array([0.5, -1.0, 0.1])
    numeric = [approx_fprime(theta, lambda t, i=i: law.log_loss(t, n, d)[0][i], 1e-7) for i in range(3)]
    np.testing.assert_allclose(law.log_loss(theta, n, d)[1], numeric, atol=DERIVATIVE_TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_exact_losses_give_the_coefficients_back(name):
    fitted = fit(LAWS[name], N, D, true_loss(name, N, D), bootstrap_samples=1)
    found = {key: c["value"] for key, c in fitted.coefficients().items()}
    # Nc and Dc are exponentials of coefficients over exponents: their logarithms are what is determined.
    assert found.keys() == TRUE[name].keys()
    for key, value in TRUE[name].items():
        assert np.log(found[key]) == pytest.approx(np.log(value), rel=100 * EXACT, abs=100 * EXACT), key
    assert fitted.predict(*LARGER) == pytest.approx(true_loss(name, *LARGER), rel=EXACT)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_the_largest_run_tells_the_laws_apart(name, seed):
    """Whichever of the two made the losses foretells the largest of them from the others, and the other does not."""
    loss = noisy(name, seed, noise=1e-5)
    errors = {law: error_on_largest(LAWS[law], N, D, loss) for law in ("chinchilla", "kaplan")}
    assert min(errors, key=errors.get) == name
    assert errors[name] < 1e-3
    changed = loss.copy()
    changed[-1] *= 1.1  # it is the largest; the error is that of this run, and its loss is not in the fit
    assert error_on_largest(LAWS[name], N, D, changed) == pytest.approx(np.log(1.1), abs=1e-3)


@pytest.mark.parametrize("name", LAWS)
def test_noisy_losses(name, seed):
    """The prediction four times beyond the fit is off by a few times the noise, and the noise is found."""
    fitted = fit(LAWS[name], N, D, noisy(name, seed), bootstrap_samples=1)
    assert fitted.predict(*LARGER) == pytest.approx(true_loss(name, *LARGER), rel=15 * NOISE)
    assert NOISE / 100 < fitted.noise < 4 * NOISE  # kaplan_n has two degrees of freedom: small ones are not rare


def test_the_minimum_is_found(seed):
    """Not above what another optimizer, started at the truth, reaches on the same objective."""
    law, loss = LAWS["chinchilla"], noisy("chinchilla", seed)
    n, d = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean()
    c = TRUE["chinchilla"]
    a, b = c["A"] / np.exp(np.log(N).mean() * c["alpha"]), c["B"] / np.exp(np.log(D).mean() * c["beta"])
    start = np.log([c["E"], a, c["alpha"], b, c["beta"]])
    other = least_squares(
        lambda t: (law.log_loss(t, n, d)[0] - np.log(loss)) / HUBER_DELTA, start, loss="huber", max_nfev=2000
    )
    ours = fit(law, N, D, loss, bootstrap_samples=1)
    value = _objective(ours.theta, law, n, d, np.log(loss))[0]
    assert value <= other.cost * 1.01
    assert value < _objective(start, law, n, d, np.log(loss))[0]


def test_one_bad_run_does_not_matter(seed):
    """A run that is half as bad again pulls squares by tens of per cent, and the Huber loss hardly."""
    loss = true_loss("chinchilla", N, D)
    loss[np.random.default_rng(seed).integers(len(loss))] *= 1.5
    fitted = fit(LAWS["chinchilla"], N, D, loss, bootstrap_samples=1)
    assert fitted.predict(*LARGER) == pytest.approx(true_loss("chinchilla", *LARGER), rel=3e-3)


def coverage(name, confidence, fits, bootstrap_samples, seed):
    """The share of intervals that hold the exponent, and of those that hold the loss of a new run."""
    generator, held = np.random.default_rng(seed), np.zeros(2)
    exponent = next(key for key in TRUE[name] if key in ("alpha", "aN"))
    for _ in range(fits):
        fitted = fit(LAWS[name], N, D, noisy(name, generator.integers(2**31)), bootstrap_samples)
        c = fitted.coefficients(confidence)[exponent]
        low, high = fitted.interval(*LARGER, confidence)
        new = true_loss(name, *LARGER) * np.exp(NOISE * generator.standard_normal())
        held += [c["low"] <= TRUE[name][exponent] <= c["high"], low <= new <= high]
    return held / fits


@pytest.mark.slow
def test_intervals_cover(seed):
    """Of 90% intervals from four runs, with two degrees of freedom, about 90% hold; those of a normal hold 76%."""
    fits = 100
    exponent, new_run = coverage("kaplan_n", 0.9, fits, 40, seed)
    four_deviations = 4 * (0.9 * 0.1 / fits) ** 0.5
    assert abs(exponent - 0.9) < four_deviations
    assert abs(new_run - 0.9) < four_deviations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_intervals_of_curved_laws_cover(name, seed):
    fits = 100
    exponent, new_run = coverage(name, 0.8, fits, 100, seed)
    four_deviations = 4 * (0.8 * 0.2 / fits) ** 0.5
    assert abs(exponent - 0.8) < four_deviations
    assert abs(new_run - 0.8) < four_deviations


def test_the_interval_is_reproducible_and_holds_the_prediction(seed):
    loss = noisy("kaplan", seed)
    one, other = (fit(LAWS["kaplan"], N, D, loss, bootstrap_samples=40, seed=7) for _ in range(2))
    assert one.interval(*LARGER) == other.interval(*LARGER)
    low, high = one.interval(*LARGER)
    assert low < one.predict(*LARGER) < high


def test_kaplan_without_end_of_data_is_a_power_of_size():
    law, theta = LAWS["kaplan"], np.log([np.exp(1.2), 0.1, np.exp(1.0), 0.12])
    n = np.array([-1.0, 0.0, 2.0])
    endless = law.log_loss(theta, n, np.full(3, 1e3))[0]
    np.testing.assert_allclose(endless, 1.2 - 0.1 * n, atol=1e-12)


def test_kaplan_n_takes_the_largest_budget():
    loss = true_loss("kaplan_n", N, D) * np.where(D.max() == D, 1.0, 2.0)
    fitted = fit(LAWS["kaplan_n"], N, D, loss, bootstrap_samples=1)
    assert fitted.predict(*LARGER) == pytest.approx(true_loss("kaplan_n", *LARGER), rel=EXACT)


def test_compute_optimal():
    """The closed form against a search over N."""
    flops = 1e13
    best_n, best_d = compute_optimal(TRUE["chinchilla"], flops)
    searched = minimize_scalar(
        lambda n: true_loss("chinchilla", np.exp(n), flops / 6 / np.exp(n)), bounds=(5, 25), method="bounded"
    )
    assert best_n == pytest.approx(np.exp(searched.x), rel=1e-3)
    assert 6 * best_n * best_d == pytest.approx(flops)
    assert compute_optimal(TRUE["chinchilla"] | {"alpha": 0.0}, flops) is None


@pytest.mark.parametrize("name", LAWS)
def test_losses_that_depend_on_nothing(name):
    """No law is to be found, and none fails: the prediction is the loss that all runs have."""
    fitted = fit(LAWS[name], N, D, np.full(len(N), 3.0), bootstrap_samples=20)
    assert fitted.predict(*LARGER) == pytest.approx(3.0, rel=0.01)
    assert all(np.isfinite(list(c.values())).all() for c in fitted.coefficients().values())


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        ("chinchilla", D < 5e5, "4 sizes and 2 token budgets are too few for the chinchilla law"),
        ("chinchilla", N < 2e5, "3 budgets or more"),
        ("kaplan", N.max() == N, "it takes 5 runs of 3 sizes and 2 budgets"),
        ("kaplan_n", N < 2e5, "2 runs of 2 sizes and 1 token budgets are too few"),
    ],
)
def test_too_few_runs_are_refused(name, chosen, expected):
    loss = true_loss(name, N, D)
    with pytest.raises(UserError, match=expected):
        fit(LAWS[name], N[chosen], D[chosen], loss[chosen])
