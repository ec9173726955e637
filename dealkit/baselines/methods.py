"""Learning a detector from incomplete labels: one method for each kind, as a change of the labels of a batch.

Each is the plainest form that keeps the idea of its paper; the averaged model of the training loop is the teacher. Before
`teacher_start` of the schedule the labels are taken as they are. What comes in, and how unlabelled images and points are
written down, says `dealkit.baselines.detector`.

| labels | method |
|---|---|
| boxes off by a share of their size | `label_correction` |
| a few images labelled, the others not | `mean_teacher` |
| a few boxes of each image | `mining` |
| centre points | `point_teacher` |
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou, clip_boxes_to_image

from dealkit.baselines.detector import Detector, Hook, Objects, fit_detector, unlabelled
from dealkit.boxes import to_cxcywh, to_xyxy
from dealkit.config import DetectorRun, MethodConfig
from dealkit.predict.detections import Detections

NEAR = 0.3
"""IoU from which a box of the teacher is about the same object as a label. Choice: a tiny box that is 40 % of its size off has
0.3 or so with the true one."""

PART = 0.5
"""Share of a box that lies in another, see `shared`, from which the two are one object, or one is a part of the other."""

SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Sides in pixels among which the size of an object round a point is chosen."""


def label_correction(target: Objects, found: Detections) -> Objects:
    """Each label moves towards the mean of the teacher's boxes near it, weighted by score, as far as the best of them is sure.

    With best score s: (1 - s) x label + s x mean. A label with nothing near it stays.

    Source: DN-TOD, arXiv 2401.08056, regenerates boxes from predictions and labels. Choice: without its correction of classes,
    since the regime moves boxes only, and in place of its reweighting of samples by the trend of their losses the score.

    >>> label = Objects(boxes=torch.tensor([[0.0, 0.0, 10.0, 10.0]]), labels=torch.tensor([0]), crowd=torch.zeros(0, 4))
    >>> found = Detections(boxes=torch.tensor([[4.0, 0.0, 14.0, 10.0]]), scores=torch.tensor([0.5]))  # IoU 60 / 140
    >>> label_correction(label, found).boxes
    tensor([[ 2.,  0., 12., 10.]])
    """
    if not len(target.boxes) or not len(found):
        return target
    weight = torch.where(box_iou(target.boxes, found.boxes) >= NEAR, found.scores, 0.0)  # (N, D)
    mean = weight @ found.boxes / weight.sum(1, keepdim=True).clamp(min=1e-6)
    sure = weight.amax(1, keepdim=True)
    return replace(target, boxes=(1 - sure) * target.boxes + sure * mean)


def shared(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) intersection of xyxy boxes (N, 4) and (M, 4), as a share of the smaller of the two: 1 where one holds the other.

    >>> shared(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 0.0, 10.0, 8.0], [1.0, 1.0, 3.0, 3.0]]))
    tensor([[0.5000, 1.0000]])
    """
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    return (high - low).clamp(min=0).prod(2) / torch.minimum(box_area(a)[:, None], box_area(b)).clamp(min=1e-6)


def add_labels(target: Objects, found: Detections, *, high: float, low: float) -> Objects:
    """The teacher's boxes from a score of `high` on as further labels, those from `low` on as regions that are ignored; none that
    shares half of its area, or of the other's, with a label or with a stronger box of the teacher.

    Choice: of the area, since a detector also finds parts of an object, which overlap it little; as labels they teach that large
    objects are many small ones.

    >>> nothing = Objects(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), crowd=torch.zeros(0, 4))
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0], [9.0, 9.0, 12.0, 12.0], [20.0, 0.0, 24.0, 4.0]])
    >>> made = add_labels(nothing, Detections(boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.3, 0.1])), high=0.5, low=0.2)
    >>> made.boxes.tolist(), made.crowd.tolist()
    ([[0.0, 0.0, 4.0, 4.0]], [[9.0, 9.0, 12.0, 12.0]])
    """
    new = found.scores >= low
    if len(target.boxes) and len(found):
        new &= shared(found.boxes, target.boxes).amax(1) < PART
    rows = new.nonzero()[:, 0]  # strongest first
    hidden = shared(found.boxes[rows], found.boxes[rows]) >= PART
    kept: list[int] = []
    for k in range(len(rows)):
        if not hidden[k, kept].any():
            kept.append(k)
    rows = rows[kept]
    label, doubt = rows[found.scores[rows] >= high], rows[found.scores[rows] < high]
    classes = torch.zeros(len(found), dtype=torch.int64, device=new.device) if found.classes is None else found.classes
    return Objects(
        boxes=torch.cat([target.boxes, found.boxes[label]]),
        labels=torch.cat([target.labels, classes[label]]),
        crowd=torch.cat([target.crowd, found.boxes[doubt]]),
    )


def labelled_score(targets: list[Objects], found: list[Detections]) -> float | None:
    """Median over the labels of the best score that the teacher gives a box on them; None where it has none.

    >>> target = Objects(boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]]), labels=torch.tensor([0]), crowd=torch.zeros(0, 4))
    >>> labelled_score([target], [Detections(boxes=target.boxes, scores=torch.tensor([0.25]))])
    0.25
    """
    best = []
    for target, of_image in zip(targets, found, strict=True):
        if len(target.boxes) and len(of_image):
            score = torch.where(box_iou(target.boxes, of_image.boxes) >= 0.5, of_image.scores, 0.0).amax(1)
            best.append(score[score > 0])
    scores = torch.cat(best) if best else torch.zeros(0)
    return float(scores.median()) if len(scores) else None


def mean_teacher(
    targets: list[Objects], images: list[Tensor], found: list[Detections], *, high: float, low: float
) -> list[Objects]:
    """Labels of the unlabelled images of a batch by the teacher's boxes that score as those on labels do, times `high` or `low`;
    labelled images keep their own.

    Source: Soft Teacher, arXiv 2106.09018, and PseCo, arXiv 2203.16317: an averaged model labels images that it sees from
    another view. Choice: the other view is a mirror image; boxes between the two scores are ignored, where Soft Teacher weighs
    them by a background score; scores relative to `labelled_score`, as in `mining`, since those of a small detector are low.
    """
    usual = labelled_score(targets, found)
    if usual is None:
        return targets
    made = []
    for target, image, of_image in zip(targets, images, found, strict=True):
        if unlabelled(target, image):
            target = add_labels(replace(target, crowd=target.crowd[:0]), of_image, high=high * usual, low=low * usual)
        made.append(target)
    return made


def mining(targets: list[Objects], found: list[Detections], *, high: float, low: float) -> list[Objects]:
    """Unlabelled objects among labelled ones: teacher's boxes that score as those on the labels do, times `high` or `low`.

    Source: Co-mining, arXiv 2012.01950 (labels among what counts as background are sought in another view) and Calibrated
    Teacher, arXiv 2303.07582 (scores are calibrated, since with few labels they are low). Choice: calibrated by the median score
    of the labelled objects of the batch, instead of a calibrator that is learned.
    """
    usual = labelled_score(targets, found)
    if usual is None:
        return targets
    return [add_labels(t, f, high=high * usual, low=low * usual) for t, f in zip(targets, found, strict=True)]


def blob_sizes(image: Tensor, points: Tensor) -> Tensor:
    """(N,) side in pixels of what is round each point: the square of `SIZES` that differs most from the ring round it.

    The ring is as wide as a quarter of the square; the difference is the distance of the mean colours, times the side to the
    power 0.25, so that a corner of a large object does not win over all of it.

    Args:
        image: (3, H, W) uint8. points: (N, 2) xy pixels.

    Source: scale selection by a centre-surround difference, as in Lindeberg 1998.

    >>> image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    >>> image[:, 20:32, 24:36] = 200
    >>> blob_sizes(image, torch.tensor([[30.0, 26.0]]))
    tensor([12.])
    """
    total = F.pad(image.float().cumsum(1).cumsum(2), (1, 0, 1, 0))  # (3, H + 1, W + 1)
    height, width = image.shape[1:]

    def sums(side: float) -> tuple[Tensor, Tensor]:
        """Sum of colours (3, N) and number of pixels (N,) of the squares, cut off at the border."""
        low, high = (points - side / 2).round().long(), (points + side / 2).round().long()
        x1, x2 = low[:, 0].clamp(0, width), high[:, 0].clamp(0, width)
        y1, y2 = low[:, 1].clamp(0, height), high[:, 1].clamp(0, height)
        return total[:, y2, x2] - total[:, y1, x2] - total[:, y2, x1] + total[:, y1, x1], (x2 - x1) * (y2 - y1)

    contrast = []
    for side in SIZES:
        (inner, n), (outer, m) = sums(side), sums(1.5 * side)
        ring = (outer - inner) / (m - n).clamp(min=1)
        contrast.append((inner / n.clamp(min=1) - ring).norm(dim=0) * side**0.25)
    best = torch.stack(contrast).argmax(0)
    return torch.tensor(SIZES, dtype=torch.float32, device=points.device)[best]


def boxes_round(points: Tensor, sizes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, 4) xyxy boxes of `sizes` (N, 2), width and height, round `points` (N, 2), cut off at the border, never empty."""
    boxes = clip_boxes_to_image(to_xyxy(torch.cat([points, sizes.clamp(min=1.0)], dim=1)), size_hw)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
    return boxes


def point_teacher(target: Objects, image: Tensor, found: Detections | None, *, size: float, low: float) -> Objects:
    """Boxes round points: first of a fixed or estimated size; with `found`, of the size of the teacher's box on the point.

    The teacher's box is the one of the highest score times closeness of its centre, exp(-2 x offset / size), among those that
    hold the point and score at least `low`; without one, the first box stays. The point remains the centre.

    Source: Point Teacher, arXiv 2412.05837, in its two phases. Choice: the first size is read from the image by `blob_sizes`, in
    place of masks painted on the image, and the teacher's boxes are picked, not weighed by multiple-instance learning.
    """
    if not len(target.boxes):
        return target
    points = to_cxcywh(target.boxes)[:, :2]
    side = blob_sizes(image, points) if size == 0 else torch.full((len(points),), size, device=points.device)
    sizes = side[:, None].expand(-1, 2)
    if found is not None and len(found):
        boxes = to_cxcywh(found.boxes)
        offset = (points[:, None] - boxes[None, :, :2]).abs()  # (N, D, 2)
        relative = (offset / boxes[None, :, 2:].clamp(min=1e-3)).amax(2)
        worth = torch.where((relative < 0.5) & (found.scores >= low), found.scores * (-2 * relative).exp(), 0.0)
        value, best = worth.max(1)
        sizes = torch.where((value > 0)[:, None], boxes[best, 2:], sizes)
    return replace(target, boxes=boxes_round(points, sizes, tuple(image.shape[1:])))


def ask(teacher: Detector, images: list[Tensor], *, mirrored: bool = False) -> list[Detections]:
    """What the teacher finds, on the device of the images; `mirrored`: in their mirror images, given back in their own frame."""
    found = teacher.detect([image.flip(2) for image in images] if mirrored else images)
    made = []
    for image, f in zip(images, found, strict=True):
        boxes = f.boxes.clone()
        if mirrored:
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        boxes, scores, classes = (t.to(image.device) for t in (boxes, f.scores, f.classes))
        made.append(replace(f, boxes=boxes, scores=scores, classes=classes))
    return made


def method_hook(config: MethodConfig) -> Hook | None:
    """The change of a batch's labels that a method is; None for `plain`."""
    high, low = config.teacher_high, config.teacher_low

    def change(
        targets: list[Objects], images: list[Tensor], teacher: Detector, done: float, _generator: torch.Generator
    ) -> list[Objects]:
        asked = done >= config.teacher_start
        if config.method == "point_teacher":
            found = ask(teacher, images) if asked else [None] * len(images)
            rows = zip(targets, images, found, strict=True)
            return [point_teacher(t, i, f, size=config.point_size, low=config.teacher_least) for t, i, f in rows]
        if not asked:
            return targets
        if config.method == "label_correction":
            return [label_correction(t, f) for t, f in zip(targets, ask(teacher, images), strict=True)]
        found = ask(teacher, images, mirrored=True)
        if config.method == "mining":
            return mining(targets, found, high=high, low=low)
        return mean_teacher(targets, images, found, high=high, low=low)

    return None if config.method == "plain" else change


def train_with(
    run: DetectorRun,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    validate: Callable[[Detector], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """`fit_detector` with the method of the run."""
    hook = method_hook(run.method)
    return fit_detector(run, out, hook=hook, resume=resume, init=init, validate=validate, stop_at=stop_at)
