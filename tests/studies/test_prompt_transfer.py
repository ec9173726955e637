"""`dealkit.studies.prompt_transfer`: which images are clicked and looked in, prompts within a source and from others."""

import pytest

from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.report.study_tables import pair_losses, transfer_table
from dealkit.studies.prompt_transfer import draw_images, main_category, prompt_matrix, transfer_scores

pytestmark = pytest.mark.usefixtures("float32_cpu")

PAIRS = [(image, 5) for image in range(1, 11)] + [(1, 9), (2, 9), (3, 7)]
BOLT, NUT = (5, [10, 12, 6, 8], 0), (9, [60, 10, 10, 10], 0)


def test_clicked_images_are_never_looked_in_and_all_hold_the_category():
    drawn = draw_images(PAIRS, clicked=4, targets=3, seed=0)
    assert sorted(drawn) == [5, 9]  # 7 is in one image only
    for category, (clicked, targets) in drawn.items():
        assert not set(clicked) & set(targets) and all((i, category) in PAIRS for i in clicked + targets)
    assert [len(part) for part in drawn[5]] == [4, 3] and [len(part) for part in drawn[9]] == [1, 1]


def test_the_draw_depends_on_the_seed_alone_and_fewer_clicks_are_the_first_of_more():
    draws = [draw_images(PAIRS, clicked=4, targets=3, seed=seed) for seed in range(3)]
    assert draws[0] == draw_images(PAIRS[::-1] * 2, clicked=4, targets=3, seed=0)
    assert len({str(draw) for draw in draws}) == 3
    assert draw_images(PAIRS, clicked=1, targets=9, seed=0)[5][0] == draws[0][5][0][:1]
    assert draw_images([], clicked=4, targets=3, seed=0) == {}


def test_every_source_has_scores_of_its_own_clicks_of_one_and_of_several(make_coco, checkpoint, tmp_path):
    bolts = [[(5, [10 + 5 * k, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0)] for k in range(4)]
    file = make_coco("source", [*bolts, [(9, [70, 10, 10, 10], 0)], []])
    made = transfer_scores(checkpoint, [file], tmp_path / "out.json", clicked=2, targets=5, seeds=2)
    assert [(r["source"], r["prompt"], r["seed"]) for r in made.rows] == [
        ("source", prompt, seed) for seed in (0, 1) for prompt in ("own", "one", "mean")
    ]
    assert {r["pairs"] for r in made.rows} == {2}  # of four images with bolts two are clicked; the nut is in one image only
    assert all(0 <= r[name] <= 1 for r in made.rows for name in ("ap50", "ap75", "ap50_ignored", "ap75_ignored"))
    assert read_json(tmp_path / "out.json")["rows"] == made.rows
    assert "the mean of clicks in 2 others" in transfer_table(made.as_json())


def test_sources_where_nothing_can_be_carried_over_are_an_error(tiny_coco, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="annotations.json: expected a category that is in two images"):
        transfer_scores(checkpoint, [tiny_coco], tmp_path / "out.json")


def test_the_main_category_has_the_most_objects(make_sources):
    root = make_sources(nuts=[[NUT, (9, [60, 40, 12, 12], 0), BOLT]])
    assert main_category(read_json(root / "nuts" / "train.json")) == (9, "nut")
    tie = {"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}], "annotations": []}
    assert main_category(tie) == (1, "a")


def test_prompts_of_every_source_are_asked_of_every_other(make_sources, wide_model, tmp_path):
    checkpoint = tmp_path / "wide.safetensors"
    save_model(wide_model, checkpoint)
    root = make_sources(bolts=[[BOLT, (5, [50, 40, 6, 6], 0)]] * 3, nuts=[[NUT, (9, [60, 40, 12, 12], 0), BOLT]] * 3)
    made = prompt_matrix(checkpoint, root, ["bolts", "nuts"], clicked=2, images=2, results=tmp_path / "r.json")
    pairs = [(a, b) for b in ("bolts", "nuts") for a in ("own", "bolts", "nuts")]
    assert [(r["from"], r["to"]) for r in made.rows] == pairs and all(0 <= r["ap50"] <= 1 for r in made.rows)
    assert [r["category"] for r in made.rows if r["from"] == "own"] == ["bolt", "nut"]
    assert read_json(tmp_path / "r.json")["rows"] == made.rows
    losses = pair_losses(made.as_json())
    assert losses[["from", "to"]].values.tolist() == [["nuts", "bolts"], ["bolts", "nuts"]] and losses["distance"].gt(0).all()


def test_losses_leave_out_what_has_no_score():
    scores = {("a", "a"): 0.5, ("a", "b"): None, ("b", "a"): 0.1, ("b", "b"): None}
    rows = [{"from": a, "to": b, "ap50_ignored": value, "distance": 1.0} for (a, b), value in scores.items()]
    before = {"from": None, "to": "a", "ap50_ignored": 0.3, "distance": None}
    assert pair_losses({"rows": [before, *rows]})[["from", "to", "loss"]].values.tolist() == [["b", "a", 0.4]]
