"""How much does every place of an image look like the one that is clicked, in the model's own features?

`h, w` cells of a map, finest level (stride 4) unless said otherwise; `C` channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dealkit.data.coco import Sample
from dealkit.model.encoder import STRIDES, cell_centres
from dealkit.model.queries import sample_map
from dealkit.predict.predictor import Predictor, detect
from dealkit.prompts import stack_prompts


def cosine_map(feature: Tensor, point_xy: Tensor, stride: int) -> Tensor:
    """Cosine between the feature under a point and the feature of every cell, after the mean of the map is taken off.

    Choice: centred. Features behind a ReLU are positive, so any two have a high cosine; without their mean 0 is what is average.

    Args:
        feature: (C, h, w). point_xy: (2,) pixels of the network input. stride: pixels per cell.

    Returns:
        (h, w) float32, -1 to 1; 0 where a map is constant.

    Source: paper, heat maps of prompt and feature.

    >>> cosine_map(torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]]), torch.tensor([2.0, 2.0]), 4).round()
    tensor([[ 1., -1.,  1.]])
    """
    feature = feature.float()
    feature = feature - feature.mean((1, 2), keepdim=True)
    under = sample_map(feature[None], point_xy.reshape(1, 1, 2).float().to(feature.device), stride)[0, 0]
    return F.cosine_similarity(feature, under[:, None, None], dim=0)


def click_cosines(predictor: Predictor, x: float, y: float) -> dict[str, Tensor]:
    """Cosine maps of a click in the image that is set: `stride 4` to `stride 32`, `combined`, and `prompted`.

    `combined` is the mean of the four, each brought to stride 4. `prompted` compares the stride-4 features after the prompt has
    modulated them: what the density and the peaks are read from. The padding of the image is cut off.

    Returns:
        name -> (h, w) float32, each at its own stride.

    Raises:
        ValueError: no image is set, or a point outside it.

    >>> from dealkit.config import ModelConfig
    >>> from dealkit.model.deal import DEAL
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> predictor.set_image(torch.zeros(3, 50, 70, dtype=torch.uint8))
    >>> [tuple(cells.shape) for cells in click_cosines(predictor, 20, 30).values()]
    [(13, 18), (7, 9), (4, 5), (2, 3), (13, 18), (13, 18)]
    """
    predictor.predict([[x, y]])  # refuses what is not a click in the image
    point, (height, width) = torch.tensor([x, y]), predictor.image.shape[1:]
    prompts = stack_prompts([(point[None].float(), torch.tensor([1]))], [0]).to(predictor.device)
    lit = detect(predictor.model, predictor.features, prompts).activation

    def cut(feature: Tensor, stride: int) -> Tensor:
        return feature[:, : -(-height // stride), : -(-width // stride)]

    levels = [cut(feature[0], stride) for feature, stride in zip(predictor.features.maps, STRIDES, strict=True)]
    maps = {f"stride {s}": cosine_map(level, point, s).cpu() for level, s in zip(levels, STRIDES, strict=True)}
    finest = maps["stride 4"].shape
    as_fine = zip(maps.values(), STRIDES, strict=True)
    fine = [F.interpolate(m[None, None], scale_factor=s / 4, mode="bilinear")[0, 0] for m, s in as_fine]
    combined = torch.stack([m[: finest[0], : finest[1]] for m in fine]).mean(0)
    return maps | {"combined": combined, "prompted": cosine_map(cut(lit.hidden[0], 4), point, 4).cpu()}


def on_objects(cells: Tensor, sample: Sample, label: int) -> float | None:
    """How well a stride-4 map tells the objects of a category from the rest: 1 perfectly, 0.5 not at all.

    The chance that a cell centred on an object has a higher value than one that is centred on none (the area under the ROC
    curve). Cells on crowd boxes do not count; None without cells on an object, or without others.

    Args:
        cells: (h, w). sample: its boxes. label: category of the sample.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> sample = Sample(image=torch.zeros(3, 4, 12, dtype=torch.uint8), boxes=boxes, labels=torch.zeros(1).long(), image_id=1,
    ...     crowd=torch.tensor([False]), annotation_ids=torch.tensor([1]), source="made")
    >>> on_objects(torch.tensor([[0.5, 0.1, 0.9]]), sample, 0)  # above one of the two others
    0.5
    """

    def inside(boxes: Tensor) -> Tensor:
        return ((centres >= boxes[:, :2]) & (centres < boxes[:, 2:])).all(-1).any(1)

    centres = cell_centres(*cells.shape, STRIDES[0], cells.device).flatten(0, 1)[:, None]
    objects = inside(sample.boxes[(sample.labels == label) & ~sample.crowd])
    rest = ~objects & ~inside(sample.boxes[sample.crowd])
    values, (n, m) = cells.flatten(), (int(objects.sum()), int(rest.sum()))
    if not n or not m:
        return None
    others = values[rest].sort().values
    below, up_to = (torch.searchsorted(others, values[objects], right=right).double() for right in (False, True))
    return float((below + up_to).mean() / (2 * m))
