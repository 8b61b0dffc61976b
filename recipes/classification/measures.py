"""What held-out labels say of a classifier, beside the answer that needs no text.

    one class     accuracy; F1 of the second of two classes, or the mean over more; Matthews' correlation; confusion
    several       rows with every label right; F1 over all decisions; the mean of the labels' F1
    numbers       Pearson's and Spearman's correlation, mean squared error

By scikit-learn and scipy. A correlation with something constant does not exist and is given as 0.
"""

import warnings

import numpy as np
from scipy import stats
from sklearn import metrics

from ..options.classify import MULTI, REGRESSION, SINGLE
from .labels import Labels


def decide(logits: np.ndarray, labels: Labels) -> np.ndarray:
    """The answer to each row, in the form in which its label is encoded: the most likely class, or labels above 1/2."""
    if labels.problem_type == REGRESSION:
        return logits[:, 0]
    return logits.argmax(-1) if labels.problem_type == SINGLE else (logits > 0).astype(np.int64)


def measure(truth, answers, labels: Labels) -> dict[str, float]:
    """The figures of the answers; both as `Labels.encode` gives them."""
    truth, answers = np.asarray(truth), np.asarray(answers)
    if labels.problem_type == REGRESSION:
        found = {
            "pearson": _correlation(stats.pearsonr, truth, answers),
            "spearman": _correlation(stats.spearmanr, truth, answers),
            "mse": metrics.mean_squared_error(truth, answers),
        }
    elif labels.problem_type == MULTI:
        averages = {f"f1_{a}": metrics.f1_score(truth, answers, average=a, zero_division=0) for a in ("micro", "macro")}
        found = {"accuracy": metrics.accuracy_score(truth, answers), **averages}
    else:
        which = {"average": "binary"} if labels.outputs == 2 else {"average": "macro"}
        found = {
            "accuracy": metrics.accuracy_score(truth, answers),
            "f1": metrics.f1_score(truth, answers, zero_division=0, **which),
            "matthews_correlation": metrics.matthews_corrcoef(truth, answers),
        }
    return {name: float(value) for name, value in found.items()}


def constant_answer(train, count: int, labels: Labels) -> np.ndarray:
    """What is best said without reading: the commonest class, the labels that most rows have, the mean."""
    train = np.asarray(train)
    if labels.problem_type == REGRESSION:
        best = train.mean()
    elif labels.problem_type == MULTI:
        best = (train.mean(0) > 0.5).astype(np.int64)
    else:
        best = np.bincount(train, minlength=labels.outputs).argmax()
    return np.stack([best] * count)


def confusion(truth, answers, labels: Labels) -> dict | None:
    """`names`, and `counts` with a row for each true class and a column for each answer."""
    if labels.problem_type != SINGLE:
        return None
    counts = metrics.confusion_matrix(truth, answers, labels=range(labels.outputs))
    return {"names": list(labels.names), "counts": counts.tolist()}


def _correlation(function, truth: np.ndarray, answers: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        value = function(truth, answers).statistic if len(truth) > 1 else np.nan
    return value if np.isfinite(value) else 0.0
