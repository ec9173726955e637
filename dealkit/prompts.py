"""Point prompts: what the model takes, simulated clicks, and committed click lists.

`N` prompt sets (one set = one category in one image), `P` points, `B` images. Points are x, y pixels; (0, 0) is the
top-left corner of the image and pixel centres are at +0.5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dealkit.boxes import check_xyxy


@dataclass(frozen=True, kw_only=True, eq=False)
class PointPrompts:
    """Prompt sets of a batch of images: one set asks for one category in one image.

    Raises:
        ValueError: wrong shape or type, a label other than 1, 0, -1, a real point that is not finite, a negative image
            index, a size that is negative or not finite, or a set without a positive point unless `embedded`; the message names
            the set.

    >>> p = PointPrompts(points=torch.tensor([[[8.0, 9.0]]]), labels=torch.tensor([[1]]), image_index=torch.tensor([0]))
    >>> len(p)
    1
    """

    points: Tensor
    """(N, P, 2) float32 xy, pixels of the network input; padding rows hold zeros."""
    labels: Tensor
    """(N, P) int64: 1 object, 0 'not this', -1 padding."""
    image_index: Tensor
    """(N,) int64: which image of the batch each set belongs to."""
    sizes: Tensor | None = None
    """(N, P, 2) width and height of the boxes drawn round the points, pixels; 0 where a point was only clicked. None: all 0."""
    embedded: bool = False
    """The sets have no click here: what they mean comes as an embedding."""

    def __post_init__(self) -> None:
        points, labels, index = self.points, self.labels, self.image_index
        if points.ndim != 3 or points.shape[2] != 2 or points.dtype != torch.float32:
            raise ValueError(f"points: expected (N, P, 2) float32, got {tuple(points.shape)} {points.dtype}")
        if labels.shape != points.shape[:2] or labels.dtype != torch.int64:
            raise ValueError(f"labels: expected {tuple(points.shape[:2])} int64, got {tuple(labels.shape)} {labels.dtype}")
        if index.shape != points.shape[:1] or index.dtype != torch.int64:
            raise ValueError(f"image_index: expected ({len(points)},) int64, got {tuple(index.shape)} {index.dtype}")
        if self.sizes is None:
            object.__setattr__(self, "sizes", torch.zeros_like(points))
        if self.sizes.shape != points.shape or self.sizes.dtype != torch.float32:
            raise ValueError(f"sizes: expected {tuple(points.shape)} float32, got {tuple(self.sizes.shape)} {self.sizes.dtype}")
        if torch.compiler.is_compiling():  # a graph has no errors
            return
        real = labels >= 0
        faults = {
            "a label that is not 1, 0 or -1": ((labels < -1) | (labels > 1)).any(1),
            "a point that is not finite": (real & ~torch.isfinite(points).all(2)).any(1),
            "a negative image_index": index < 0,
            "a size that is negative or not finite": ~((self.sizes >= 0) & self.sizes.isfinite()).flatten(1).all(1),
            "no positive point": ~((labels == 1).any(1) | self.embedded),
        }
        # one transfer for all the checks: on a GPU each would stop the queue
        table = torch.stack(list(faults.values())).cpu()
        if table.any():
            row, n = table.nonzero()[0].tolist()
            raise ValueError(f"prompt set {n}: {list(faults)[row]}: points {points[n].tolist()}, labels {labels[n].tolist()}")

    def __len__(self) -> int:
        return len(self.points)

    def to(self, device: torch.device | str) -> "PointPrompts":
        """The same prompts on `device`."""
        points, labels, index, sizes = (x.to(device) for x in (self.points, self.labels, self.image_index, self.sizes))
        return PointPrompts(points=points, labels=labels, image_index=index, sizes=sizes, embedded=self.embedded)


def stack_prompts(
    prompts: list[tuple[Tensor, Tensor]], image_index: list[int], sizes: list[Tensor] | None = None, *, embedded: bool = False
) -> PointPrompts:
    """Pad prompt sets of different lengths into one batch.

    Args:
        prompts: one `(points (p, 2), labels (p,))` per set, as in `PointPrompts`; may be empty.
        image_index: the image of each set. sizes: (p, 2) of each set, embedded: as in `PointPrompts`.

    Raises:
        ValueError: lists of different length, or a set that `PointPrompts` refuses; the message names the set.

    >>> one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    >>> stack_prompts([(one, torch.tensor([1])), (two, torch.tensor([1, 0]))], [0, 0]).labels
    tensor([[ 1, -1],
            [ 1,  0]])
    """
    if len(prompts) != len(image_index):
        raise ValueError(f"image_index: expected one entry per prompt set ({len(prompts)}), got {len(image_index)}")
    for n, (points, labels) in enumerate(prompts):
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
            shapes = f"{tuple(points.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"prompt set {n}: expected points (p, 2) and labels (p,), got {shapes}")
    longest = max((len(points) for points, _ in prompts), default=0)
    device = prompts[0][0].device if prompts else None
    stacked = torch.zeros(len(prompts), longest, 2, device=device)
    stacked_labels = torch.full((len(prompts), longest), -1, dtype=torch.int64, device=device)
    drawn = torch.zeros_like(stacked)
    for n, (points, labels) in enumerate(prompts):
        stacked[n, : len(points)] = points
        stacked_labels[n, : len(labels)] = labels
        if sizes is not None:
            drawn[n, : len(points)] = sizes[n]
    index = torch.tensor(image_index, dtype=torch.int64, device=device)
    return PointPrompts(points=stacked, labels=stacked_labels, image_index=index, sizes=drawn, embedded=embedded)


def without_clicks(image_index: list[int]) -> PointPrompts:
    """Prompt sets of these images that have no click of their own, for `DEAL.detect` with embeddings.

    >>> without_clicks([0, 0]).points.shape
    torch.Size([2, 0, 2])
    """
    n = len(image_index)
    labels, index = torch.zeros(n, 0, dtype=torch.int64), torch.tensor(image_index, dtype=torch.int64)
    return PointPrompts(points=torch.zeros(n, 0, 2), labels=labels, image_index=index, embedded=True)


def simulate_clicks(boxes_xyxy: Tensor, *, spread: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """One simulated click inside each ground-truth box: its centre, moved by a uniform offset.

    Args:
        boxes_xyxy: (N, 4) xyxy, pixels of the network input; N may be 0.
        spread: share of the half-extent a click may wander: 0 the centre, 1 anywhere in the box.
        generator: random source on the device of `boxes_xyxy`; a seeded one makes the clicks repeatable.

    Returns:
        (N, 2) xy, in the frame and order of `boxes_xyxy`.

    Raises:
        ValueError: `boxes_xyxy` is not (N, 4), has x2 <= x1 or y2 <= y1 (often cxcywh passed by mistake), or `spread`
            is outside 0 to 1.

    Choice: a uniform offset, the law of the `jitter` clicks of an evaluation (there `spread` is 0.5).

    >>> simulate_clicks(torch.tensor([[10.0, 20.0, 14.0, 24.0]]), spread=0.0)
    tensor([[12., 22.]])
    """
    if not 0 <= spread <= 1:
        raise ValueError(f"spread: expected 0 to 1, got {spread}")
    check_xyxy(boxes_xyxy, "boxes_xyxy")
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    offset = 2 * torch.rand(len(boxes_xyxy), 2, generator=generator, device=boxes_xyxy.device) - 1
    clicks = (low + high) / 2 + spread * offset * (high - low) / 2
    return torch.minimum(torch.maximum(clicks, low), high)  # rounding may step over the border by one unit
