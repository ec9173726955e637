"""Detectors without prompts, to compare DEAL with: FCOS, RetinaNet, Faster R-CNN (torchvision), RT-DETRv2 (transformers).

Their networks, losses and post-processing are those of the libraries; ours are the data, the pre-processing, the training loop
and the evaluation, the same as DEAL's. `B` images, `N` boxes, `C` classes.

Incomplete labels come as ordinary COCO files. What an `iscrowd` or `ignore` box covers is neither found nor missed, so **an
unlabelled image is one whose only annotation is a crowd box over all of it**; without annotations it is an image of background.
Fewer, wrong or shifted boxes are just those boxes, and a point is the centre of a box of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from dealkit.baselines.networks import build_rtdetr, build_torchvision
from dealkit.boxes import to_cxcywh, to_xyxy
from dealkit.config import DETECTORS, MIN_SCORE, DataConfig, DetectorConfig, DetectorRun, from_dict
from dealkit.data.coco import Sample
from dealkit.data.tiles import tile_windows
from dealkit.data.transforms import IMAGENET_MEAN, IMAGENET_STD, pad_to, to_input
from dealkit.device import autocast
from dealkit.model.checkpoint import fill_model, read_checkpoint
from dealkit.predict.detections import Detections
from dealkit.predict.tiles import merge_tiles
from dealkit.train.stream import open_sources


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What a detector should find in one image."""

    boxes: Tensor
    """(N, 4) float32 xyxy pixels of the image; N may be 0."""
    labels: Tensor
    """(N,) int64 index into the detector's categories; 0 where all are one class."""
    crowd: Tensor
    """(R, 4) float32 xyxy pixels of regions that are neither found nor missed."""


def hide(image: Tensor, target: Objects) -> Tensor:
    """The normalised image (3, H, W) with the mean colour painted over its crowd regions, but not over objects.

    Choice: the losses of the libraries know no ignored regions, and as background they would teach that what is in them is none.
    FCOS leaves them out of its loss instead (`networks.IgnoringFCOS`).

    >>> boxes, crowd = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    >>> target = Objects(boxes=boxes, labels=torch.tensor([0]), crowd=crowd)
    >>> hide(torch.ones(1, 1, 3), target)
    tensor([[[1., 0., 1.]]])
    """
    hidden = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
    for boxes, value in ((target.crowd, True), (target.boxes, False)):
        for x1, y1, x2, y2 in torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).clamp(min=0).long().tolist():
            hidden[y1:y2, x1:x2] = value
    return image.masked_fill(hidden, 0.0)


def unlabelled(target: Objects, image: Tensor) -> bool:
    """Whether nothing is known of the image (3, H, W): no objects, and crowd over a quarter of the crop or more.

    Choice: a quarter, since a crop at the smallest zoom reaches beyond the image; it is passed over in training.
    """
    sides = target.crowd[:, 2:] - target.crowd[:, :2]
    return not len(target.boxes) and len(sides) > 0 and float(sides.prod(1).max()) >= 0.25 * image[0].numel()


class Detector(nn.Module):
    """A detector without prompts: `loss` in training, `detect` in use; images of any sizes, uint8.

    `methods.train_with` trains it, `scoring.evaluate_detector` scores it, class-agnostic and per category.

    >>> detector = Detector(DetectorConfig(hidden_dim=32)).eval()
    >>> found = detector.detect([torch.zeros(3, 50, 70, dtype=torch.uint8)])[0]
    >>> found.boxes.shape[1], len(found) <= 1500
    (4, True)
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.net = build_rtdetr(config) if config.detector == "rtdetr" else build_torchvision(config)
        if config.published:
            config = replace(config, published="", architecture=self.net.config.to_json_string())
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def loss(self, images: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Terms, float32 scalars, whose sum is the loss of B images (3, H, W) uint8; named as in the library, after `loss_`."""
        inputs = [to_input(image) for image in images]
        if self.config.detector != "fcos":  # which leaves regions out of its loss
            inputs = [hide(image, target) for image, target in zip(inputs, targets, strict=True)]
        if self.config.detector == "rtdetr":
            pixels, size_whwh, _ = self._pixels(inputs)
            labels = [{"class_labels": t.labels, "boxes": to_cxcywh(t.boxes) / size_whwh} for t in targets]
            terms: dict[str, Tensor] = {}
            for name, value in self.net(pixel_values=pixels, labels=labels).loss_dict.items():
                name = "loss_denoise" if "_dn_" in name else name.split("_aux_")[0]
                terms[name] = terms.get(name, 0.0) + value
            return terms
        offset = int(self.config.detector == "faster_rcnn")
        rows = [{"boxes": t.boxes, "labels": t.labels + offset, "crowd": t.crowd} for t in targets]
        return {f"loss_{name.removeprefix('loss_')}": value for name, value in self.net(inputs, rows).items()}

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """What is found in B images (3, H, W) uint8, on the CPU: boxes clipped to the image, strongest first, `classes`."""
        return self._detect(images) if not self.config.tile else [self._in_tiles(image) for image in images]

    def _in_tiles(self, image: Tensor, batch: int = 16) -> Detections:
        """What is found in one image, read in tiles of the size that was trained on.

        Choice: RT-DETR's boxes, and the sizes that its search begins with, are shares of the image: it finds only what is as
        large a part of the image as in training.
        """
        height, width = image.shape[1:]
        windows, of_tile = tile_windows(width, height, self.config.tile, self.config.tile // 4), []
        for start in range(0, len(windows), batch):
            of_tile += self._detect([image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in windows[start : start + batch]])
        kinds = [Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0), classes=torch.zeros(0, dtype=torch.int64))]
        for label in torch.cat([found.classes for found in of_tile]).unique():
            parts = [found.take(found.classes == label) for found in of_tile]
            merged = merge_tiles(list(zip(windows, parts, strict=True)), (height, width))
            kinds.append(replace(merged, classes=label.expand(len(merged))))
        boxes, scores, classes = (torch.cat([getattr(kind, n) for kind in kinds]) for n in ("boxes", "scores", "classes"))
        order = scores.argsort(descending=True, stable=True)[: self.config.max_detections]
        return Detections(boxes=boxes[order], scores=scores[order], classes=classes[order])

    def _detect(self, images: Sequence[Tensor]) -> list[Detections]:
        device = self.mean.device
        inputs = [to_input(image.to(device)) for image in images]
        with autocast(device):
            rows = self._rtdetr_rows(inputs) if self.config.detector == "rtdetr" else self.net(inputs)
        offset, found = int(self.config.detector == "faster_rcnn"), []
        for row in rows:
            usable = (row["boxes"][:, 2:] > row["boxes"][:, :2]).all(1) & (row["scores"] >= MIN_SCORE)
            keep = usable.nonzero()[:, 0]
            keep = keep[row["scores"][keep].argsort(descending=True, stable=True)]
            boxes, scores, labels = (row[name][keep].cpu() for name in ("boxes", "scores", "labels"))
            found.append(Detections(boxes=boxes.float(), scores=scores.float(), classes=labels - offset))
        return found

    def _pixels(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Padded batch as RT-DETR has it, without normalisation, padding is the mean colour; its size (4,); sizes_hw."""
        batch, sizes = pad_to(inputs, self.config.tile or 32)
        return batch * self.std + self.mean, batch.new_tensor([*batch.shape[:1:-1]] * 2), sizes

    def _rtdetr_rows(self, inputs: list[Tensor]) -> list[dict[str, Tensor]]:
        pixels, size_whwh, sizes = self._pixels(inputs)
        output = self.net(pixel_values=pixels)
        scores, boxes = output.logits.float().sigmoid(), to_xyxy(output.pred_boxes.float()) * size_whwh  # (B, Q, C), (B, Q, 4)
        rows = []
        for s, b, size_hw in zip(scores, boxes, sizes, strict=True):
            best, index = s.flatten().topk(len(s))  # a query may be of several classes, as in the library's own
            query, label = index // s.shape[1], index % s.shape[1]
            rows.append({"boxes": clip_boxes_to_image(b[query], size_hw), "scores": best, "labels": label})
        return rows


def load_detector(path: Path) -> Detector:
    """The detector of a checkpoint, in float32 and evaluation mode.

    Raises:
        ValueError: not a checkpoint, one of a DEAL, or weights that do not fit; names the file.
    """
    tensors, values = read_checkpoint(path)
    if "detector" not in values:
        raise ValueError(f"{path}: expected one of {', '.join(DETECTORS)}, got a DEAL")
    config = from_dict(DetectorConfig, {**values, "pretrained": False}, f"{path}: metadata")
    return fill_model(Detector(config), tensors, path)


def start_from(path: Path, config: DetectorConfig) -> Detector:
    """A detector of `config` with the weights of a checkpoint; what the two do not have in common starts afresh.

    Raises:
        ValueError: no checkpoint of a detector, no weight in common, or more differs than detector and categories.
    """
    earlier = load_detector(path)
    given = replace(config, pretrained=False, published="", architecture=earlier.config.architecture)
    if replace(earlier.config, detector=config.detector, categories=config.categories, tile=config.tile) != given:
        raise ValueError(f"{path}: its detector is {earlier.config}, expected {config}, but for detector and categories")
    fresh = Detector(given)
    shapes = {name: value.shape for name, value in fresh.state_dict().items()}
    fits = {name: value for name, value in earlier.state_dict().items() if shapes.get(name) == value.shape}
    if not fits:
        raise ValueError(f"{path}: {earlier.config.detector} has no weight in common with {config.detector}")
    fresh.load_state_dict(fits, strict=False)
    return fresh


def is_detector(path: Path) -> bool:
    """Whether a checkpoint holds a detector without prompts, not a DEAL."""
    return "detector" in read_checkpoint(path)[1]


def detector_categories(data: DataConfig) -> tuple[str, ...]:
    """All category names of the COCO files that a detector is trained on, sorted."""
    return tuple(sorted({name for source in open_sources(data.coco, data.weights)[0] for _, name in source.categories}))


def class_lookup(run: DetectorRun) -> dict[str, Tensor]:
    """Per source the class of each of its labels, (K,) int64, by the names of `run.detector.categories`; empty for one class.

    Raises:
        ValueError: a source has a category that is not among them; names both.
    """
    names, found = run.detector.categories, {}
    for source in open_sources(run.data.coco, run.data.weights)[0] if names else ():
        for _, name in source.categories:
            if name not in names:
                raise ValueError(f"{source.source}: category {name!r} is not one of {', '.join(names)}")
        classes = torch.tensor([names.index(name) for _, name in source.categories], dtype=torch.int64)
        if source.source in found and not torch.equal(found[source.source], classes):
            raise ValueError(f"{source.source}: two sources of this name have different categories; rename a folder")
        found[source.source] = classes
    return found


def objects_of(sample: Sample, lookup: dict[str, Tensor]) -> Objects:
    """Labels of a sample as a detector learns them; without a lookup all objects are of class 0."""
    real = ~sample.crowd
    labels = sample.labels[real]
    labels = lookup[sample.source][labels] if lookup else torch.zeros_like(labels)
    return Objects(boxes=sample.boxes[real], labels=labels, crowd=sample.boxes[sample.crowd])
