"""`dealkit.studies.transfer`: which images are clicked and looked in, and the whole evaluation on a tiny model and data set."""

import json

import pytest

from dealkit.studies.transfer import draw_images, transfer

pytestmark = pytest.mark.usefixtures("float32_cpu")

PAIRS = [(image, 5) for image in range(1, 11)] + [(1, 9), (2, 9), (3, 7)]


def test_clicked_images_are_never_looked_in_and_all_hold_the_category():
    drawn = draw_images(PAIRS, clicked=4, targets=3, seed=0)
    assert sorted(drawn) == [5, 9]  # 7 is in one image only
    for category, (clicked, targets) in drawn.items():
        assert not set(clicked) & set(targets) and all((i, category) in PAIRS for i in clicked + targets)
    assert [len(part) for part in drawn[5]] == [4, 3] and [len(part) for part in drawn[9]] == [1, 1]


def test_the_draw_depends_on_the_seed_alone():
    draws = [draw_images(PAIRS, clicked=4, targets=3, seed=seed) for seed in range(3)]
    assert draws[0] == draw_images(PAIRS[::-1] * 2, clicked=4, targets=3, seed=0)
    assert len({str(draw) for draw in draws}) == 3
    assert draw_images([], clicked=4, targets=3, seed=0) == {}


def test_fewer_clicks_are_the_first_of_more():
    few, many = (draw_images(PAIRS, clicked=n, targets=9, seed=0)[5][0] for n in (1, 5))
    assert many[:1] == few


def test_every_source_has_scores_of_its_own_clicks_of_one_and_of_several(make_coco, checkpoint, tmp_path):
    bolts = [[(5, [10 + 5 * k, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0)] for k in range(4)]
    file = make_coco("source", [*bolts, [(9, [70, 10, 10, 10], 0)], []])
    results = transfer(checkpoint, [file], tmp_path / "out.json", clicked=2, targets=5, seeds=2)
    assert json.loads((tmp_path / "out.json").read_text())["mean"] == results["mean"]
    row = results["sources"]["source"]
    assert row["pairs"] == 2  # of four images with bolts two are clicked; the nut is in one image only
    for name in ("own", "one", "mean"):
        assert set(row[name]) == {"ap50", "ap75", "ap50_ignored", "ap75_ignored"}
        assert all(0 <= value <= 1 for value in row[name].values())


def test_sources_where_nothing_can_be_carried_over_are_an_error(tiny_coco, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="annotations.json: expected a category that is in two images, found none"):
        transfer(checkpoint, [tiny_coco], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
