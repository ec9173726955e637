"""Template matching: what looks like the clicked object, by correlation, without a detector.

`P` examples of a prompt, xyxy pixels of the original image. The method is shown the box of the clicked object, or the click
alone with `estimate_box`. It needs nothing but scikit-image.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from skimage.feature import match_template, peak_local_max
from skimage.transform import AffineTransform, warp
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from dealkit.boxes import to_xyxy
from dealkit.predict.detections import Detections

Array = np.ndarray

SCALES = (1.0,)
"""Sizes of the template relative to the example. Choice: on training images of the real sources a template that is also scaled
and turned finds more false matches than objects."""

TURNS = 1
"""Rotations of the template, equally spaced: 4 for quarter turns, 8 for eighth turns. Choice: as `SCALES`."""

MARGIN = 0.25
"""What the template shows around the example, as a share of its sides: without an edge a spot of a few pixels looks like any."""

LEAST = 0.3
"""Correlations under it are never written."""

OVERLAP = 0.3
"""IoU above which the weaker of two matches is dropped."""

SIDES = (4, 6, 8, 11, 16, 23, 32, 45, 64)
"""Sides in pixels that `estimate_box` chooses from, half an octave apart."""


def match_box(
    image: Tensor,
    boxes: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    turns: int = TURNS,
    margin: float = MARGIN,
    least: float = LEAST,
    overlap: float = OVERLAP,
    max_dets: int = 1500,
) -> Detections:
    """Everything that looks like one of the examples, by normalised cross-correlation of grey values.

    Local maxima of the correlation with each example, turned and scaled, become boxes of its size; of those that overlap the
    strongest stays. The score is the correlation; the examples themselves have 1.

    Args:
        image: (3, H, W) uint8. boxes: (P, 4) xyxy pixels. max_dets: most boxes returned.
        scales, turns, margin, least, overlap: see `SCALES`, `TURNS`, `MARGIN`, `LEAST`, `OVERLAP`.

    Choice: grey values; colour costs fourteen times as much. A template under 3 px or without contrast is passed over.

    >>> image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    >>> for x in (5, 30, 50):
    ...     image[:, 10:16, x : x + 6] = 200
    >>> match_box(image, torch.tensor([[5.0, 10.0, 11.0, 16.0]])).above(0.9).boxes[:, 0].sort().values
    tensor([ 5., 30., 50.])
    """
    height, width = image.shape[-2:]
    grey = to_grey(image)
    found, scores = [boxes.float().reshape(-1, 4)], [torch.ones(len(boxes))]
    for box in boxes.tolist():
        for turn in range(turns):
            for scale in scales:
                template, size_wh = cut_template(grey, box, angle=2 * np.pi * turn / turns, scale=scale, margin=margin)
                if min(template.shape) < 3 or template.shape[0] > height or template.shape[1] > width or np.ptp(template) < 1e-3:
                    continue
                response = match_template(grey, template)
                options = {"min_distance": 1, "threshold_abs": least, "exclude_border": False, "num_peaks": 2 * max_dets}
                peaks = peak_local_max(response, **options)
                centre = peaks[:, ::-1] + np.array(template.shape[::-1]) / 2  # x, y
                half = np.array(size_wh) / 2
                found.append(torch.from_numpy(np.concatenate([centre - half, centre + half], 1)).float())
                scores.append(torch.from_numpy(response[tuple(peaks.T)]).float())
    every, score = clip_boxes_to_image(torch.cat(found), (height, width)), torch.cat(scores).clamp(max=1.0)
    keep = nms(every, score, overlap)[:max_dets]
    return Detections(boxes=every[keep], scores=score[keep], image=image)


def cut_template(
    grey: Array, box: Sequence[float], *, angle: float = 0.0, scale: float = 1.0, margin: float = 0.0
) -> tuple[Array, tuple[float, float]]:
    """An example as a template: what `grey` (H, W) shows in the box and its margin, turned by `angle` radians and scaled.

    Returns:
        the template (h, w), and width and height of the turned and scaled object in it, pixels.

    Choice: a turned object has the size of the ellipse in its box, turned: right at quarter turns, and for round objects at all.

    >>> grey = np.arange(48, dtype=np.float32).reshape(6, 8)
    >>> template, size_wh = cut_template(grey, [2, 1, 5, 3])
    >>> bool((template == grey[1:3, 2:5]).all()), size_wh
    (True, (3.0, 2.0))
    """
    x1, y1, x2, y2 = box
    w, h, cos, sin = x2 - x1, y2 - y1, np.cos(angle), np.sin(angle)
    size = scale * np.hypot(w * cos, h * sin), scale * np.hypot(w * sin, h * cos)
    # an even number of pixels of margin, so that a box on whole pixels is cut out, not interpolated
    shape = [max(round(float(side)), 1) + 2 * round(float(margin * side)) for side in size[::-1]]
    centre = AffineTransform(translation=(-(shape[1] - 1) / 2, -(shape[0] - 1) / 2))
    turned = AffineTransform(rotation=-angle, scale=1 / scale)
    back = AffineTransform(translation=((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2))
    template = warp(grey, centre + turned + back, output_shape=shape, order=1, mode="edge", preserve_range=True)
    return template.astype(np.float32), (float(size[0]), float(size[1]))


def estimate_box(image: Tensor, point: Sequence[float], sides: Sequence[float] = SIDES) -> Tensor:
    """What a click alone says about the box: the square round it whose inside differs most from what surrounds it.

    Inside is compared with the ring out to √2 times the side, which has the same area, by mean colour: the side with the largest
    difference (sum over channels) times its root is taken, of equal ones the smallest.

    Args:
        image: (3, H, W) uint8. point: x, y pixels.

    Returns:
        (4,) xyxy, clipped to the image.

    Choice: the centre-surround rule of blob detectors; the root keeps it from taking texture for objects.

    >>> image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    >>> image[:, 22:38, 22:38] = 255
    >>> estimate_box(image, [30, 30])
    tensor([22., 22., 38., 38.])
    """
    centre, total = torch.tensor([list(point)], dtype=torch.float64), summed(image)

    def contrast(side: float) -> float:
        (inner, area), (outer, whole) = square_sums(total, centre, side), square_sums(total, centre, side * 2**0.5)
        if not area or whole <= area:
            return 0.0
        return side**0.5 * float((inner / area - (outer - inner) / (whole - area)).abs().sum())

    best = torch.full((1, 2), float(max(sides, key=contrast)))
    return clip_boxes_to_image(to_xyxy(torch.cat([centre.float(), best], dim=1)), tuple(image.shape[-2:]))[0]


def summed(image: Tensor) -> Tensor:
    """Sums of an image (C, H, W) from its corner on, (C, H + 1, W + 1) float64, for `square_sums`."""
    return F.pad(image.double().cumsum(1).cumsum(2), (1, 0, 1, 0))


def square_sums(total: Tensor, points: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Sum of colours (C, N) and number of pixels (N,) of the squares round `points` (N, 2) xy, cut off at the border.

    >>> square_sums(summed(torch.ones(1, 8, 8)), torch.tensor([[4.0, 4.0], [0.0, 4.0]]), 4)[0]
    tensor([[16.,  8.]], dtype=torch.float64)
    """
    size_wh = torch.tensor([total.shape[2] - 1, total.shape[1] - 1], device=points.device)
    (x1, y1), (x2, y2) = ((points + by).round().long().clamp(size_wh * 0, size_wh).T for by in (-side / 2, side / 2))
    return total[:, y2, x2] - total[:, y1, x2] - total[:, y2, x1] + total[:, y1, x1], (x2 - x1) * (y2 - y1)


def to_grey(image: Tensor) -> Array:
    """(3, H, W) uint8 -> (H, W) float32 luma, 0 to 1 (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    return (torch.einsum("chw,c->hw", image.float(), weights) / 255).numpy()
