"""`predict.plain`: overlaps and duplicates as torchvision has them."""

import numpy as np
import torch
import torchvision.ops
from conftest import seeded

from dealkit.predict.plain import iou, nms


def some_boxes(n, seed=0):
    corner, side = torch.rand(n, 2, generator=seeded(seed)) * 60, torch.rand(n, 2, generator=seeded(seed + 1)) * 20
    return torch.cat([corner, corner + side], dim=1)


def test_overlaps_and_duplicates_are_those_of_torchvision():
    boxes, scores = some_boxes(300), torch.rand(300, generator=seeded(2)).round(decimals=2)  # some scores are equal
    np.testing.assert_allclose(iou(boxes, boxes[:40]), torchvision.ops.box_iou(boxes, boxes[:40]), atol=1e-6)
    for overlap in (0.1, 0.5, 0.7):
        assert nms(boxes, scores, overlap).tolist() == torchvision.ops.nms(boxes, scores, overlap).tolist()


def test_no_boxes_and_boxes_without_area():
    assert iou(np.zeros((0, 4)), some_boxes(2)).shape == (0, 2) and nms(np.zeros((0, 4)), [], 0.5).tolist() == []
    assert nms([[1, 1, 1, 1], [1, 1, 1, 1]], [0.5, 0.4], 0.5).tolist() == [0, 1]
