"""`dealkit.data.subsets`: parts of a source keep its form, fewer images are among the more, families are sources."""

import pytest

from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.families import FAMILIES, write_families
from dealkit.data.subsets import find_sources, some_categories, some_images
from dealkit.files import read_json


@pytest.fixture
def source(make_coco):
    """Six images: bolts (5) in the first five, a nut (9) in the first, nothing in the last."""
    bolt = (5, [10, 12, 6, 8], 0)
    return make_coco("screws", [[bolt, (9, [70, 10, 10, 10], 0)], *[[bolt]] * 4, []])


def test_fewer_images_are_among_the_more_and_all_have_an_object(source, tmp_path):
    chosen = {}
    for count in (1, 3, 20):
        data = CocoFolder(some_images(source, count, tmp_path / str(count)), tmp_path / str(count) / "screws" / "images")
        chosen[count] = set(data.image_ids)
        assert data.source == "screws" and len(data.boxes) >= len(data) and data[0].image.shape == (3, 70, 90)
    assert [len(ids) for ids in chosen.values()] == [1, 3, 5]  # the sixth image has no object
    assert chosen[1] < chosen[3] < chosen[20]
    other = [read_json(some_images(source, 3, tmp_path / f"s{seed}", seed=seed))["images"] for seed in range(6)]
    assert len({str(rows) for rows in other}) > 1


def test_categories_left_out_are_background(source, tmp_path):
    data = CocoFolder(some_categories(source, ["nut"], tmp_path / "part"), tmp_path / "part" / "screws" / "images")
    assert data.categories == [(9, "nut")] and len(data) == 6 and len(data.boxes) == 1
    with pytest.raises(ValueError, match="annotations.json: categories: no 'washer'; it has bolt, nut"):
        some_categories(source, ["washer"], tmp_path / "part")


def test_a_part_is_written_again_only_when_it_changes(source, tmp_path):
    part = some_images(source, 2, tmp_path / "part")
    before = part.stat().st_mtime_ns
    assert some_images(source, 2, tmp_path / "part") == part and part.stat().st_mtime_ns == before
    some_images(source, 3, tmp_path / "part")
    assert len(read_json(part)["images"]) == 3


def test_no_images_and_no_sources_are_errors(source, make_coco, tmp_path):
    with pytest.raises(ValueError, match="images: expected at least 1, got 0"):
        some_images(source, 0, tmp_path / "part")
    with pytest.raises(ValueError, match="no image with an object"):
        some_images(make_coco("empty", [[], []]), 1, tmp_path / "part")
    with pytest.raises(ValueError, match="no source; expected folders with train.json"):
        find_sources(tmp_path)


def test_families_are_sources_that_differ_and_splits_do_not_meet(tmp_path):
    names = write_families(tmp_path, train=2, val=2, size=96)
    assert find_sources(tmp_path) == sorted(names) == sorted(FAMILIES)
    size = {}
    for name in names:
        folder = tmp_path / name
        train, val = (CocoFolder(folder / f"{split}.json", folder / "images") for split in ("train", "val"))
        assert (train[0].image != val[0].image).any() and train.categories == val.categories and len(train.categories) == 2
        size[name] = float((train.boxes[:, 2:] - train.boxes[:, :2]).prod(1).sqrt().median())
    assert size["tiny"] < 9 < size["faint"] < size["large"]
