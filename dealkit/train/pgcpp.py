"""PG-CPP: the next prompt of a set, chosen from what the model made of the last one. Pure functions.

`N` prompt sets, `P` points, `K` queries, `T` objects of one set. Boxes are cxcywh pixels, points xy pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from dealkit.boxes import in_regions, paired_iou, to_xyxy
from dealkit.config import PromptConfig
from dealkit.model.deal import Output
from dealkit.model.loss import Target
from dealkit.model.matcher import hungarian_match
from dealkit.prompts import PointPrompts, simulate_clicks
from dealkit.train.stream import stack_sets


def object_quality(boxes: Tensor, scores: Tensor, target_boxes: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """How well each object is handled: score x IoU of the query assigned to it, 0 where none is.

    Args:
        boxes: (K, 4), scores: (K,) 0 to 1. target_boxes: (T, 4). pairs: (query, object) of `matcher.hungarian_match`.

    Returns:
        (T,) float32.

    Source: paper, PG-CPP ("low score or poor box"). Choice: the product, which is low where either is.

    >>> truth = torch.tensor([[10.0, 10.0, 4.0, 4.0], [30.0, 10.0, 4.0, 4.0]])
    >>> object_quality(truth[:1], torch.tensor([0.5]), truth, (torch.tensor([0]), torch.tensor([0]))).tolist()
    [0.5, 0.0]
    """
    rows, columns = pairs
    quality = torch.zeros(len(target_boxes), device=boxes.device)
    iou, _ = paired_iou(to_xyxy(boxes[rows]), to_xyxy(target_boxes[columns]))
    quality[columns] = scores[rows] * iou
    return quality


def worst_object(quality: Tensor) -> int | None:
    """The object that is handled worst, the first of equals; None without objects.

    >>> worst_object(torch.tensor([0.5, 0.1, 0.1]))
    1
    """
    return int(quality.argmin()) if len(quality) else None


def worst_false_positive(
    boxes: Tensor, scores: Tensor, target_boxes: Tensor, crowd: Tensor, *, least: float = 0.1, overlap: float = 0.1
) -> int | None:
    """The most confident query that answers for nothing: off every object and every ignored region; None if none scores `least`.

    A query that overlaps an object by an IoU over `overlap`, or whose centre lies on one, is a poor or a second box of it, and a
    click there that says "not this" would be a lie.

    >>> found = torch.tensor([[10.0, 10.0, 4.0, 4.0], [30.0, 10.0, 4.0, 4.0]])
    >>> worst_false_positive(found, torch.tensor([0.9, 0.6]), found[:1], torch.zeros(0, 4))
    1
    """
    wrong = (scores >= least) & ~in_regions(boxes[:, :2], to_xyxy(torch.cat([target_boxes, crowd])))
    if len(target_boxes):
        wrong &= box_iou(to_xyxy(boxes), to_xyxy(target_boxes)).amax(1) <= overlap
    return int((scores * wrong).argmax()) if wrong.any() else None


@torch.no_grad()
def next_prompts(
    output: Output,
    prompts: PointPrompts,
    targets: list[Target],
    config: PromptConfig,
    size_hw: tuple[int, int],
    generator: torch.Generator,
) -> tuple[PointPrompts, list[Target]]:
    """Prompts of the next cycle, on the CPU, and the targets with the objects that are clicked now.

    The next positive click is, by `config.strategy`, at the centre of the object handled worst (`pgcpp`), or at the centre
    (`centre`) or anywhere in the middle half (`random`) of an object drawn at random; it replaces the earlier ones or joins
    them (`config.keep`). A share `config.negatives` of the sets gets a negative click on its worst false positive. Sets without
    objects keep their prompts.

    Source: paper, PG-CPP; the negative click is beyond it (DESIGN, PG-CPP).
    """
    height, width = size_hw
    prompts = prompts.to("cpu")
    every, logits, is_valid = output.pred_boxes.cpu(), output.pred_logits.cpu(), output.valid.cpu()
    clicks, following = [], []
    for n, target in enumerate(targets):
        real = prompts.labels[n] >= 0
        points, labels, clicked = prompts.points[n][real], prompts.labels[n][real], target.clicked[real]
        valid = is_valid[n]
        boxes, scores = every[n][valid], logits[n][valid].sigmoid()
        if len(target.boxes):
            if config.strategy == "pgcpp":
                pairs = hungarian_match(every[n], logits[n], valid, target.boxes, target.clicked.repeat(output.starts))
                chosen = worst_object(object_quality(every[n], logits[n].sigmoid(), target.boxes, pairs))
            else:
                chosen = int(torch.randint(len(target.boxes), (1,), generator=generator))
            spread = 0.5 if config.strategy == "random" else 0.0
            point = simulate_clicks(to_xyxy(target.boxes[chosen : chosen + 1]), spread=spread, generator=generator)
            keep = labels == 0 if config.keep == "replace" else torch.ones_like(labels, dtype=torch.bool)
            points = torch.cat([points[keep], point])
            labels = torch.cat([labels[keep], labels.new_ones(1)])
            clicked = torch.cat([clicked[keep], clicked.new_tensor([chosen])])
        if float(torch.rand(1, generator=generator)) < config.negatives:
            wrong = worst_false_positive(boxes, scores, target.boxes, target.crowd)
            if wrong is not None:
                limit = points.new_tensor([width, height])
                points = torch.cat([points, boxes[wrong : wrong + 1, :2].clamp(min=0).minimum(limit)])
                labels = torch.cat([labels, labels.new_zeros(1)])
                clicked = torch.cat([clicked, clicked.new_tensor([-1])])
        clicks.append((points, labels))
        following.append(replace(target, clicked=clicked))
    return stack_sets(clicks, prompts.image_index.tolist(), following)
