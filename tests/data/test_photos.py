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


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="coins, .*'cat'"):
        photo("cat")


def test_missing_boxes_say_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "PROJECT_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"coins.json: .*pip install -e"):
        coco_path("coins")
