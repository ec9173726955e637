import json
import subprocess
import sys

import pytest
import skimage.data
import torch

from dealkit.boxes import check_xyxy
from dealkit.data import photos
from dealkit.data.coco import check
from dealkit.data.photos import IMAGE_FOLDER, PHOTOS, coco_path, photo

COUNTS = {"coins": (24, 0), "hubble_deep_field": (242, 729), "moon": (41, 98), "microaneurysms": (2, 0)}


def test_every_photo_has_counts_and_a_description():
    assert set(COUNTS) == set(PHOTOS)
    for name, (clear, crowd) in COUNTS.items():
        assert PHOTOS[name].startswith(f"{clear} ") and (not crowd or f" {crowd} " in PHOTOS[name])


@pytest.mark.parametrize("name", PHOTOS)
def test_photo_is_a_whole_sample(name):
    sample = photo(name)
    count = sum(COUNTS[name])
    assert sample.image.dtype == torch.uint8 and sample.image.shape[0] == 3
    assert sample.boxes.shape == (count, 4) and sample.boxes.dtype == torch.float32
    assert sample.labels.tolist() == [0] * count
    assert (int((~sample.crowd).sum()), int(sample.crowd.sum())) == COUNTS[name]
    assert sample.annotation_ids.tolist() == list(range(1, count + 1))
    assert sample.source == name


@pytest.mark.parametrize("name", PHOTOS)
def test_boxes_lie_inside_the_photo(name):
    sample = photo(name)
    height, width = sample.image.shape[1:]
    boxes = check_xyxy(sample.boxes)
    assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height


@pytest.mark.parametrize("name", PHOTOS)
def test_pixels_are_those_of_scikit_image(name):
    pixels = torch.from_numpy(getattr(skimage.data, name)())
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    assert torch.equal(photo(name).image, pixels)


@pytest.mark.parametrize("name", PHOTOS)
def test_no_box_appears_twice(name):
    boxes = photo(name).boxes
    assert len(torch.unique(boxes, dim=0)) == len(boxes)


@pytest.mark.parametrize("name", PHOTOS)
def test_file_passes_the_data_check(name):
    assert check(coco_path(name), IMAGE_FOLDER) == []


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


def test_changing_a_sample_leaves_the_next_one_whole():
    photo("coins").boxes.zero_()
    assert photo("coins").boxes.sum() > 0


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected one of coins, .*; got 'cat'"):
        photo("cat")


def test_missing_boxes_say_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "PROJECT_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"coins.json: .*pip install -e"):
        coco_path("coins")


def test_no_photo_opens_a_connection():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from dealkit.data.photos import PHOTOS, photo\n"
        "print(sum(len(photo(n).boxes) for n in PHOTOS))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(sum(a + b for a, b in COUNTS.values())), done.stderr
