"""The criterion: one small function per term, all in float32, boxes in cxcywh pixels.

`N` prompt sets, `K` queries, `T` objects of a set, `h, w` size of a map. What is gathered by set comes as a list of N tensors; it
is computed for all sets at once, since thousands of small operations would cost more than the network. What has to go set by set,
assignment above all, runs on the CPU, where the targets stay: on a GPU it would take several times as long as the network.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from dealkit.boxes import in_regions, paired_iou, to_xyxy
from dealkit.config import LossConfig
from dealkit.model.deal import Output
from dealkit.model.encoder import STRIDES, cell_centres
from dealkit.model.matcher import hungarian_match, relative_l1
from dealkit.model.queries import LARGE

FARTHEST = 4.0
"""Relative L1 beyond which a pair of boxes has no box gradient."""

CLICKED = 3.0
"""How often the box of a clicked object counts. Choice: who clicks an object and does not get it back loses trust; at 1, a
quarter of the clicked objects of procedural scenes were not found after 12,000 steps."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one prompt set should find; on the CPU, whatever the model runs on."""

    boxes: Tensor
    """(T, 4) cxcywh pixels of the network input; T may be 0."""
    crowd: Tensor
    """(R, 4) cxcywh pixels of regions that are neither found nor missed."""
    clicked: Tensor
    """(P,) int64: the object that each click was made on, -1 for padding and negative clicks."""
    rivals: Tensor | None = None
    """(R, 4) cxcywh pixels: objects of other kinds in the same image; None: unknown."""


def varifocal(logits: Tensor, quality: Tensor, weight: Tensor, *, alpha: float = 0.75, gamma: float = 1.0) -> Tensor:
    """Varifocal loss, elementwise: positives (quality > 0) learn their IoU, negatives count by how confident they are.

    Source: arXiv 2008.13367, equation 2. Choice: gamma 1, not 2, since a set has about as many negative queries as objects, not
    hundreds: with 2 their scores settled at half of the positives'.

    >>> round(varifocal(torch.zeros(1), torch.zeros(1), torch.ones(1)).item(), 3)  # 0.75 x 0.5 x ln 2
    0.26
    """
    p = logits.sigmoid().detach()
    factor = torch.where(quality > 0, quality, alpha * p**gamma)
    return weight * factor * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def set_of(rows: list[Tensor]) -> Tensor:
    """Number of the set that each row of `torch.cat(rows)` belongs to, (sum of lengths,) int64.

    >>> set_of([torch.zeros(2, 4), torch.zeros(0, 4), torch.zeros(1, 4)]).tolist()
    [0, 0, 2]
    """
    lengths = torch.tensor([len(of_set) for of_set in rows], device=rows[0].device)
    return torch.arange(len(rows), device=lengths.device).repeat_interleave(lengths)


def peak_target(boxes: Tensor, h: int, w: int, stride: int = STRIDES[0]) -> Tensor:
    """(h, w) Gaussian bumps of height 1 at the cells of the objects' centres; sigma is a sixth of the object, at least 0.4 cells.

    Source: CenterNet, arXiv 1904.07850. Choice: a smaller sigma, elongated with its object, so that touching objects keep
    two peaks.
    """
    if not len(boxes):
        return boxes.new_zeros(h, w)
    cell = (boxes[:, :2] / stride).floor()
    sigma = (boxes[:, 2:] / stride / 6).clamp(min=0.4)
    x = torch.arange(w, device=boxes.device) - cell[:, :1]
    y = torch.arange(h, device=boxes.device) - cell[:, 1:]
    bump_x = torch.exp(-0.5 * (x / sigma[:, :1]) ** 2)  # (T, w)
    bump_y = torch.exp(-0.5 * (y / sigma[:, 1:]) ** 2)
    return (bump_y[:, :, None] * bump_x[:, None, :]).amax(0)


def focal_heatmap(logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """(N,) penalty-reduced focal loss of every set's peak map (N, h, w), summed over cells.

    Source: CornerNet/CenterNet, alpha 2, beta 4.
    """
    p = logits.sigmoid()
    positive = target > 0.999
    found = (1 - p) ** 2 * F.softplus(-logits) * positive
    false = p**2 * (1 - target) ** 4 * F.softplus(logits) * ~positive
    return ((found + false) * keep).sum((1, 2))


def poisson_density(density: Tensor, boxes: list[Tensor], keep: Tensor, stride: int = STRIDES[0]) -> Tensor:
    """(N,) negative log-likelihood of the objects' centres under a Poisson process whose intensity is the density (N, h, w).

    Integral of the intensity minus the sum of its logs at the centres: where it is least, the density sums to the count.

    Choice: one term that both places and counts, without a kernel width to choose.
    """
    h, w = density.shape[1:]
    sets, centres = set_of(boxes).to(density.device), torch.cat(boxes).to(density.device)[:, :2] / stride
    row, column = centres[:, 1].long().clamp(0, h - 1), centres[:, 0].long().clamp(0, w - 1)
    keep = keep.clone()
    keep[sets, row, column] = True  # an object inside an ignored region would otherwise be rewarded without bound
    at = density[sets, row, column].clamp(min=1e-8).log()
    return (density * keep).sum((1, 2)).index_add(0, sets, at, alpha=-1)


def box_losses(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(relative L1 (T,), 1 - GIoU (T,), IoU (T,)) of row-wise pairs of cxcywh boxes.

    Choice: the L1 ends at `FARTHEST`. A pair farther apart is an object that no query started near; no box refinement can
    reach it, and its distance, large in units of a tiny object, would drown the gradients of all the others.
    """
    iou, giou = paired_iou(to_xyxy(pred), to_xyxy(target))
    return relative_l1(pred, target).clamp(max=FARTHEST), 1 - giou, iou


def dense_box(maps: Tensor, boxes: list[Tensor], stride: int = STRIDES[0]) -> Tensor:
    """(N,) box loss of the dense head (N, h, w, 4) at nine cells in the middle of every object, mean over the nine, summed over
    the objects of a set.

    Choice: cells off the centre learn the same box, so that a click that is off the centre still starts from a good one.
    """
    n, h, w = maps.shape[:3]
    sets, target = set_of(boxes).to(maps.device), torch.cat(boxes).to(maps.device)[:, None].expand(-1, 9, -1)  # (T, 9, 4)
    step = torch.tensor([[dx, dy] for dy in (-0.25, 0.0, 0.25) for dx in (-0.25, 0.0, 0.25)], device=maps.device)
    cell = ((target[..., :2] + step * target[..., 2:]) / stride).long()
    pred = maps[sets[:, None], cell[..., 1].clamp(0, h - 1), cell[..., 0].clamp(0, w - 1)]
    l1, giou, _ = box_losses(pred.flatten(0, 1), target.flatten(0, 1))
    return maps.new_zeros(n).index_add(0, sets.repeat_interleave(9), (l1 + giou) / 9)


def activation_losses(output: Output, targets: list[Target], share: Tensor) -> dict[str, Tensor]:
    """`peak`, `density` and `dense_box` summed over levels and sets, set n `share[n]` times.

    Each object peaks and counts on the level of its size; every object's box is learned on the stride-4 map too, where clicks
    start whatever they are on.
    """
    levels = [(output.activation, STRIDES[0])] + ([(output.large, STRIDES[2])] if output.large is not None else [])
    sums = {name: output.count.sum() * 0.0 for name in ("peak", "density", "dense_box")}
    everything = [target.boxes for target in targets]
    for level, stride in levels:
        h, w = level.peak_logits.shape[-2:]
        centres = cell_centres(h, w, stride, everything[0].device)
        keep = torch.stack([~in_regions(centres, to_xyxy(target.crowd)) for target in targets]).to(share.device)
        boxes = everything
        if output.large is not None:
            boxes = [b[(b[:, 2:].prod(1) >= LARGE**2) == (level is output.large)] for b in everything]
        peaks = torch.stack([peak_target(b, h, w, stride) for b in boxes]).to(share.device)
        terms = {
            "peak": focal_heatmap(level.peak_logits, peaks, keep),
            "density": poisson_density(level.density, boxes, keep, stride),
            "dense_box": dense_box(level.boxes, everything if stride == STRIDES[0] else boxes, stride),
        }
        sums = {name: sums[name] + (share * term).sum() for name, term in terms.items()}
    return sums


def on_rivals(boxes: Tensor, targets: list[Target]) -> Tensor:
    """(N, K) bool: boxes (N, K, 4) cxcywh pixels with an IoU over 0.5 with an object of another kind than the prompted one."""
    found = torch.zeros(boxes.shape[:2], dtype=torch.bool)
    for n, target in enumerate(targets):
        if target.rivals is not None and len(target.rivals):
            found[n] = (box_iou(to_xyxy(boxes[n]), to_xyxy(target.rivals)) > 0.5).any(1)
    return found


def criterion(output: Output, targets: list[Target], weights: LossConfig, origin: Tensor | None = None) -> dict[str, Tensor]:
    """Weighted loss terms of N prompt sets; their sum is the loss.

    A set with T objects weighs 1 / sqrt(T) per object. Choice: between equal objects (dense images drown the rest) and equal
    sets (a single object decides a step).

    Args:
        origin: (N, R) int64, the object that each noisy box was made of, -1 for padding.

    Returns:
        `loss_score`, `loss_bbox`, `loss_giou` (all decoder layers), `loss_peak`, `loss_density`, `loss_dense_box`, and with
        noisy boxes `loss_denoise`: float32 scalars.
    """
    device = output.count.device
    lengths = output.count.new_tensor([len(target.boxes) for target in targets])
    share = lengths.clamp(min=1) ** -0.5
    objects = torch.cat([target.boxes for target in targets]).to(device)
    first = (lengths.cumsum(0) - lengths).long()  # number of a set's first object among all
    is_clicked = torch.cat([torch.isin(torch.arange(len(t.boxes)), t.clicked) for t in targets]).to(device)
    valid = output.valid.cpu()
    sums = activation_losses(output, targets, share)
    sums |= {name: output.count.sum() * 0.0 for name in ["score", "bbox", "giou"] + ["denoise"] * (origin is not None)}
    if origin is not None:
        sets, noisy = (origin >= 0).nonzero(as_tuple=True)
        for boxes in output.denoised:
            l1, giou, _ = box_losses(boxes[sets, noisy], objects[first[sets] + origin[sets, noisy]])
            sums["denoise"] = sums["denoise"] + (share[sets] * (0.5 * l1 + giou)).sum()
    for boxes, logits in [*output.aux_outputs, (output.pred_boxes, output.pred_logits)]:
        here, scores = boxes.detach().cpu(), logits.detach().cpu()
        pairs = [
            hungarian_match(here[n], scores[n], valid[n], target.boxes, target.clicked.repeat(output.starts))
            for n, target in enumerate(targets)
        ]
        sets, rows = set_of([row for row, _ in pairs]).to(device), torch.cat([row for row, _ in pairs]).to(device)
        found = first[sets] + torch.cat([column for _, column in pairs]).to(device)
        l1, giou, iou = box_losses(boxes[sets, rows], objects[found])
        quality = torch.zeros_like(logits).index_put((sets, rows), iou.detach().clamp(min=0.01))
        # a confident query on an ignored region is not wrong
        ignored = torch.stack([in_regions(here[n, :, :2], to_xyxy(target.crowd)) for n, target in enumerate(targets)])
        weight = (output.valid & ~ignored.to(device)).index_put((sets, rows), torch.tensor(True, device=device))
        times = weight * torch.where((quality == 0) & on_rivals(here, targets).to(device), weights.rival, 1.0)
        sums["score"] = sums["score"] + (share[:, None] * varifocal(logits, quality, times)).sum()
        times = share[sets] * torch.where(is_clicked[found], CLICKED, 1.0)
        sums["bbox"] = sums["bbox"] + (times * l1).sum()
        sums["giou"] = sums["giou"] + (times * giou).sum()
    total = total_weight(targets)
    return {f"loss_{name}": getattr(weights, name) * value / total for name, value in sums.items()}


def total_weight(targets: list[Target]) -> Tensor:
    """What the losses of these sets are divided by: the sum of the weights of their objects; a set without any counts as one.

    >>> nothing = torch.zeros(0, 4)
    >>> total_weight([Target(boxes=torch.ones(4, 4), crowd=nothing, clicked=torch.tensor([0]))])
    tensor(2.)
    """
    lengths = torch.tensor([float(len(target.boxes)) for target in targets]).clamp(min=1)
    return (lengths**-0.5 * lengths).sum()
