"""`dealkit.studies.heatmaps`: cosines worked out by hand, maps of every level, and how well they tell objects from the rest."""

import pytest
import torch

from dealkit.data.coco import Sample
from dealkit.studies.heatmaps import click_cosines, cosine_map, on_objects

MAPS = ["stride 4", "stride 8", "stride 16", "stride 32", "combined", "prompted"]


def test_cosines_are_those_of_centred_features():
    # features (3, 1), (1, 3), (1, 1), (3, 3), mean (2, 2): centred (1, -1), (-1, 1), (-1, -1), (1, 1)
    feature = torch.tensor([[[3.0, 1.0], [1.0, 3.0]], [[1.0, 3.0], [1.0, 3.0]]])
    cosines = cosine_map(feature, torch.tensor([2.0, 2.0]), 4)  # the middle of the first cell
    torch.testing.assert_close(cosines, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))


def test_a_point_between_two_cells_has_the_feature_between_them():
    feature = torch.tensor([[[4.0, 0.0, -4.0]], [[0.0, 4.0, -4.0]]])
    # centred as it is; at x = 4 half-way: (2, 2), so the first two cells have the cosine 1 / sqrt(2), the last -1
    cosines = cosine_map(feature, torch.tensor([4.0, 2.0]), 4)[0]
    torch.testing.assert_close(cosines, torch.tensor([0.5**0.5, 0.5**0.5, -1.0]))


def test_a_constant_map_is_like_nothing():
    assert not cosine_map(torch.ones(3, 4, 4), torch.tensor([3.0, 3.0]), 4).any()


def test_maps_are_cosines_and_cover_the_image_without_its_padding(predictor):
    maps = click_cosines(predictor, 22, 30)  # the middle of a cell of 4 px
    # an image of 70 x 90 px: 18 x 23 cells of 4, 9 x 12 of 8, 5 x 6 of 16, 3 x 3 of 32
    assert [tuple(maps[name].shape) for name in MAPS] == [(18, 23), (9, 12), (5, 6), (3, 3), (18, 23), (18, 23)]
    assert all(m.abs().max() <= 1 + 1e-5 and torch.isfinite(m).all() for m in maps.values())
    assert maps["stride 4"][30 // 4, 22 // 4] == pytest.approx(1)


def test_a_click_outside_the_image_is_refused(predictor):
    with pytest.raises(ValueError, match="outside the image"):
        click_cosines(predictor, 91, 5)


def sample_of(boxes, labels, crowd=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Sample(
        image=torch.zeros(3, 4, 16, dtype=torch.uint8),
        boxes=boxes,
        labels=torch.tensor(labels, dtype=torch.int64),
        image_id=1,
        crowd=torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool),
        annotation_ids=torch.arange(len(boxes)),
        source="made",
    )


def test_a_map_is_scored_by_how_often_objects_are_above_the_rest():
    cells = torch.tensor([[0.9, 0.2, 0.5, 0.2]])  # four cells of 4 px
    first = [0.0, 0.0, 4.0, 4.0]
    assert on_objects(cells, sample_of([first], [0]), 0) == 1.0
    second = [4.0, 0.0, 8.0, 4.0]  # 0.2: below 0.9 and 0.5, equal to 0.2, which counts half: 0.5 of 3
    assert on_objects(cells, sample_of([second], [0]), 0) == pytest.approx(0.5 / 3)
    # the object of another kind is part of the rest; the crowd on the first cell is not: 0.5 of 2
    assert on_objects(cells, sample_of([second, first, [8.0, 0.0, 12.0, 4.0]], [0, 0, 1], [False, True, False]), 0) == 0.25


def test_without_objects_or_without_a_rest_there_is_no_score():
    cells = torch.zeros(1, 4)
    assert on_objects(cells, sample_of([], []), 0) is None
    assert on_objects(cells, sample_of([[0.0, 0.0, 16.0, 4.0]], [0]), 0) is None
