"""Training images made of several: mosaics, in which the prompt must be read, and pasted distractors that nobody labelled.

`N` boxes. Coordinates as in `dealkit.data.transforms`; random generators are on the CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from dealkit.data.coco import Sample

APART = 10_000
"""Added to the labels of each further source of a mosaic, so that kinds of two sources never share one."""


def mosaic(crops: Sequence[Sample]) -> Sample:
    """Four crops (3, s, s) as one sample (3, 2 s, 2 s), row by row; kinds of different sources stay different kinds.

    Source: A Recipe for class-agnostic counting, arXiv 2404.09826: counters take all dominant objects; a mosaic cures it.

    >>> crop = Sample(image=torch.zeros(3, 8, 8, dtype=torch.uint8), boxes=torch.tensor([[1.0, 2.0, 3.0, 3.0]]), image_id=1,
    ...     labels=torch.tensor([0]), crowd=torch.tensor([False]), annotation_ids=torch.tensor([1]), source="a")
    >>> made = mosaic([crop, crop, crop, replace(crop, source="b")])
    >>> made.boxes[3].tolist(), made.labels.tolist()
    ([9.0, 10.0, 11.0, 11.0], [0, 0, 0, 10000])
    """
    if len(crops) != 4:
        raise ValueError(f"mosaic: expected 4 crops, got {len(crops)}")
    side = crops[0].image.shape[-1]
    top, bottom = (torch.cat([c.image for c in row], dim=2) for row in (crops[:2], crops[2:]))
    names = list(dict.fromkeys(c.source for c in crops))
    shifts = [torch.tensor([x, y, x, y], dtype=torch.float32) for y in (0, side) for x in (0, side)]
    return replace(
        crops[0],
        image=torch.cat([top, bottom], dim=1),
        boxes=torch.cat([c.boxes + shift for c, shift in zip(crops, shifts, strict=True)]),
        labels=torch.cat([c.labels + APART * names.index(c.source) for c in crops]),
        crowd=torch.cat([c.crowd for c in crops]),
        annotation_ids=torch.cat([c.annotation_ids for c in crops]),
        source="mosaic",
    )


def paste_distractors(sample: Sample, donor: Sample, *, generator: torch.Generator, most: int = 6) -> Sample:
    """The sample with objects of another one beside its own, in soft ellipses; they get no boxes.

    Choice: a distractor is as large as the objects of the sample, up to a half or twice, and covers none of them.

    Args:
        donor: whose objects, of another source. most: how many are pasted; fewer where there is no room.
    """
    boxes = donor.boxes[~donor.crowd]
    if not len(boxes):
        return sample
    image, height, width = sample.image.clone(), *sample.image.shape[1:]
    usual = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().median().item() if len(sample.boxes) else 24.0
    for row in torch.randint(len(boxes), (int(torch.randint(1, most + 1, (1,), generator=generator)),), generator=generator):
        patch = _cut(donor.image, boxes[row])
        wanted = usual * 2 ** float(2 * torch.rand((), generator=generator) - 1)
        zoom = wanted / math.sqrt(patch.shape[1] * patch.shape[2])
        h, w = (max(round(side * zoom * 1.3), 2) for side in patch.shape[1:])
        if not 3 <= min(h, w) <= max(h, w) <= min(height, width) // 2:
            continue
        corner = torch.rand(8, 2, generator=generator) * torch.tensor([width - w, height - h])
        places = torch.cat([corner.floor(), corner.floor() + torch.tensor([w, h])], dim=1)
        free = (box_iou(places, sample.boxes) == 0).all(1) if len(sample.boxes) else torch.ones(8, dtype=torch.bool)
        if free.any():
            x1, y1, x2, y2 = places[free][0].long().tolist()
            small = F.resize(patch, [h, w], antialias=True).float()
            y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
            mask = (4 * (1 - (x**4 + y**4))).clamp(0, 1)
            under = image[:, y1:y2, x1:x2]
            image[:, y1:y2, x1:x2] = (under + mask * (small - under)).round_().clamp_(0, 255).to(torch.uint8)
    return replace(sample, image=image)


def _cut(image: Tensor, box: Tensor) -> Tensor:
    """The pixels of a box and of a seventh of its size around it."""
    (x1, y1, x2, y2), (height, width) = box.tolist(), image.shape[1:]
    dx, dy = (x2 - x1) / 7, (y2 - y1) / 7
    left, top = max(math.floor(x1 - dx), 0), max(math.floor(y1 - dy), 0)
    return image[:, top : min(math.ceil(y2 + dy), height), left : min(math.ceil(x2 + dx), width)]
