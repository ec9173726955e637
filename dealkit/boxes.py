"""Box formats, overlaps, size bins, and who finds whom.

`N`, `M` boxes. A format is always named: `xyxy` corners, `cxcywh` centre and size, `xywh` corner and size.
torchvision's `box_iou` and `clip_boxes_to_image` are the vocabulary; here is what they lack, and what a click needs: it starts
without torchvision.
"""

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
