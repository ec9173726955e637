"""Training images made of several: mosaics, in which the prompt must be read; pasted distractors that nobody labelled; and pasted
kinds that exist in one image alone.

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
from dealkit.data.transforms import in_image, random_int, random_share

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


def paste_kinds(sample: Sample, donor: Sample, *, generator: torch.Generator, most: int = 2) -> Sample:
    """The sample with one to `most` kinds that exist nowhere else: pieces of another image in an outline of their own, 3 to 16
    copies each, turned, resized and lit one by one. Their boxes and labels join those of the sample.

    Choice: the matching must work for what has no name, and here outline and box are known to the pixel. Half of the pieces are
    objects of the donor, half any place of it; a third of second kinds are the first one with other colours or another outline,
    so that look-alikes are told apart. Half of the kinds have a soft rim, half let the ground through: many real objects do.
    Copies cover nothing and lie apart.

    >>> grey = torch.full((3, 96, 96), 90, dtype=torch.uint8)
    >>> sample = Sample(image=grey, boxes=torch.zeros(0, 4), image_id=1, labels=torch.zeros(0).long(),
    ...     crowd=torch.zeros(0).bool(), annotation_ids=torch.zeros(0).long(), source="made")
    >>> made = paste_kinds(sample, replace(sample, image=grey + 99), generator=torch.Generator().manual_seed(0), most=1)
    >>> len(made.boxes) > 1, len(made.labels.unique())
    (True, 1)
    """
    image, boxes, labels = sample.image.float(), sample.boxes, sample.labels
    ground = in_image(sample.image)
    piece, outline = None, None
    for _ in range(random_int(1, most, generator)):
        alike = piece is not None and random_share(generator) < 0.33
        recoloured = alike and random_share(generator) < 0.5
        piece = _piece(donor, generator) if not alike else _recoloured(piece, generator) if recoloured else piece
        outline = outline if recoloured else _outline(generator)
        size = 6 * 8 ** random_share(generator)
        aspect, varied = 2 ** (2 * random_share(generator) - 1), 0.25 * random_share(generator)
        label, upright = 10**6 + random_int(0, 10**9, generator), random_share(generator) < 0.5
        soft = 1.0 if random_share(generator) < 0.5 else 1 + random_share(generator) * size / 4
        opacity = 1.0 if random_share(generator) < 0.5 else 0.35 + 0.65 * random_share(generator)
        for _ in range(random_int(3, 16, generator)):
            own = size * math.exp(varied * (2 * random_share(generator) - 1))
            turn = (0.3 if upright else 2 * math.pi) * (random_share(generator) - 0.5)
            texture, mask = _copy(piece, outline, own, aspect, turn, soft)
            seen = (mask > 0.5).nonzero()
            height, width = mask.shape
            room = image.shape[1] - height, image.shape[2] - width
            if min(room) < 0 or len(seen) < 6:
                continue
            inside = torch.cat([seen.amin(0).flip(0), seen.amax(0).flip(0) + 1])
            corners = torch.stack([torch.randint(0, side + 1, (8,), generator=generator) for side in room[::-1]], 1)
            places = (corners.repeat(1, 2) + inside).float()
            grown = places + torch.tensor([-2.0, -2.0, 2.0, 2.0])
            free = (box_iou(grown, boxes) == 0).all(1) if len(boxes) else torch.ones(8, dtype=torch.bool)
            x1, y1, x2, y2 = places.long().unbind(1)
            free &= ground[y1, x1] & ground[y2 - 1, x2 - 1]
            if free.any():
                k = int(free.nonzero()[0, 0])
                (x, y), light = corners[k].tolist(), math.exp(0.25 * (2 * random_share(generator) - 1))
                under = image[:, y : y + height, x : x + width]
                under += opacity * mask * (texture * light - under)
                boxes, labels = torch.cat([boxes, places[k : k + 1]]), torch.cat([labels, torch.tensor([label])])
    added = len(boxes) - len(sample.boxes)
    return replace(
        sample,
        image=image.round_().clamp_(0, 255).to(torch.uint8),
        boxes=boxes,
        labels=labels,
        crowd=torch.cat([sample.crowd, torch.zeros(added).bool()]),
        annotation_ids=torch.cat([sample.annotation_ids, torch.full((added,), -1)]),
    )


def _piece(donor: Sample, generator: torch.Generator) -> Tensor:
    """(3, h, w) float32: an object of the donor with a margin, or any place of 12 to 96 px."""
    boxes = donor.boxes[~donor.crowd]
    if len(boxes) and random_share(generator) < 0.5:
        piece = _cut(donor.image, boxes[random_int(0, len(boxes) - 1, generator)])
    else:
        side = min(round(12 * 8 ** random_share(generator)), *donor.image.shape[1:])
        y, x = (random_int(0, length - side, generator) for length in donor.image.shape[1:])
        piece = donor.image[:, y : y + side, x : x + side]
    return _recoloured(piece.float(), generator) if random_share(generator) < 0.5 else piece.float()


def _recoloured(piece: Tensor, generator: torch.Generator) -> Tensor:
    """Colour channels in any order, each with its own gain and offset."""
    channels = torch.randperm(3, generator=generator)
    gain, offset = (torch.rand(3, 1, 1, generator=generator) for _ in range(2))
    return (piece[channels] * (0.5 + gain) + 120 * (offset - 0.5)).clamp(0, 255)


def _outline(generator: torch.Generator) -> Tensor:
    """(360,) radius at each degree, at most 1: an ellipse's circle, a lobed shape or a rounded square."""
    angle = torch.arange(360) * (math.pi / 180)
    kind = random_int(0, 2, generator)
    if kind == 0:
        return torch.ones(360)
    if kind == 1:
        square = 1 / (angle.cos().abs() ** 6 + angle.sin().abs() ** 6) ** (1 / 6)
        return square / square.amax()
    waves = [
        (random_share(generator) - 0.5) * 1.2 / k * torch.cos(k * angle + 6.3 * random_share(generator)) for k in range(2, 7)
    ]
    radius = (1 + torch.stack(waves).sum(0)).clamp(0.25)
    return radius / radius.amax()


def _copy(piece: Tensor, outline: Tensor, size: float, aspect: float, turn: float, soft: float) -> tuple[Tensor, Tensor]:
    """A piece in its outline, turned by `turn`: texture (3, s, s) float32 and its mask (s, s), 0 to 1 over `soft` pixels."""
    half = size / 2 * max(aspect, 1 / aspect) ** 0.5
    side = math.ceil(2 * half * 1.42 + soft) + 2
    y, x = torch.meshgrid(*[torch.arange(side) + 0.5 - side / 2] * 2, indexing="ij")
    across = (math.cos(turn) * x + math.sin(turn) * y) / (size / 2 * aspect**0.5)
    down = (math.cos(turn) * y - math.sin(turn) * x) / (size / 2 / aspect**0.5)
    radius = outline[(torch.atan2(down, across) * (180 / math.pi)).long() % 360]
    mask = ((radius - torch.hypot(across, down)) * size / 2 / soft + 0.5).clamp(0, 1)
    grid = torch.stack([across, down], -1)[None].clamp(-1, 1)
    shrunk = F.resize(piece, [max(2, min(round(size * 1.5), length)) for length in piece.shape[1:]], antialias=True)
    return torch.nn.functional.grid_sample(shrunk[None], grid, align_corners=False)[0], mask
