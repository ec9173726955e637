"""The cut of each image and prompt, from its own scores: no number set by hand for a whole data set."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that a threshold is checked without NumPy
    from numpy.typing import ArrayLike

ADAPTIVE = "adaptive"
"""What to give as a threshold for a cut per image and prompt."""

LOWEST, SHARE = 0.04, 0.5
"""Least cut, and the cut as a share of the usual score of what is found."""


def adaptive_threshold(scores: "ArrayLike") -> float:
    """The score to cut at in one image for one prompt: half of the usual score of what is found, `LOWEST` at least.

    The usual score is the mean, weighted by the cube of the scores: many weak detections hardly lower it.

    Args:
        scores: (N,) of all detections without duplicates, 0 to 1; N may be 0.

    Raises:
        ValueError: scores that are not (N,).

    Choice: how sure the model is differs between kinds: other coins than the clicked one score 0.1, in a kind it knows they score
    0.6. Chosen on two training images of each source, by the F1 of what was not clicked; of shares whose F1 is within a point of
    the best, the least, since kinds that it was not trained on score lower. `thresholds_nano.json` in `data/results` sets the
    rule beside fixed thresholds.

    >>> round(adaptive_threshold([0.2, 0.2, 0.01]), 3)  # the usual score is 0.2
    0.1
    """
    import numpy as np

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores: expected (N,), got {scores.shape}")
    cubes = scores**3
    return max(LOWEST, SHARE * float(cubes @ scores) / float(cubes.sum())) if cubes.any() else LOWEST


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
