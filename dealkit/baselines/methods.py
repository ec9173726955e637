"""Learning a detector from incomplete labels: one method for each kind, as a change of the labels of a batch.

Each is the plainest form that keeps the idea of its paper; the averaged model of the training loop is the teacher. Before
`teacher_start` of the schedule the labels are taken as they are. Labels: boxes off by a share of their size (`label_correction`),
a few images labelled (`mean_teacher`, `scale_teacher`), a few boxes of each image (`mining`), centre points (`point_teacher`,
`point_patterns`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou, clip_boxes_to_image
from torchvision.transforms.v2 import functional as F

from dealkit.baselines.detector import Detector, Objects, class_lookup, objects_of, start_from, unlabelled
from dealkit.baselines.templates import square_sums, summed
from dealkit.boxes import claim, to_cxcywh, to_xyxy
from dealkit.config import DetectorRun, MethodConfig
from dealkit.data.coco import Sample
from dealkit.device import autocast
from dealkit.predict.detections import Detections
from dealkit.train import ranks
from dealkit.train.loop import training_loop

Hook = Callable[[list[Objects], list[Tensor], Detector, float, torch.Generator], list[Objects]]
"""Labels of a batch, its (3, H, W) uint8 images, the averaged model as teacher, the share of the schedule that is used up, and
a random source -> the labels to learn from."""

NEAR = 0.3
"""IoU from which a box of the teacher is about the same object as a label. Choice: a tiny box that is 40 % of its size off has
0.3 or so with the true one."""

PART = 0.5
"""Share of a box that lies in another, see `shared`, from which the two are one object, or one is a part of the other."""

ZOOM = 1.5
"""How much larger the second view of the `scale_teacher` is. PseCo halves it; a box under 8 px would vanish there."""

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

    Choice: of the area, since a detector also finds parts of an object, which overlap it little.

    >>> nothing = Objects(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), crowd=torch.zeros(0, 4))
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0], [9.0, 9.0, 12.0, 12.0], [20.0, 0.0, 24.0, 4.0]])
    >>> made = add_labels(nothing, Detections(boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.3, 0.1])), high=0.5, low=0.2)
    >>> made.boxes.tolist(), made.crowd.tolist()
    ([[0.0, 0.0, 4.0, 4.0]], [[9.0, 9.0, 12.0, 12.0]])
    """
    known = (shared(found.boxes, target.boxes) >= PART).any(1)
    rows = ((found.scores >= low) & ~known).nonzero()[:, 0]  # strongest first
    hidden = shared(found.boxes[rows], found.boxes[rows]) >= PART
    kept: list[int] = []
    for k in range(len(rows)):
        if not hidden[k, kept].any():
            kept.append(k)
    rows = rows[kept]
    label, doubt = rows[found.scores[rows] >= high], rows[found.scores[rows] < high]
    classes = torch.zeros_like(found.scores, dtype=torch.int64) if found.classes is None else found.classes
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


def cuts(targets: list[Objects], found: list[Detections], *, high: float, low: float, sure: float) -> dict[str, float] | None:
    """Scores from which a box of the teacher is a label (`high`), or ignored (`low`): shares of `labelled_score`, a label at
    least `sure`; None where nothing is labelled."""
    usual = labelled_score(targets, found)
    return None if usual is None else {"high": max(high * usual, sure), "low": low * usual}


def mean_teacher(
    targets: list[Objects], images: list[Tensor], found: list[Detections], *, high: float, low: float, sure: float = 0.0
) -> list[Objects]:
    """Labels of the unlabelled images of a batch by the teacher's boxes that score as those on labels do, times `high` or `low`,
    labels at least `sure`; labelled images keep their own.

    Source: Soft Teacher, arXiv 2106.09018: an averaged model labels images that it sees from another view. Choice: the other
    view is a mirror image; boxes between the two scores are ignored; scores relative to `labelled_score`, as in `mining`.
    """
    limits = cuts(targets, found, high=high, low=low, sure=sure)
    if limits is None:
        return targets
    return [
        add_labels(replace(target, crowd=target.crowd[:0]), of_image, **limits) if unlabelled(target, image) else target
        for target, image, of_image in zip(targets, images, found, strict=True)
    ]


def agreed(found: Detections, again: Detections) -> Detections:
    """What two views agree on: each box of the first with the strongest of the second on it, as their mean by score; its score is
    the mean of the two, half of its own where the second view has none.

    Source: PseCo, arXiv 2203.16317: labels that hold in views of two scales, and boxes that count by how many proposals agree.
    Choice: votes of two views in place of those of proposals, and scores in place of weights of the loss.

    >>> found = Detections(boxes=torch.tensor([[0.0, 0, 8, 8], [20, 20, 24, 24]]), scores=torch.tensor([0.75, 0.5]))
    >>> again = Detections(boxes=torch.tensor([[2.0, 0, 10, 8]]), scores=torch.tensor([0.25]))
    >>> made = agreed(found, again)
    >>> made.boxes[0].tolist(), made.scores.tolist()
    ([0.5, 0.0, 8.5, 8.0], [0.5, 0.25])
    """
    if not len(found) or not len(again):
        return replace(found, scores=found.scores / 2)
    score, best = torch.where(box_iou(found.boxes, again.boxes) >= 0.5, again.scores, 0.0).max(1)
    share = (score / (score + found.scores))[:, None]
    boxes, scores = (1 - share) * found.boxes + share * again.boxes[best], (found.scores + score) / 2
    return replace(found, boxes=boxes, scores=scores).take(scores.argsort(descending=True, stable=True))


def mining(targets: list[Objects], found: list[Detections], *, high: float, low: float, sure: float = 0.0) -> list[Objects]:
    """Unlabelled objects among labelled ones: teacher's boxes that score as those on the labels do, times `high` or `low`; labels
    at least `sure`.

    Source: Co-mining, arXiv 2012.01950 (another view) and Calibrated Teacher, arXiv 2303.07582 (with few labels scores are low).
    Choice: calibrated by the median score of the labelled objects of the batch, not by a calibrator that is learned.
    """
    limits = cuts(targets, found, high=high, low=low, sure=sure)
    return targets if limits is None else [add_labels(t, f, **limits) for t, f in zip(targets, found, strict=True)]


def blob_sizes(image: Tensor, points: Tensor) -> Tensor:
    """(N,) side in pixels of what is round each point: the square of `SIZES` that differs most from the ring round it.

    The ring is a quarter of the square wide; the difference is the distance of mean colours, times the side to the power 0.25.

    Args:
        image: (3, H, W) uint8. points: (N, 2) xy pixels.

    Source: scale selection by a centre-surround difference, as in Lindeberg 1998.

    >>> image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    >>> image[:, 20:32, 24:36] = 200
    >>> blob_sizes(image, torch.tensor([[30.0, 26.0]]))
    tensor([12.])
    """
    total, contrast = summed(image), []
    for side in SIZES:
        (inner, n), (outer, m) = square_sums(total, points, side), square_sums(total, points, 1.5 * side)
        ring = (outer - inner) / (m - n).clamp(min=1)
        contrast.append((inner / n.clamp(min=1) - ring).norm(dim=0) * side**0.25)
    return torch.tensor(SIZES, dtype=torch.float32, device=points.device)[torch.stack(contrast).argmax(0)]


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


def ask_teacher(teacher: Detector, images: list[Tensor], *, mirrored: bool = False, zoom: float = 1.0) -> list[Detections]:
    """What the teacher finds in the images, their mirror images or enlarged ones, in their own frame and on their device."""
    shown = [image.flip(2) if mirrored else image for image in images]
    if zoom != 1:
        shown = [F.resize(image, [round(zoom * side) for side in image.shape[1:]], antialias=True) for image in shown]
    made = []
    for image, f in zip(images, teacher.detect(shown), strict=True):
        rows = {name: getattr(f, name).to(image.device, copy=True) for name in ("boxes", "scores", "classes")}
        rows["boxes"] /= zoom
        if mirrored:
            rows["boxes"][:, [0, 2]] = image.shape[2] - rows["boxes"][:, [2, 0]]
        made.append(replace(f, **rows))
    return made


def method_hook(config: MethodConfig) -> Hook | None:
    """The change of a batch's labels that a method is; None for `plain`."""
    high, low = config.teacher_high, config.teacher_low

    def change(
        targets: list[Objects], images: list[Tensor], teacher: Detector, done: float, _generator: torch.Generator
    ) -> list[Objects]:
        asked = done >= config.teacher_start
        if config.method in ("point_teacher", "point_patterns"):
            found = ask_teacher(teacher, images) if asked else [None] * len(images)
            rows = zip(targets, images, found, strict=True)
            return [point_teacher(t, i, f, size=config.point_size, low=config.teacher_least) for t, i, f in rows]
        if not asked:
            return targets
        if config.method == "label_correction":
            return [label_correction(t, f) for t, f in zip(targets, ask_teacher(teacher, images), strict=True)]
        found = ask_teacher(teacher, images, mirrored=True)
        if config.method == "mining":
            return mining(targets, found, high=high, low=low, sure=config.teacher_sure)
        if config.method == "scale_teacher":
            found = [agreed(*views) for views in zip(found, ask_teacher(teacher, images, zoom=ZOOM), strict=True)]
        return mean_teacher(targets, images, found, high=high, low=low, sure=config.teacher_sure)

    return None if config.method == "plain" else change


def label_quality(
    config: MethodConfig, teacher: Detector, batches: list[tuple[list[Objects], list[Tensor], list[Tensor]]]
) -> dict[str, float]:
    """How good the labels are that a method makes with this teacher: precision and recall at IoU 0.5.

    Of methods that add labels only what they add counts, and the objects that had none; of the others all labels and objects.

    Args:
        batches: labels that are given, images (3, H, W) uint8, and all true boxes (G, 4) of some images each.

    Returns:
        `{"label_precision", "label_recall"}`, shares; 0 where there is nothing to share.
    """
    change, right, made, objects = method_hook(config), 0, 0, 0
    adds = config.method in ("mean_teacher", "scale_teacher", "mining")
    for targets, images, truth in batches:
        changed = change(targets, images, teacher, 1.0, torch.Generator())
        for given, of_image, true in zip(targets, changed, truth, strict=True):
            known = given.boxes if adds else given.boxes[:0]
            column = claim(box_iou(torch.cat([known, of_image.boxes[len(known) :]]), true))
            had, found = (int((part >= 0).sum()) for part in (column[: len(known)], column[len(known) :]))
            right, made, objects = right + found, made + len(of_image.boxes) - len(known), objects + len(true) - had
    return {"label_precision": right / max(made, 1), "label_recall": right / max(objects, 1)}


def train_with(
    run: DetectorRun,
    out: Path,
    *,
    hook: Hook | None = None,
    resume: bool = False,
    init: Path | None = None,
    validate: Callable[[Detector], dict[str, float]] | None = None,
    stop_at: int | None = None,
) -> list[dict[str, float]]:
    """Train a detector by the loop, stream, schedule and checkpoints of DEAL; returns its log. See `train.loop.training_loop`.

    Args:
        run: the run. out: its folder.
        hook: changes the labels of every batch; None: as the method of the run does.
        init: checkpoint to start the weights from, see `start_from`.

    `point_patterns` is the `point_teacher` with objects pasted into every image whose boxes are known to the pixel: they teach
    what extent is. Source: Point2RBox, arXiv 2311.14758. Choice: its patterns are our pasted kinds (`mixing.paste_kinds`).

    Choice: else without mosaics, pasted distractors and pasted kinds: only a prompt says which of their objects are meant.

    Raises:
        ValueError: several processes; `point_patterns` with categories, of which the pasted objects have none.
    """
    if ranks.count() > 1:
        raise ValueError("train --model: a detector without prompts is trained in one process; expected no launcher of several")
    patterns = run.method.method == "point_patterns"
    if patterns and run.detector.categories:
        raise ValueError("MethodConfig.method: point_patterns: expected a detector of one class, DetectorConfig.categories empty")
    run = replace(run, data=replace(run.data, mosaic=0.0, distractors=0.0, pasted_kinds=float(patterns)))
    if run.detector.detector == "rtdetr":
        run = replace(run, detector=replace(run.detector, tile=run.data.size))
    lookup, change = class_lookup(run), hook or method_hook(run.method)

    def make_model() -> Detector:
        return start_from(init, run.detector) if init else Detector(run.detector)

    def loss_terms(
        model: Detector, samples: list[Sample], generator: torch.Generator, teacher: Detector, done: float
    ) -> dict[str, Tensor]:
        device = model.mean.device
        images = [sample.image.to(device) for sample in samples]
        targets = [Objects(**{k: v.to(device) for k, v in vars(objects_of(s, lookup)).items()}) for s in samples]
        given = targets
        if change is not None:
            targets = change(targets, images, teacher, done, generator)
        if patterns:
            pasted = [(sample.annotation_ids < 0)[~sample.crowd].to(device)[:, None] for sample in samples]
            rows = zip(targets, given, pasted, strict=True)
            targets = [replace(of, boxes=torch.where(known, old.boxes, of.boxes)) for of, old, known in rows]
        used = [i for i, (image, target) in enumerate(zip(images, targets, strict=True)) if not unlabelled(target, image)]
        if not used:
            return {}
        # both libraries sample from torch's global source, which a resumed run finds in another state
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        with autocast(device, run.train.bf16):
            return model.loss([images[i] for i in used], [targets[i] for i in used])

    return training_loop(run, out, make_model, loss_terms, resume=resume, validate=validate, stop_at=stop_at)
