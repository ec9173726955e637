"""The cut of each image and prompt, from its own scores: no number set by hand for a whole data set."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that a threshold is checked without NumPy
    from numpy.typing import ArrayLike

ADAPTIVE = "adaptive"
"""What to give as a threshold for a cut per image and prompt."""

LOWEST, HIGHEST, USUAL, PULL = 0.02, 0.3, 0.15, 0.4
"""Range of the cut, where it lies without a clear gap, and how much wider a gap must be for each factor of e away from there."""


def adaptive_threshold(scores: "ArrayLike") -> float:
    """The score to cut at in one image for one prompt: in the widest gap between neighbouring scores.

    Gaps are measured on a log scale, less `PULL` times their distance from `USUAL`, and lie between `LOWEST` and `HIGHEST`.

    Args:
        scores: (N,) of all detections without duplicates, strongest first, 0 to 1; N may be 0.

    Raises:
        ValueError: scores that are not (N,) or do not fall.

    Choice: how sure the model is differs between kinds: look-alikes of a clicked coin score 0.1, and nothing else 0.02. `USUAL`
    and `PULL` were chosen on two training images of each source, by the F1 of what was not clicked. On validation images of the
    seen sources a fixed 0.2 is better: `thresholds_now_nano.json` in `data/results`.

    >>> scores = [0.9, 0.16, 0.12, 0.1, 0.02, 0.018]  # the widest gap is from 0.1 to 0.02
    >>> round(adaptive_threshold(scores), 4)  # the root of 0.1 x 0.02
    0.0447
    """
    import numpy as np

    scores = np.asarray(scores)
    if scores.ndim != 1 or (np.diff(scores) > 0).any():
        raise ValueError(f"scores: expected (N,), strongest first, got {scores.shape} {scores.flatten()[:5].tolist()}")
    logs = np.log(scores[scores >= LOWEST / 2].astype(np.float64))
    gaps, cuts = logs[:-1] - logs[1:], (logs[:-1] + logs[1:]) / 2
    inside = (cuts >= math.log(LOWEST)) & (cuts <= math.log(HIGHEST))
    if not inside.any():
        return USUAL
    worth = gaps - PULL * np.abs(cuts - math.log(USUAL))
    return math.exp(float(cuts[np.where(inside, worth, -math.inf).argmax()]))


def check_threshold(threshold: float | str) -> float | str:
    """`threshold` itself if it is a score or `ADAPTIVE`.

    Raises:
        ValueError: anything else.

    >>> check_threshold(0.3), check_threshold("adaptive")
    (0.3, 'adaptive')
    """
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1
    if number or threshold == ADAPTIVE:
        return threshold
    raise ValueError(f"threshold: expected a score, 0 to 1, or {ADAPTIVE!r}, got {threshold!r}")
