"""Fitting a law to runs, and how sure one may be of it.

    theta = argmin sum over runs of Huber(log L(theta; N, D) - log L)

from many starts by L-BFGS, as Hoffmann et al. 2022 (arXiv:2203.15556, approach 3) do it, with their delta of 10^-3.
Besiroglu et al. 2024 (arXiv:2404.10102) found that the published coefficients are not the optimum: the optimizer had
stopped too early, on a mean of squares so small that the tolerance was above it. Our objective is a sum in units of
delta^2, and the derivatives are exact.

Intervals come from a parametric bootstrap: noise is added to the fitted losses, the law is fitted again, many times.
Resampling the runs, as both papers do, needs hundreds of them: of a dozen, many resamples lack a size or a budget. The
deviation of the noise is that of the residuals over R - P degrees of freedom and is itself uncertain: each sample draws
it from its own chi-square distribution, which for a linear law gives exactly the intervals of Student's t.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from ..options.base import UserError
from .forms import Chinchilla, KaplanN

HUBER_DELTA = 1e-3
FOLLOWED = 8  # of all starts: those that fit best
TOLERANCE = {"maxiter": 500, "ftol": 1e-10, "gtol": 1e-6}
RESAMPLING = {"maxiter": 60}  # near the optimum already; 500 give the same intervals and take four times as long
RIDGE = 1e-8  # of the largest curvature: what the runs do not determine moves freely, but not infinitely


@dataclass
class Fit:
    """A fitted law; `samples` are the bootstrap's thetas, (S, P), and `deviations` their noise in log L, (S,)."""

    law: object
    theta: np.ndarray
    n0: float
    d0: float
    samples: np.ndarray
    deviations: np.ndarray
    residuals: np.ndarray
    seed: int

    @property
    def noise(self) -> float:
        """Standard deviation of log L around the law: about the relative error of one run's loss."""
        return float(np.sqrt((self.residuals**2).sum() / (len(self.residuals) - len(self.theta))))

    def predict(self, N, D) -> np.ndarray:
        return np.exp(self._log_loss(self.theta, N, D))

    def interval(self, N: float, D: float, confidence: float = 0.95) -> tuple[float, float]:
        """Where the loss of one more run is expected: the uncertainty of the law and the noise of the run."""
        expected = np.array([self._log_loss(theta, N, D) for theta in self.samples])
        generator = np.random.default_rng([self.seed, 1])
        return _quantiles(np.exp(expected + self.deviations * generator.standard_normal(len(expected))), confidence)

    def coefficients(self, confidence: float = 0.95) -> dict[str, dict[str, float]]:
        """The paper's coefficients by name: `value`, `low` and `high`."""
        value = self.law.coefficients(self.theta, self.n0, self.d0)
        drawn = [self.law.coefficients(theta, self.n0, self.d0) for theta in self.samples]
        intervals = {name: _quantiles([sample[name] for sample in drawn], confidence) for name in value}
        return {k: {"value": float(v), "low": intervals[k][0], "high": intervals[k][1]} for k, v in value.items()}

    def _log_loss(self, theta, N, D) -> np.ndarray:
        n, d = np.log(np.asarray(N, float)) - self.n0, np.log(np.asarray(D, float)) - self.d0
        return self.law.log_loss(theta, *np.broadcast_arrays(n, d))[0]


def fit(law, N, D, loss, bootstrap_samples: int = 200, seed: int = 0) -> Fit:
    """The law that fits runs of N parameters and D tokens best; `kaplan_n` takes those of the largest D.

    Raises:
        UserError: too few runs, sizes or budgets for the law's coefficients.
    """
    N, D, loss = (np.asarray(values, float) for values in (N, D, loss))
    if isinstance(law, KaplanN):
        N, D, loss = (values[D.max() == D] for values in (N, D, loss))
    check_enough(law, N, D)
    n0, d0 = np.log(N).mean(), np.log(D).mean()
    n, d, target = np.log(N) - n0, np.log(D) - d0, np.log(loss)
    theta = _best(law, n, d, target)
    fitted = law.log_loss(theta, n, d)[0]
    residuals, freedom = target - fitted, len(target) - len(theta)
    generator = np.random.default_rng([seed, 0])
    squares = (residuals**2).sum() / generator.chisquare(freedom, bootstrap_samples)
    deviations = np.sqrt(squares)
    noise = deviations[:, None] * generator.standard_normal((bootstrap_samples, len(target)))
    starts = [theta, law.off_the_edge(theta, fitted)] if isinstance(law, Chinchilla) else [theta]
    samples = np.array([_lowest(law, starts, n, d, fitted + row)[1] for row in noise])
    return Fit(law, theta, n0, d0, samples, deviations, residuals, seed)


def error_on_largest(law, N, D, loss) -> float:
    """|log L predicted - log L| of the run of the most parameters times tokens, by the law fitted to all others.

    By this, and not by its residuals, a law is chosen that is to extrapolate. Small models are far from the loss that
    none goes below; the form that spends a coefficient on it lies as close to the runs and goes astray beyond them.
    """
    N, D, loss = (np.asarray(values, float) for values in (N, D, loss))
    largest = (N * D).argmax()
    others = [np.delete(values, largest) for values in (N, D, loss)]
    fitted = fit(law, *others, bootstrap_samples=1)
    return float(abs(np.log(fitted.predict(N[largest], D[largest]) / loss[largest])))


def check_enough(law, N, D) -> None:
    sizes, budgets = law.needs
    runs = len(law.internal) + 1
    if len(N) < runs or len(set(N)) < sizes or len(set(D)) < budgets:
        raise UserError(
            f"{len(N)} runs of {len(set(N))} sizes and {len(set(D))} token budgets are too few for the {law.name} law "
            f"{law.formula}; it takes {runs} runs of {sizes} sizes and {budgets} budgets or more"
        )


def _best(law, n, d, target) -> np.ndarray:
    """The lowest of the minima that the starts lead to."""
    starts = sorted(law.starts(target), key=lambda theta: _objective(theta, law, n, d, target)[0])
    return _minimize(law, _lowest(law, starts[:FOLLOWED], n, d, target)[1], n, d, target)[1]


def _lowest(law, starts, n, d, target) -> tuple[float, np.ndarray]:
    reached = [_minimize(law, start, n, d, target, RESAMPLING) for start in starts]
    return min(reached, key=lambda result: result[0])


def _minimize(law, start, n, d, target, options=TOLERANCE) -> tuple[float, np.ndarray]:
    """(objective, theta) of the minimum that `start` leads to.

    In coordinates in which the Gauss-Newton curvature at the start is a sphere: E, A and alpha pull in nearly the same
    direction, and along such a valley L-BFGS alone creeps.
    """
    start = np.asarray(start, float)
    jacobian = law.log_loss(start, n, d)[1] / HUBER_DELTA
    curvature, axes = np.linalg.eigh(jacobian.T @ jacobian)
    axes = axes / np.sqrt(curvature.clip(min=RIDGE * curvature.max()))

    def objective(z):
        value, gradient = _objective(start + axes @ z, law, n, d, target)
        return value, axes.T @ gradient

    with np.errstate(over="ignore", invalid="ignore"):  # a line search may try what no number can hold
        result = minimize(objective, np.zeros(len(start)), jac=True, method="L-BFGS-B", options=options)
    return result.fun, start + axes @ result.x


def _objective(theta, law, n, d, target) -> tuple[float, np.ndarray]:
    """The sum of Huber(residual) / delta^2, and its gradient."""
    log_loss, jacobian = law.log_loss(theta, n, d)
    r = (log_loss - target) / HUBER_DELTA
    size = np.abs(r)
    value = np.where(size <= 1, 0.5 * r**2, size - 0.5).sum()
    return value, np.clip(r, -1, 1) @ jacobian / HUBER_DELTA


def _quantiles(values, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return float(low), float(high)
