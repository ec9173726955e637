"""Averages of checkpoints of one training: `share` of the later weights, the rest of the earlier ones.

Source: weight averaging after fine-tuning, arXiv 2109.01903 (WiSE-FT): between two checkpoints of one training the loss is flat,
and in the middle a model keeps more of what it knew on images unlike the last ones. Several runs that went on from the same
weights stand for one by their mean: model soups, arXiv 2203.05482.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou
from tqdm.auto import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.checkpoint import load_model, save_model
from dealkit.data.synthetic import CHOICE_SEED
from dealkit.data.transforms import pad_to, to_input
from dealkit.files import Json, provenance, sha_of
from dealkit.model.deal import DEAL
from dealkit.predict import to_detections
from dealkit.prompts import stack_prompts
from dealkit.report import evaluate_on_scenes, row_of

LARGEST_SHIFT = 0.5
"""Pixels that the box of an object may move with the image round it, see `box_shift`."""

SHAPES = (("disc", 8, 8), ("disc", 12, 12), ("rectangle", 16, 8), ("disc", 20, 20))
"""Kind, width and height of the objects of `box_shift`."""

PLACES = {
    "crop": ((256, 256), (96, 96)),
    "large": ((1024, 1024), (512, 384)),
    "strip": ((1000, 380), (160, 736)),
    "padded": ((270, 300), (96, 96)),  # to 288 x 320
}
"""Height and width of an image, and where in it, xy, the objects of `plain_shapes` stand: 96 px or more from any border."""


def plain_shapes(
    kind: str, width: int, height: int, size_hw: tuple[int, int], offset_xy: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Four equal discs or rectangles on a plain image (3, H, W) uint8, and their boxes (4, 4) xyxy.

    >>> plain_shapes("disc", 8, 8, (64, 64), (0, 0))[1][0].tolist()
    [10.0, 12.0, 18.0, 20.0]
    """
    dx, dy = offset_xy
    y, x = torch.meshgrid(torch.arange(size_hw[0]) + 0.5, torch.arange(size_hw[1]) + 0.5, indexing="ij")
    image, boxes = torch.full((3, *size_hw), 90, dtype=torch.uint8), []
    for cx, cy in ((14 + dx, 16 + dy), (46 + dx, 12 + dy), (20 + dx, 48 + dy), (50 + dx, 44 + dy)):
        u, v = (x - cx) / (width / 2), (y - cy) / (height / 2)
        inside = u**2 + v**2 <= 1 if kind == "disc" else torch.maximum(u.abs(), v.abs()) < 1
        image[:, inside] = torch.tensor([210, 190, 120], dtype=torch.uint8)[:, None]
        boxes.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    return image, torch.tensor(boxes)


@torch.inference_mode()
def box_shift(model: DEAL, shape: tuple[str, int, int]) -> float | None:
    """Pixels that a side of the same object's box moves, at most, from a 256 px crop to a large image, a strip and a padded one.

    One of four equal objects is clicked; of each its best box of score 0.1 or more is compared, in float32. None: one of them is
    not found in one of the images, at IoU 0.5.
    """
    found = []
    for size_hw, (dx, dy) in PLACES.values():
        image, truth = plain_shapes(*shape, size_hw, (dx, dy))
        batch, sizes = pad_to([to_input(image)])
        prompts = stack_prompts([(to_cxcywh(truth)[:1, :2], torch.ones(1, dtype=torch.int64))], [0])
        boxes = to_detections(model(batch, prompts, sizes), 0, size_hw, 0.1).boxes
        overlap = box_iou(truth, boxes)
        if not len(boxes) or overlap.amax(1).min() <= 0.5:
            return None
        found.append(boxes[overlap.argmax(1)] - torch.tensor([dx, dy, dx, dy]))
    return max(float((boxes - found[0]).abs().max()) for boxes in found)


def average(earlier: DEAL, later: DEAL, share: float) -> DEAL:
    """A new model with weights (1 - share) x earlier + share x later; `share` 0 to 1.

    Raises:
        ValueError: `share` is outside 0 to 1, or the two models are of different configs.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected 0 to 1, got {share}")
    if earlier.config != later.config:
        raise ValueError(f"averaging needs two models of one config, got {earlier.config} and {later.config}")
    mixed, ends = DEAL(later.config), (earlier.state_dict(), later.state_dict())
    weights = {k: a.lerp(ends[1][k], share) if a.is_floating_point() else ends[1][k] for k, a in ends[0].items()}
    mixed.load_state_dict(weights)
    return mixed.to(memory_format=torch.channels_last).eval()


def mean_of(models: Sequence[DEAL]) -> DEAL:
    """The mean of the weights of one or more models of one config, each counted once.

    Raises:
        ValueError: no models, or of different configs.
    """
    if not models:
        raise ValueError("averaging needs at least one later checkpoint, got none")
    mixed = models[0]
    for n, model in enumerate(models[1:], 2):
        mixed = average(mixed, model, 1 / n)
    return mixed


def choose_average(
    earlier: Path, later: Sequence[Path], out: Path, *, shares: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 1.0), scenes: int = 100
) -> Json:
    """Score averages on held-out procedural scenes (of `CHOICE_SEED`, neither trained on nor published) and save the best.

    The later weights are the mean of those in `later`.

    Choice: the best AP50 over all objects among those whose boxes move by `LARGEST_SHIFT` at most with the image round them
    (`box_shift`); of equal ones the earlier in `shares`. If all move farther, the best AP50.

    Returns:
        `shares`: a row of scores and `box_shift` for each; `best`: the share that was written to `out`.
    """
    ends, rows = (load_model(earlier), mean_of([load_model(path) for path in later])), []
    for share in tqdm(shares, desc="averages", unit="share"):
        mixed = average(*ends, share)
        shifts = [box_shift(mixed, shape) for shape in SHAPES]
        scores = row_of(evaluate_on_scenes(mixed, scenes, 256, CHOICE_SEED))
        rows.append({"share": share, **scores, "box_shift": None if None in shifts else max(shifts)})
    steady = [row for row in rows if row["box_shift"] is not None and row["box_shift"] <= LARGEST_SHIFT]
    best = max(steady or rows, key=lambda row: row["ap50"])["share"]
    save_model(average(*ends, best), out)
    made = {"earlier": sha_of(earlier), "later": [sha_of(path) for path in later], "scenes": scenes, "seed": CHOICE_SEED}
    return {**made, "shares": rows, "best": best, "made_by": provenance()}
