"""Box formats, overlaps, size bins, and who finds whom.

`N`, `M` boxes. A format is always named: `xyxy` corners, `cxcywh` centre and size, `xywh` corner and size.
torchvision's `box_iou` and `clip_boxes_to_image` are the vocabulary; here is what they lack, and what a click needs: it starts
without torchvision.
"""

from itertools import count

import torch
from torch import Tensor

SIZE_BINS: dict[str, tuple[float, float]] = {
    "vt": (0.0, 8.0**2),
    "t": (8.0**2, 16.0**2),
    "s": (16.0**2, 32.0**2),
    "m": (32.0**2, 1e5**2),
}
"""Very tiny, tiny, small, medium: area in square pixels of the original image, both ends inclusive.

Source: AI-TOD's evaluation code, which has no upper end at 64 px although the paper names one.
"""


def check_xyxy(boxes: Tensor, name: str = "boxes") -> Tensor:
    """Return `boxes` unchanged if they are (N, 4) xyxy with positive width and height.

    Raises:
        ValueError: wrong shape, a value that is not finite, or x2 <= x1 or y2 <= y1; names the first bad row.

    >>> check_xyxy(torch.tensor([[0.0, 0.0, 2.0, 3.0]])).shape
    torch.Size([1, 4])
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected shape (N, 4), got {tuple(boxes.shape)}")
    bad = ~torch.isfinite(boxes).all(1) | (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if bad.any():
        i = int(bad.nonzero()[0])
        raise ValueError(f"{name}[{i}]: not xyxy: {boxes[i].tolist()}")
    return boxes


def paired_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of row i of `a` with row i of `b`.

    Args:
        a, b: (N, 4) xyxy, same frame.

    Returns:
        iou (N,), giou (N,). A box without area gives iou 0, never NaN.

    Source: GIoU, arXiv 1902.09630.

    >>> iou, giou = paired_iou(torch.tensor([[0., 0., 2., 2.]]), torch.tensor([[1., 0., 3., 2.]]))
    >>> round(iou.item(), 4), round(giou.item(), 4)  # intersection 2, union 6, hull 6
    (0.3333, 0.3333)
    """
    area_a = (a[:, 2] - a[:, 0]).clamp(min=0) * (a[:, 3] - a[:, 1]).clamp(min=0)
    area_b = (b[:, 2] - b[:, 0]).clamp(min=0) * (b[:, 3] - b[:, 1]).clamp(min=0)
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (area_a + area_b - inter).clamp(min=1e-6)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1).clamp(min=1e-6)
    iou = inter / union
    return iou, iou - (hull - union) / hull


def overlapping(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs of boxes that share area, each once: their rows a and b (P,) int64, the shared area (P,) and the IoU (P,).

    A box is compared with those on the same cells of a grid: the time grows with N and P, not with the square of N.

    Args:
        boxes: (N, 4) xyxy on the CPU; N may be 0.

    >>> a, b, shared, iou = overlapping(torch.tensor([[0.0, 0, 4, 4], [90.0, 0, 94, 4], [2.0, 0, 6, 4]]))
    >>> sorted([int(a), int(b)]), shared.tolist(), round(float(iou), 2)  # 8 of 24
    ([0, 2], [8.0], 0.33)
    """
    side = 2 * (boxes[:, 2:] - boxes[:, :2]).amax(1).mean().clamp(min=1)
    low, high = ((corner / side).floor().long() for corner in (boxes[:, :2], boxes[:, 2:]))
    across, down = (high - low + 1).unbind(1)
    row = torch.repeat_interleave(torch.arange(len(boxes)), across * down)  # a box as often as it has cells
    nth = torch.arange(len(row)) - ((across * down).cumsum(0) - across * down)[row]
    cell = low[row] + torch.stack([nth % across[row], nth // across[row]], dim=1)
    key = cell[:, 1] * (2**31) + cell[:, 0]
    order = key.argsort()
    key, row, cell = key[order], row[order], cell[order]
    area, at, pairs = (boxes[:, 2:] - boxes[:, :2]).prod(1), torch.arange(len(row)), [(row[:0], row[:0], boxes[:0, 0])]
    for step in count(1):  # neighbours in the order of cells, then the next but one, as long as the cell is the same
        at = at[at + step < len(row)]
        at = at[key[at + step] == key[at]]
        if not len(at):
            break
        a, b = row[at], row[at + step]
        once = (cell[at] == torch.maximum(low[a], low[b])).all(1)  # the first of the cells that both lie on
        a, b = a[once], b[once]
        shared = (torch.minimum(boxes[a, 2:], boxes[b, 2:]) - torch.maximum(boxes[a, :2], boxes[b, :2])).clamp(min=0).prod(1)
        pairs.append((a[shared > 0], b[shared > 0], shared[shared > 0]))
    a, b, shared = (torch.cat(part) for part in zip(*pairs, strict=True))
    return a, b, shared, shared / (area[a] + area[b] - shared)


def without_duplicates(rank: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(N,) bool: what stays if of every pair of rows a, b (P,) the one with the higher rank (N,) goes, unless a third one, that
    stays, has taken its rival. What greedy suppression of duplicates keeps, in rounds over all pairs.

    >>> without_duplicates(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.tensor([1, 2])).tolist()
    [True, False, True]
    """
    strong, weak = torch.where(rank[a] < rank[b], a, b), torch.where(rank[a] < rank[b], b, a)
    stays = torch.ones(len(rank), dtype=torch.bool)
    while len(strong):
        waits = torch.zeros_like(stays).index_fill(0, weak, True)
        stays[weak[~waits[strong]]] = False
        undecided = waits[strong] & stays[strong] & stays[weak]
        strong, weak = strong[undecided], weak[undecided]
    return stays


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """cxcywh -> xyxy, any leading shape, same frame and unit.

    >>> to_xyxy(torch.tensor([5.0, 5.0, 4.0, 2.0]))
    tensor([3., 4., 7., 6.])
    """
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """xyxy -> cxcywh, any leading shape, same frame and unit.

    >>> to_cxcywh(torch.tensor([3.0, 4.0, 7.0, 6.0]))
    tensor([5., 5., 4., 2.])
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def in_regions(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """(...) bool: points (..., 2) inside any of the boxes (N, 4), their borders included.

    >>> in_regions(torch.tensor([[1.0, 1.0], [5.0, 1.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    tensor([ True, False])
    """
    points = points[..., None, :]
    return ((points >= boxes_xyxy[:, :2]) & (points <= boxes_xyxy[:, 2:])).all(-1).any(-1)


def size_bin(area: Tensor) -> list[str]:
    """Name of the first bin of `SIZE_BINS` that holds each area; a border belongs to both, so to the smaller here.

    >>> size_bin(torch.tensor([64.0, 65.0, 2000.0]))
    ['vt', 't', 'm']
    """
    return [next(k for k, (low, high) in SIZE_BINS.items() if low <= a <= high) for a in area.tolist()]


def claim(overlap: Tensor, threshold: float = 0.5) -> Tensor:
    """Which object each detection finds: strongest detection first, every object found once.

    A detection takes the free object that it overlaps most, from `threshold` on; of equal ones the first.

    Args:
        overlap: (N, G) IoU of detections, strongest first, with objects.

    Returns:
        (N,) int64: the column of the object, -1 for none.

    >>> claim(torch.tensor([[0.6, 0.9], [0.7, 0.8], [0.9, 0.9], [0.2, 0.0]])).tolist()
    [1, 0, -1, -1]
    """
    free = torch.where(overlap >= threshold, overlap, -1.0)
    column = torch.full((len(overlap),), -1)
    for row in (overlap >= threshold).any(1).nonzero()[:, 0].tolist():
        best = int(free[row].argmax())
        if free[row, best] >= threshold:
            column[row] = best
            free[:, best] = -1.0
    return column
