import json

import pytest
import skimage.data
import torch

from dealkit.boxes import check_xyxy
from dealkit.data import photos
from dealkit.data.coco import check
from dealkit.data.photos import IMAGE_FOLDER, PHOTOS, coco_path, photo

COUNTS = {"coins": (24, 0), "hubble_deep_field": (242, 729), "moon": (41, 98), "microaneurysms": (2, 0)}


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_is_that_of_scikit_image_with_boxes_inside_it(name):
    sample = photo(name)
    count = sum(COUNTS[name])
    pixels = torch.from_numpy(getattr(skimage.data, name)())
    assert torch.equal(sample.image, pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1))
    assert sample.boxes.shape == (count, 4) == torch.unique(sample.boxes, dim=0).shape
    height, width = sample.image.shape[1:]
    assert (check_xyxy(sample.boxes) >= 0).all() and (sample.boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert sample.labels.tolist() == [0] * count
    assert (int((~sample.crowd).sum()), int(sample.crowd.sum())) == COUNTS[name]
    assert sample.annotation_ids.tolist() == list(range(1, count + 1))
    assert sample.source == name and check(coco_path(name), IMAGE_FOLDER) == []
    assert PHOTOS[name].startswith(f"{COUNTS[name][0]} ")


@pytest.mark.parametrize("name", PHOTOS)
def test_info_states_origin_licence_making_and_use(name):
    info = json.loads(coco_path(name).read_text())["info"]
    assert {"description", "boxes", "origin", "licence", "use"} <= set(info)
    assert "never training" in info["use"]
    assert "rule" in info or COUNTS[name][1] == 0  # where some objects do not count, the rule is given


def test_coins_are_brighter_than_the_rim_around_their_boxes():
    sample = photo("coins")
    grey = sample.image[0].float()
    for x1, y1, x2, y2 in sample.boxes.int().tolist():
        inner = grey[y1:y2, x1:x2]
        outer = grey[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3]
        rim = (outer.sum() - inner.sum()) / (outer.numel() - inner.numel())
        assert inner.mean() > rim + 10


def test_the_two_stars_of_the_hubble_photo_have_no_box():
    boxes = photo("hubble_deep_field").boxes
    for x, y in ((254, 166), (754, 577)):
        inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
        assert not inside.any()


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="coins, .*'cat'"):
        photo("cat")


def test_missing_boxes_say_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "PROJECT_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"coins.json: .*pip install -e"):
        coco_path("coins")
