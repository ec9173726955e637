"""Hungarian assignment of queries to objects, one prompt set at a time.

`K` queries, `T` objects of one set. Boxes are cxcywh pixels.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from dealkit.boxes import to_xyxy


def relative_l1(pred: Tensor, target: Tensor) -> Tensor:
    """L1 distance of boxes in units of the target: shift of the centre as a share of its size, plus log ratio of the sizes.

    Choice: a pixel matters more on a 6 px object than on a 60 px one (DESIGN, loss); sizes under 4 px count as 4 px, since
    annotators are not more exact than that.

    Args:
        pred, target: (..., 4) cxcywh pixels, broadcastable.

    Returns:
        (...,) sum of the four terms.

    >>> relative_l1(torch.tensor([12.0, 10.0, 8.0, 8.0]), torch.tensor([10.0, 10.0, 8.0, 8.0])).item()  # 2 px of 8 px
    0.25
    """
    size = target[..., 2:].clamp(min=4.0)
    shift = (pred[..., :2] - target[..., :2]).abs() / size
    ratio = (pred[..., 2:].clamp(min=0.5).log() - target[..., 2:].clamp(min=0.5).log()).abs()
    return (shift + ratio * (target[..., 2:] / size)).sum(-1)


@torch.no_grad()
def hungarian_match(boxes: Tensor, logits: Tensor, valid: Tensor, target_boxes: Tensor, clicked: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of least cost: 2 (1 - score) + relative L1 + 2 (1 - GIoU).

    Of the own queries of the clicks on an object, the cheapest is bound to it: the click says that an object is there, so the
    model is made to return it, at whatever of its first sizes fits best.

    Args:
        boxes: (K, 4), logits: (K,), valid: (K,) bool. target_boxes: (T, 4).
        clicked: (Q,) the object that each of the first queries, the clicks' own, was clicked on; -1 where there is none.

    Returns:
        (query, object): two int64 index vectors of the same length, min(valid queries, T).

    Source: DETR, arXiv 2005.12872; binding after the loss of C3Det (CVPR 2022), the best of several after
    SAM's ambiguity-aware masks (arXiv 2304.02643).
    """
    device = boxes.device
    if not len(target_boxes):
        return torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    usable = valid.nonzero()[:, 0]
    b, s = boxes[usable].float(), logits[usable].float().sigmoid()
    giou = generalized_box_iou(to_xyxy(b), to_xyxy(target_boxes))
    cost = 2 * (1 - s)[:, None] + relative_l1(b[:, None], target_boxes[None]).clamp(max=50) + 2 * (1 - giou)
    row = valid.cumsum(0) - 1  # of the cost, for every valid query
    own = valid[: len(clicked)]
    for column in clicked[(clicked >= 0) & own].unique().tolist():
        rows = row[: len(clicked)][(clicked == column) & own]
        cost[rows[cost[rows, column].nan_to_num(nan=1e6).argmin()], column] -= 1e4
    # boxes that are not numbers are matched last: training then reports the loss that is not finite
    rows, columns = linear_sum_assignment(cost.nan_to_num(nan=1e6).cpu().numpy())
    return usable[torch.as_tensor(rows, device=device)], torch.as_tensor(columns, device=device)
