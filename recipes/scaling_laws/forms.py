"""The laws: loss L in nats per token as a function of N parameters and D training tokens.

    kaplan       L(N, D) = [(Nc / N)^(aN / aD) + Dc / D]^aD        Kaplan et al. 2020, arXiv:2001.08361, equation 1.5
    kaplan_n     L(N) = (Nc / N)^aN, at one D                      the same, equation 1.1
    chinchilla   L(N, D) = E + A / N^alpha + B / D^beta            Hoffmann et al. 2022, arXiv:2203.15556, equation 2

We fit log L. With n = ln(N / N0) and d = ln(D / D0), N0 and D0 the geometric means of the runs,

    kaplan       log L = aD logsumexp((a - aN n) / aD, (b - aD d) / aD),   Nc = N0 e^(a / aN),  Dc = D0 e^(b / aD)
    chinchilla   log L = logsumexp(e, a - alpha n, b - beta d),   E = e^e,  A = e^a N0^alpha,  B = e^b D0^beta

Around N0 and D0 the coefficients a, b are losses that one can read off the runs, hardly correlated with the exponents;
Nc is of the order of 10^13 and swings by powers of ten with the third digit of aN. Exponents are fitted as their
logarithms, which keeps them positive.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

SHARES = (0.3, 0.7)  # starts: of the loss that is not E, how much the model's size is to blame for
EXPONENTS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Kaplan:
    """theta = (a, ln aN, b, ln aD)."""

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = [(Nc/N)^(aN/aD) + Dc/D]^aD"
    internal: ClassVar[tuple[str, ...]] = ("a", "aN", "b", "aD")
    needs: ClassVar[tuple[int, int]] = (3, 2)  # different sizes, different budgets

    def log_loss(self, theta, n, d) -> tuple[np.ndarray, np.ndarray]:
        """(log L of each run, its derivative by theta), shapes (R,) and (R, 4)."""
        a, b, a_n, a_d = theta[0], theta[2], np.exp(theta[1]), np.exp(theta[3])
        x, y = (a - a_n * n) / a_d, b / a_d - d
        log_sum = np.logaddexp(x, y)
        u, v = np.exp(x - log_sum), np.exp(y - log_sum)
        return a_d * log_sum, np.stack([u, -u * n * a_n, v, a_d * (log_sum - u * x) - v * b], axis=-1)

    def starts(self, log_loss: np.ndarray) -> list[tuple[float, ...]]:
        middle = log_loss.mean()
        return [
            (middle + a_d * np.log(share), np.log(a_n), middle + a_d * np.log(1 - share), np.log(a_d))
            for share, a_n, a_d in itertools.product(SHARES, EXPONENTS, EXPONENTS)
        ]

    def coefficients(self, theta, n0: float, d0: float) -> dict[str, float]:
        a, b, a_n, a_d = theta[0], theta[2], np.exp(theta[1]), np.exp(theta[3])
        return {"aN": a_n, "aD": a_d, "Nc": _exp(n0 + a / a_n), "Dc": _exp(d0 + b / a_d)}


@dataclass(frozen=True)
class KaplanN:
    """theta = (a, ln aN): a line through log L over log N."""

    name: ClassVar[str] = "kaplan_n"
    formula: ClassVar[str] = "L = (Nc/N)^aN"
    internal: ClassVar[tuple[str, ...]] = ("a", "aN")
    needs: ClassVar[tuple[int, int]] = (2, 1)

    def log_loss(self, theta, n, d) -> tuple[np.ndarray, np.ndarray]:
        a, a_n = theta[0], np.exp(theta[1])
        return a - a_n * n, np.stack([np.ones_like(n), -a_n * n], axis=-1)

    def starts(self, log_loss: np.ndarray) -> list[tuple[float, ...]]:
        return [(log_loss.mean(), np.log(a_n)) for a_n in EXPONENTS]

    def coefficients(self, theta, n0: float, d0: float) -> dict[str, float]:
        a, a_n = theta[0], np.exp(theta[1])
        return {"aN": a_n, "Nc": _exp(n0 + a / a_n)}


@dataclass(frozen=True)
class Chinchilla:
    """theta = (e, a, ln alpha, b, ln beta)."""

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + A/N^alpha + B/D^beta"
    internal: ClassVar[tuple[str, ...]] = ("e", "a", "alpha", "b", "beta")
    needs: ClassVar[tuple[int, int]] = (3, 3)  # a constant and a power of two budgets explain each other's absence
    irreducible: ClassVar[tuple[float, ...]] = (0.1, 0.4, 0.7, 0.9)  # starts: E as a share of the smallest loss

    def log_loss(self, theta, n, d) -> tuple[np.ndarray, np.ndarray]:
        e, a, b, alpha, beta = theta[0], theta[1], theta[3], np.exp(theta[2]), np.exp(theta[4])
        terms = np.stack([np.full_like(n, e), a - alpha * n, b - beta * d])  # (3, R)
        log_sum = np.logaddexp.reduce(terms)
        u, v, w = np.exp(terms - log_sum)
        return log_sum, np.stack([u, v, -v * n * alpha, w, -w * d * beta], axis=-1)

    def starts(self, log_loss: np.ndarray) -> list[tuple[float, ...]]:
        smallest, middle = np.exp(log_loss.min()), np.exp(log_loss.mean())
        return [
            (np.log(E), *_term((middle - E) * share, alpha), *_term((middle - E) * (1 - share), beta))
            for E in (smallest * part for part in self.irreducible)
            for share, alpha, beta in itertools.product(SHARES, EXPONENTS, EXPONENTS)
        ]

    def off_the_edge(self, theta, log_loss: np.ndarray) -> np.ndarray:
        """The same with an E that can be seen: the derivative by ln E vanishes with E, and nothing leads back."""
        theta = np.array(theta)
        theta[0] = max(theta[0], log_loss.min() + np.log(self.irreducible[0]))
        return theta

    def coefficients(self, theta, n0: float, d0: float) -> dict[str, float]:
        e, a, b, alpha, beta = theta[0], theta[1], theta[3], np.exp(theta[2]), np.exp(theta[4])
        return {
            "E": _exp(e),
            "A": _exp(a + alpha * n0),
            "B": _exp(b + beta * d0),
            "alpha": alpha,
            "beta": beta,
        }


def _term(size: float, exponent: float) -> tuple[float, float]:
    return float(np.log(size)), float(np.log(exponent))


def _exp(x: float) -> float:
    """Without overflow: the end of an interval of Nc can lie beyond all numbers."""
    return float(np.exp(min(x, 700.0)))


LAWS = {law.name: law for law in (Chinchilla(), Kaplan(), KaplanN())}


def compute_optimal(coefficients: dict[str, float], flops: float) -> tuple[float, float] | None:
    """(N, D) of the least loss by the Chinchilla form at C = 6 N D: equation 4 of Hoffmann et al.

    None where there is none: runs whose loss hardly depends on N or D give an exponent of 0.
    """
    A, B, alpha, beta = (coefficients[name] for name in ("A", "B", "alpha", "beta"))
    if min(alpha * A, beta * B, alpha, beta) <= 0:
        return None
    log_n = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B) + beta * np.log(flops / 6)) / (alpha + beta)
    if not 0 <= log_n <= np.log(flops / 6):  # less than one parameter, or less than one token
        return None
    return float(np.exp(log_n)), float(flops / 6 / np.exp(log_n))
