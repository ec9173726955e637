"""Features matching: what ImageNet has taught a backbone, without any training on boxes: similarity, peaks, a box of one size.

`P` examples of a prompt, xyxy pixels. It needs the ImageNet weights of `dealkit.model.lite.wheel_weights`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from skimage.feature import peak_local_max
from skimage.measure import label
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from dealkit.baselines.templates import LEAST, OVERLAP
from dealkit.boxes import to_xyxy
from dealkit.config import ModelConfig
from dealkit.data.transforms import pad_to, to_input
from dealkit.model.encoder import STRIDES, build_backbone
from dealkit.model.queries import contrast_keys, sample_map
from dealkit.predict.detections import Detections

BLOB = 0.6
"""Similarity, relative to that of the click, down to which what surrounds the click belongs to its object."""


class FeatureMatcher:
    """Everything whose features are like those of the examples, by mean cosine over strides 4, 8 and 16."""

    def __init__(self, backbone: torch.nn.Module | None = None):
        """`backbone`: EfficientNet-Lite0 with ImageNet weights if None."""
        self.image: Tensor | None = None
        self.keys: list[Tensor] = []
        self.backbone = backbone or build_backbone(ModelConfig(backbone="lite0", pretrained=True)).eval()

    @torch.inference_mode()
    def similarity(self, image: Tensor, points: Tensor) -> Tensor:
        """Cosine of every place of an image (3, H, W) uint8 with the places of `points` (P, 2), their mean: (h, w), stride 4."""
        batch, sizes = pad_to([to_input(image)])
        if image is not self.image:
            self.image, self.keys = image, [contrast_keys(map_, None) for map_ in self.backbone(batch)[:3]]
        total = 0.0
        for key, stride in zip(self.keys, STRIDES, strict=False):
            prompt = F.normalize(F.normalize(sample_map(key, points[None], stride), dim=-1).mean(1), dim=-1)
            cosine = torch.einsum("chw,c->hw", key[0], prompt[0])[None, None]
            total = total + F.interpolate(cosine, [side // STRIDES[0] for side in batch.shape[2:]], mode="bilinear")[0, 0] / 3
        height, width = sizes[0]
        return total[: -(-height // STRIDES[0]), : -(-width // STRIDES[0])]

    def find(self, image: Tensor, boxes: Tensor, max_dets: int = 1500) -> Detections:
        """Boxes of the mean size of the examples (P, 4) round the peaks of the similarity; the examples themselves score 1."""
        points = (boxes[:, :2] + boxes[:, 2:]) / 2
        size = (boxes[:, 2:] - boxes[:, :2]).mean(0)
        response = self.similarity(image, points).numpy()
        apart = max(int(float(size.min()) / STRIDES[0] / 2), 1)
        peaks = peak_local_max(response, min_distance=apart, threshold_abs=LEAST, exclude_border=False, num_peaks=max_dets)
        centre = torch.from_numpy(peaks[:, ::-1].copy()).float() * STRIDES[0] + STRIDES[0] / 2
        made = torch.cat([centre, size.expand(len(centre), 2)], dim=1)
        every = clip_boxes_to_image(torch.cat([boxes, to_xyxy(made)]), tuple(image.shape[1:]))
        scores = torch.cat([torch.ones(len(boxes)), torch.from_numpy(response[tuple(peaks.T)]).float().clamp(max=1.0)])
        keep = nms(every, scores, OVERLAP)
        return Detections(boxes=every[keep], scores=scores[keep], image=image)

    def blob(self, image: Tensor, point: Sequence[float]) -> Tensor:
        """What a click alone says about the box (4,): the extent of what is like the clicked place and touches it."""
        response = self.similarity(image, torch.tensor([list(point)])).numpy()
        column, row = (min(int(v / STRIDES[0]), side - 1) for v, side in zip(point, response.shape[::-1], strict=True))
        regions = label(response >= BLOB * response[row, column], connectivity=1)
        rows, columns = np.nonzero(regions == regions[row, column])
        low, high = (STRIDES[0] * np.array([f(columns), f(rows)]) for f in (np.min, np.max))
        return torch.from_numpy(np.concatenate([low, high + STRIDES[0]])).float()
