"""`dealkit.report.publish`: the choice among averages, and how far boxes move with the image round their objects."""

import pytest
import torch

import dealkit.report.publish
from dealkit.model.checkpoint import load_model, save_model
from dealkit.predict.predictor import DEFAULT_CHECKPOINT
from dealkit.report.publish import LARGEST_SHIFT, PLACES, SHAPES, box_shift, choose_average, plain_shapes

pytestmark = pytest.mark.usefixtures("float32_cpu")


def value(model):
    return next(model.parameters()).flatten()[0].item()


@pytest.fixture
def choose(make_constant, tmp_path, monkeypatch):
    """Chooses among averages of models of weights 1 and 3, by AP50 and shift as functions of the averaged weight."""
    row = dict.fromkeys(("ap25", "ap75", "ap", "recall50", *(f"ap50_{b}" for b in ("vt", "t", "s", "m"))), 0.1)
    others = {"clicked_ignored": None, "hit": 0.5, "hit_shown": 0.5, "count": {"mae": 1.0}}
    for name, weight in (("a", 1.0), ("b", 3.0)):
        save_model(make_constant(weight), tmp_path / name)

    def choose(ap50, shift):
        score = {"evaluate_on_scenes": lambda model, *_: {"all": row | {"ap50": ap50(value(model))}, **others}}
        score["box_shift"] = lambda model, shape: shift(value(model))
        for name, function in score.items():
            monkeypatch.setattr(dealkit.report.publish, name, function)
        return choose_average(tmp_path / "a", [tmp_path / "b"], tmp_path / "best", shares=(0.0, 0.5, 1.0), scenes=3)

    return choose


def test_the_best_on_held_out_scenes_is_written(choose, tmp_path):
    made = choose(lambda weight: 1 - abs(weight - 2) / 2, lambda weight: 0.0)  # the middle is best
    assert made["best"] == 0.5 and [row["ap50"] for row in made["shares"]] == [0.5, 1.0, 0.5]
    assert all(torch.all(weight == 2) for weight in load_model(tmp_path / "best").parameters())


def test_of_averages_whose_boxes_move_with_the_image_none_is_chosen(choose):
    """AP grows with the share; boxes move by 0.2, 0.5 and 0.6 px at 0, 0.5 and 1: the middle is the best that may be."""
    made = choose(lambda weight: weight / 4, {1.0: 0.2, 2.0: 0.5, 3.0: 0.6}.get)
    assert made["best"] == 0.5 and [r["box_shift"] for r in made["shares"]] == [0.2, 0.5, 0.6]
    made = choose(lambda weight: weight / 4, {1.0: None, 2.0: 0.7, 3.0: 0.6}.get)
    assert made["best"] == 1.0 and made["shares"][0]["box_shift"] is None, "all move too far: the best AP50"


def test_a_model_that_finds_nothing_has_no_shift(make_constant):
    assert box_shift(make_constant(0.0), ("disc", 8, 8)) is None


@pytest.mark.parametrize("kind", ["disc", "rectangle"])
def test_plain_shapes_fill_their_boxes_and_stand_away_from_the_borders(kind):
    for (height, width), offset in PLACES.values():
        image, boxes = plain_shapes(kind, 12, 8, (height, width), offset)
        assert image.shape == (3, height, width) and boxes.amin() >= 96
        assert (boxes[:, 2] <= width - 96).all() and (boxes[:, 3] <= height - 96).all()
        for x1, y1, x2, y2 in boxes.int().tolist():
            lit = image[0] != 90
            assert lit[y1:y2, x1:x2].any(0).all() and lit[y1:y2, x1:x2].any(1).all()
        assert lit.sum() == sum(lit[y1:y2, x1:x2].sum() for x1, y1, x2, y2 in boxes.int().tolist())


@pytest.mark.skipif(not DEFAULT_CHECKPOINT.is_file(), reason=f"needs {DEFAULT_CHECKPOINT.name}")
@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_has_the_same_box_in_a_crop_a_large_image_a_strip_and_beside_padding(shape):
    """At least 96 px from any border, four objects are found everywhere, each box within half a pixel."""
    shift = box_shift(load_model(DEFAULT_CHECKPOINT), shape)
    assert shift is not None and shift <= LARGEST_SHIFT == 0.5
