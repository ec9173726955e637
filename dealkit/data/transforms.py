"""Random crops for training, in which boxes and clicks move with the image, and the network's input.

`N` boxes, `P` points, `B` images. Coordinates are continuous with (0, 0) at the top-left corner, pixel centres at +0.5.
Random generators are on the CPU.

Choice: the geometry is written here, while pixels go through torchvision. Its flip sends a key point to W - 1 - x and a box
to W - x, so that a click would slip by one pixel against its box: a quarter of a 4 px object.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dealkit.data.coco import Sample
from dealkit.data.images import IMAGENET_MEAN, IMAGENET_STD

PADDING = tuple(round(255 * m) for m in IMAGENET_MEAN)
"""Colour beside an image that is smaller than its crop: zero once normalised, which is what `pad_to` adds.

Choice: reflection would show objects twice, without their boxes.
"""

MIN_VISIBLE = 0.4
"""Share of its area that an object must keep in the crop to count as an object.

Choice: a smaller rest is often not recognisable, so it becomes crowd: neither found nor missed.
"""

BORDER = 0.25
"""Share of crops in which the image ends up to 31 px before the crop does, as inputs end that `pad_to` made larger.

Choice: without it, a click on bare ground beside the padding is more often taken for one on an object.
"""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a square crop lies and how it is turned; `place`, `move_boxes` and `move_points` apply it in this order."""

    left: int
    """x of the crop in image pixels; negative where the crop reaches beyond the image."""
    top: int
    """y of the crop in image pixels."""
    side: int
    """Width and height of the crop in image pixels."""
    size: int
    """Width and height it is resized to."""
    hflip: bool = False
    """Mirror left and right."""
    vflip: bool = False
    """Mirror top and bottom."""
    turns: int = 0
    """Quarter turns counter-clockwise, 0 to 3."""


def move_points(points_xy: Tensor, placement: Placement) -> Tensor:
    """Points (..., 2) of the image, xy pixels, in the frame of the crop; they may fall outside 0..size.

    >>> move_points(torch.tensor([[10.0, 20.0]]), Placement(left=8, top=16, side=64, size=128, hflip=True))
    tensor([[124.,   8.]])
    """
    corner = torch.tensor([placement.left, placement.top], dtype=points_xy.dtype)
    x, y = ((points_xy - corner) * (placement.size / placement.side)).unbind(-1)
    x = placement.size - x if placement.hflip else x
    y = placement.size - y if placement.vflip else y
    for _ in range(placement.turns % 4):
        x, y = y, placement.size - x
    return torch.stack([x, y], -1)


def move_boxes(boxes_xyxy: Tensor, placement: Placement) -> Tensor:
    """Boxes (N, 4) of the image, in pixels, in the frame of the crop, not clipped to it.

    >>> move_boxes(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), Placement(left=0, top=0, side=10, size=10, turns=1))
    tensor([[ 0.,  6.,  2., 10.]])
    """
    corners = move_points(boxes_xyxy.reshape(-1, 2, 2), placement)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def place(sample: Sample, placement: Placement) -> Sample:
    """Cut a crop out of the sample, resize it and turn it: `image` (3, size, size) uint8, boxes inside it.

    Only the pixels of the crop are resized, smoothed where it shrinks. Boxes are clipped to the image in the crop; without area
    there, they are dropped. Crowd also becomes what keeps less than `MIN_VISIBLE` of its area, or shrinks below one pixel in
    width or height; a box that was under a pixel before and does not shrink stays an object.

    >>> sample = Sample(image=torch.zeros(3, 8, 8, dtype=torch.uint8), boxes=torch.tensor([[1.0, 2.0, 3.0, 3.0]]), image_id=1,
    ...     labels=torch.tensor([0]), crowd=torch.tensor([False]), annotation_ids=torch.tensor([1]), source="made")
    >>> place(sample, Placement(left=0, top=0, side=8, size=16)).boxes
    tensor([[2., 4., 6., 6.]])
    """
    size = placement.size
    boxes = move_boxes(sample.boxes, placement)
    x1, y1, x2, y2 = _image_in(placement, sample.image.shape[1:])
    clipped = torch.stack([boxes[:, 0::2].clamp(x1, x2), boxes[:, 1::2].clamp(y1, y2)], -1).flatten(1)
    sides = boxes[:, 2:] - boxes[:, :2]
    clipped_sides = clipped[:, 2:] - clipped[:, :2]
    visible = clipped_sides.prod(1) / sides.prod(1)
    shrunk_away = (sides.amin(1) < 1) & (size < placement.side)
    keep = (clipped_sides > 0).all(1)
    crowd = sample.crowd | (visible < MIN_VISIBLE) | shrunk_away
    kept = {"boxes": clipped, "labels": sample.labels, "crowd": crowd, "annotation_ids": sample.annotation_ids}
    return replace(sample, image=_place_image(sample.image, placement), **{name: rows[keep] for name, rows in kept.items()})


def _place_image(image: Tensor, placement: Placement) -> Tensor:
    height, width = image.shape[1:]
    x1, y1 = max(placement.left, 0), max(placement.top, 0)
    x2, y2 = min(placement.left + placement.side, width), min(placement.top + placement.side, height)
    if x2 - x1 == placement.side and y2 - y1 == placement.side:
        crop = image[:, y1:y2, x1:x2]
    else:
        crop = _blank(placement.side)
        if x2 > x1 and y2 > y1:
            dx, dy = placement.left, placement.top
            crop[:, y1 - dy : y2 - dy, x1 - dx : x2 - dx] = image[:, y1:y2, x1:x2]
    if placement.size != placement.side:
        from torchvision.transforms.v2 import functional as F  # here, as below: a click needs none of it

        crop = F.resize(crop.contiguous(), [placement.size, placement.size], antialias=True)
    axes = [axis for axis, flip in ((1, placement.vflip), (2, placement.hflip)) if flip]
    return torch.rot90(crop.flip(axes), placement.turns, (1, 2)).contiguous()


def _blank(side: int) -> Tensor:
    return torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, side, side)


def draw_placement(
    sample: Sample, *, size: int, scale: tuple[float, float] = (0.5, 2.0), generator: torch.Generator
) -> Placement:
    """A random crop: around a random object nine times in ten, anywhere otherwise; log-uniform scale, any flip and turn.

    An object that fits into the crop lies fully inside it, at a random place. The crop reaches beyond the image only
    where the image is the smaller one, and then it holds all of it.

    Choice: first a category is drawn, then one of its objects, so that a single object among hundreds of another kind is seen.

    Args:
        size: width and height of the crop after resizing.
        scale: smallest and largest number of crop pixels per image pixel.

    Raises:
        ValueError: `size` is under 1, or `scale` is not 0 < low <= high.

    >>> empty = Sample(image=torch.zeros(3, 40, 40, dtype=torch.uint8), boxes=torch.zeros(0, 4), image_id=1, source="made",
    ...     labels=torch.zeros(0).long(), crowd=torch.zeros(0).bool(), annotation_ids=torch.zeros(0).long())
    >>> draw_placement(empty, size=16, scale=(2.0, 2.0), generator=torch.Generator().manual_seed(0)).side
    8
    """
    low, high = scale
    if size < 1 or not 0 < low <= high < math.inf:
        raise ValueError(f"expected size >= 1 and scale = (low, high) with 0 < low <= high, got size {size}, scale {scale}")
    height, width = sample.image.shape[1:]
    side = max(1, round(size / (low * (high / low) ** random_share(generator))))
    box: list[float] | None = None
    objects = (~sample.crowd).nonzero()[:, 0]
    if len(objects) and random_share(generator) < 0.9:
        labels = sample.labels[objects]
        kinds = labels.unique()
        kind = kinds[random_int(0, len(kinds) - 1, generator)]
        same = objects[labels == kind]
        box = sample.boxes[same[random_int(0, len(same) - 1, generator)]].tolist()
    hflip, vflip = random_share(generator) < 0.5, random_share(generator) < 0.5
    left = _random_offset(width, side, box and (box[0], box[2]), generator)
    top = _random_offset(height, side, box and (box[1], box[3]), generator)
    turns = random_int(0, 3, generator)
    return Placement(left=left, top=top, side=side, size=size, hflip=hflip, vflip=vflip, turns=turns)


def _random_offset(length: int, side: int, span: tuple[float, float] | None, generator: torch.Generator) -> int:
    """Start of a crop of `side` on an axis of `length` pixels, holding `span` (or lying in it, where it is longer)."""
    if length <= side:
        return random_int(length - side, 0, generator)
    low, high = 0, length - side
    if span is not None:
        ends = sorted((math.ceil(span[1]) - side, math.floor(span[0])))
        low, high = min(max(low, ends[0]), high), max(min(high, ends[1]), low)
    return random_int(low, high, generator)


def recolour(image: Tensor, *, generator: torch.Generator) -> Tensor:
    """Random colours, uneven light, blur, sensor noise and JPEG traces; one image in ten or so stays as it is.

    Brightness, contrast, saturation and hue always vary together; 15 % turn grey, 5 % swap channels, 5 % are inverted,
    25 % are lit from one side, 10 % are blurred, 30 % noisy, 15 % pass through JPEG.

    Choice: all colour changes are linear, so they are multiplied into one 3 x 3 matrix and read the image once, instead
    of seven times. Choice: blur stays under 1.2 px, since a wider one wipes out objects of few pixels; brightening stops at
    a mean of 200 (of 255), or bright scenes would lose their objects in white.

    Args:
        image: (3, H, W) uint8 RGB, as the result.

    >>> recolour(torch.full((3, 4, 4), 90, dtype=torch.uint8), generator=torch.Generator().manual_seed(0)).dtype
    torch.uint8
    """
    if random_share(generator) < 0.1:
        return image
    shape = image.shape
    from torchvision.transforms.v2 import functional as F

    values = image.reshape(3, -1).float()
    matrix, offset = _colour_matrix(float(torch.tensor(LUMA) @ values.mean(1)), generator)
    values = torch.addmm(offset[:, None], matrix, values)
    if random_share(generator) < 0.25:
        across, down = _between(-0.25, 0.25, generator), _between(-0.25, 0.25, generator)
        light = 1 + across * torch.linspace(-1, 1, shape[2]) + down * torch.linspace(-1, 1, shape[1])[:, None]
        values *= (light / light.max()).flatten()  # nothing gets brighter
    if random_share(generator) < 0.1 and min(shape[1:]) > 2:  # its border is reflected, two pixels wide
        sigma = _between(0.4, 1.2, generator)
        values = F.gaussian_blur(values.reshape(shape), [5, 5], [sigma, sigma]).reshape(3, -1)
    if random_share(generator) < 0.3:
        values = values + torch.randn(values.shape, generator=generator) * _between(1.0, 10.0, generator)
    image = values.round_().clamp_(0, 255).to(torch.uint8).reshape(shape)
    if random_share(generator) < 0.15:
        image = F.jpeg(image, random_int(40, 95, generator))
    return image


def _colour_matrix(mean_luma: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random (3, 3) matrix and (3,) offset for RGB in 0..255."""
    grey = torch.tensor(LUMA).repeat(3, 1)
    saturation = 0.0 if random_share(generator) < 0.15 else _between(0.5, 1.5, generator)
    matrix = saturation * torch.eye(3) + (1 - saturation) * grey
    # Hue: a turn about the grey axis (1, 1, 1), by Rodrigues' formula.
    angle = _between(-0.1, 0.1, generator) * 2 * math.pi
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turn = math.cos(angle) * torch.eye(3) + (1 - math.cos(angle)) / 3 + math.sin(angle) * cross
    matrix = turn @ matrix
    if random_share(generator) < 0.05:
        matrix = matrix[torch.randperm(3, generator=generator)]
    contrast = _between(0.6, 1.3, generator)
    brightness = _between(0.6, min(1.4, max(1.0, 200 / max(mean_luma, 1.0))), generator)
    matrix = brightness * contrast * matrix
    offset = torch.full((3,), brightness * (1 - contrast) * mean_luma)
    if random_share(generator) < 0.05:
        matrix, offset = -matrix, 255 - offset
    return matrix, offset


def relight(image: Tensor, boxes: Tensor, *, generator: torch.Generator) -> Tensor:
    """Light every object by itself, up to a third brighter or darker, in the ellipse that fills its box.

    Choice: objects of one kind lie in light and shade, on wet and dry ground; what the click shows is one of them.

    Args:
        image: (3, H, W) uint8 RGB, as the result. boxes: (N, 4) xyxy pixels.

    >>> image = torch.full((3, 8, 8), 90, dtype=torch.uint8)
    >>> changed = relight(image, torch.tensor([[2.0, 2.0, 6.0, 6.0]]), generator=torch.Generator().manual_seed(1)) != image
    >>> bool(changed[:, 2:6, 2:6].any()), bool(changed[:, :2].any())
    (True, False)
    """
    height, width = image.shape[1:]
    gain = torch.ones(height, width)
    factors = torch.empty(len(boxes)).uniform_(-0.29, 0.29, generator=generator).exp() - 1
    for (x1, y1, x2, y2), factor in zip(boxes.tolist(), factors.tolist(), strict=True):
        left, top, right, bottom = max(int(x1), 0), max(int(y1), 0), min(math.ceil(x2), width), min(math.ceil(y2), height)
        x = (torch.arange(left, right) + 0.5 - (x1 + x2) / 2) / (x2 - x1)
        y = (torch.arange(top, bottom) + 0.5 - (y1 + y2) / 2) / (y2 - y1)
        inside = (2 - 8 * (x**2 + y[:, None] ** 2)).clamp(0, 1)  # an ellipse with a soft rim: no edge tells where the box ends
        gain[top:bottom, left:right] += factor * inside
    return (image * gain.clamp(0.5, 1.6)).round_().clamp_(0, 255).to(torch.uint8)


def augment(
    sample: Sample, *, size: int, scale: tuple[float, float] = (0.5, 2.0), colour: bool = True, generator: torch.Generator
) -> Sample:
    """A random crop of the sample by `draw_placement` and `place`, with `colour` also by `relight` and `recolour`.

    The same state of `generator` gives the same crop; torch's global one is not touched.

    >>> sample = Sample(image=torch.zeros(3, 90, 90, dtype=torch.uint8), boxes=torch.tensor([[1.0, 2.0, 9.0, 9.0]]), image_id=1,
    ...     labels=torch.tensor([0]), crowd=torch.tensor([False]), annotation_ids=torch.tensor([1]), source="made")
    >>> augment(sample, size=32, generator=torch.Generator().manual_seed(0)).image.shape
    torch.Size([3, 32, 32])
    """
    placement = draw_placement(sample, size=size, scale=scale, generator=generator)
    if random_share(generator) < BORDER:
        cut = round(31 * placement.side / size * random_share(generator))
        bottom, right = (max(start + placement.side - cut, 1) for start in (placement.top, placement.left))
        sample = replace(sample, image=sample.image[:, :bottom, :right])
    out = place(sample, placement)
    if not colour:
        return out
    image = relight(out.image, out.boxes, generator=generator) if random_share(generator) < 0.3 else out.image
    image = recolour(image, generator=generator)
    return replace(out, image=_fill_outside(image, sample.image.shape[1:], placement))


def _fill_outside(image: Tensor, size_hw: Sequence[int], placement: Placement) -> Tensor:
    """Paint `PADDING` over what lies beside the image, where colour and noise changed it."""
    x1, y1, x2, y2 = _image_in(placement, size_hw)
    x1, y1, x2, y2 = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    if (x1, y1, x2, y2) == (0, 0, placement.size, placement.size):
        return image
    out = _blank(placement.size)
    out[:, y1:y2, x1:x2] = image[:, y1:y2, x1:x2]
    return out


def in_image(crop: Tensor) -> Tensor:
    """(H, W) bool: the pixels of a crop (3, H, W) uint8 that are not `PADDING`, which lies beside an image.

    >>> in_image(torch.tensor([[[124, 9]], [[116, 9]], [[104, 9]]], dtype=torch.uint8)).tolist()
    [[False, True]]
    """
    return (crop != torch.tensor(PADDING, dtype=torch.uint8)[:, None, None]).any(0)


def _image_in(placement: Placement, size_hw: Sequence[int]) -> list[float]:
    """xyxy of the image in its crop, pixels of the crop."""
    height, width = size_hw
    return move_boxes(torch.tensor([[0.0, 0.0, width, height]]), placement)[0].clamp(0, placement.size).tolist()


def to_input(image: Tensor) -> Tensor:
    """The network's input: (3, H, W) uint8 RGB -> (3, H, W) float32, normalised by `IMAGENET_MEAN` and `IMAGENET_STD`.

    Raises:
        ValueError: not (3, H, W) uint8.

    >>> to_input(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten()  # (1 - mean) / std
    tensor([2.2489, 2.4286, 2.6400])
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: expected (3, H, W) uint8, got {tuple(image.shape)} {image.dtype}")
    std = torch.tensor(IMAGENET_STD, device=image.device)[:, None, None]
    mean = torch.tensor(IMAGENET_MEAN, device=image.device)[:, None, None]
    return image * (1 / (255 * std)) - mean / std


def pad_to(images: Sequence[Tensor], multiple: int = 32) -> tuple[Tensor, list[tuple[int, int]]]:
    """Stack inputs of any size, with zeros to the right and below, so that boxes need not move.

    Args:
        images: (3, h, w) float32 each, already normalised (`to_input`), on one device.
        multiple: height and width of the batch are the least multiples of this that hold every image.

    Returns:
        (B, 3, H, W) float32, and size_hw of each image in it.

    >>> batch, sizes = pad_to([torch.ones(3, 33, 20), torch.ones(3, 8, 40)])
    >>> batch.shape, sizes
    (torch.Size([2, 3, 64, 64]), [(33, 20), (8, 40)])
    """
    if not images or multiple < 1:
        raise ValueError(f"expected at least one image and multiple >= 1, got {len(images)} images, multiple {multiple}")
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (math.ceil(max(lengths) / multiple) * multiple for lengths in zip(*sizes, strict=True))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for row, image, (h, w) in zip(batch, images, sizes, strict=True):
        row[:, :h, :w] = image
    return batch, sizes


def random_share(generator: torch.Generator) -> float:
    """Uniform in 0 to 1."""
    return torch.rand((), generator=generator).item()


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * random_share(generator)


def random_int(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
