"""`dealkit.predict.predictor`: clicks on one image, several kinds at once, images of every form and size, and whole data sets."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bfloat16, noise, same
from PIL import Image

import dealkit.predict.predictor
from dealkit.clicks import make_clicks
from dealkit.config import MIN_SCORE
from dealkit.data.coco import CocoFolder
from dealkit.data.transforms import to_input
from dealkit.model.checkpoint import save_model
from dealkit.model.deal import FOLLOW, Output, build_model
from dealkit.model.fuse import for_inference
from dealkit.model.queries import EXTENT, Activation
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import (
    Predictor,
    compete,
    detect,
    predict_coco,
    predict_prompts,
    shown,
    surest,
    to_detections,
    with_click,
)
from dealkit.prompts import stack_prompts, without_clicks

pytestmark = pytest.mark.usefixtures("float32_cpu")


# Predictor


def test_a_click_gives_boxes_inside_the_image_strongest_first(predictor):
    found = predictor.click(20.5, 30)
    assert len(found) >= 20 and found.boxes.shape == (len(found), 4) and found.scores.shape == (len(found),)
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([90.0, 70, 90, 70])).all()
    assert (found.scores.diff() <= 0).all() and (found.scores >= 0).all() and (found.scores <= 1).all()
    assert torch.equal(found.image, predictor.image) and found.points.tolist() == [[20.5, 30]] and found.labels.tolist() == [1]
    assert found.count > 0


def test_the_threshold_is_the_lowest_score_returned(tiny_model, predictor):
    everything = predictor.click(20, 30)
    cut = everything.scores.median().item()
    strict = Predictor(tiny_model, threshold=cut)
    strict.set_image(predictor.image)
    found = strict.click(20, 30)
    assert 0 < len(found) < len(everything) and found.scores.min() >= cut
    assert torch.equal(found.boxes, everything.above(cut).boxes)


def test_several_kinds_in_one_call_equal_one_by_one(predictor):
    prompts = [
        ([[20, 30]], None),
        ([[40, 30], [8, 50], [60, 12]], [1, 0, 1]),
        (np.array([[5.0, 5.0]]), None),
        (torch.tensor([[80.0, 60.0], [70.0, 10.0]]), torch.tensor([1, 1])),
    ]
    predictor.together = False
    together = predictor.predict_categories(prompts)
    assert len(together) == 4
    for found, (points, labels) in zip(together, prompts, strict=True):
        same(found, predictor.predict(points, labels))
        assert found.points.tolist() == np.asarray(points).tolist() and len(found.labels) == len(points)
    assert predictor.predict_categories([]) == []
    predictor.together = True
    for rival, alone in zip(predictor.predict_categories(prompts), compete(together), strict=True):
        same(rival, alone)


def test_the_image_is_encoded_once_for_all_clicks(predictor, monkeypatch):
    monkeypatch.setattr(predictor.model, "encode", None)
    assert len(predictor.click(20, 30)) and len(predictor.click(50, 50))


def test_the_next_image_replaces_the_last(predictor):
    predictor.set_image(noise(64, 64, seed=5))
    after = predictor.click(20, 30)
    assert after.image.shape == (3, 64, 64) and (after.boxes <= 64).all()


def test_a_click_before_any_image_says_what_to_do(tiny_model):
    with pytest.raises(ValueError, match="no image: call set_image first"):
        Predictor(tiny_model).click(1, 1)


@pytest.mark.parametrize("point", [(-0.1, 5), (5, -1), (90.5, 5), (5, 70.01), (float("nan"), 5), (5, float("inf"))])
def test_a_click_outside_the_image_is_refused(predictor, point):
    with pytest.raises(ValueError, match=r"prompts\[1\]: point \[.*\] is outside the image; expected x in 0..90, y in 0..70"):
        predictor.predict_categories([([[5, 5]], None), ([[1, 1], point], None)])


@pytest.mark.parametrize("point", [(0, 0), (90, 70), (90, 0), (89.99, 35)])
def test_a_click_on_the_border_is_taken(predictor, point):
    assert len(predictor.click(*point)) > 0


def test_no_box_lies_under_a_click_that_said_not_this(predictor):
    def under(found, x, y):
        x1, y1, x2, y2 = found.boxes.T
        return (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)

    x, y = predictor.click(20, 30).take([-1]).boxes.reshape(2, 2).mean(0).tolist()
    assert under(predictor.click(20, 30), x, y).any()
    found = predictor.predict([[20, 30], [x, y]], [1, 0])
    assert len(found) > 5 and not (under(found, x, y) & ~found.clicked).any()
    found = predictor.predict([[20, 30], [20, 30]], [1, 0])
    assert found.clicked[under(found, 20, 30)].all() and found.clicked.any(), "what was clicked as an object stays"


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        ([[5, 5]], [0], "prompt set 0: no positive point"),
        ([], None, "prompt set 0: no positive point"),
        ([[5, 5], [6, 6]], [1], r"prompt set 0: expected points \(p, 2\) and labels \(p,\), got \(2, 2\) and \(1,\)"),
        ([[5, 5]], [3], "prompt set 0: a label that is not 1, 0 or -1"),
        ([[5, 5, 9, 9]], None, r"^expected points \[\[x, y\], ...\], got shape \(1, 4\)"),
        ([5, 5], None, r"expected points \[\[x, y\], ...\], got shape \(2,\)"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(predictor, points, labels, said):
    with pytest.raises(ValueError, match=said):
        predictor.predict(points, labels)


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[5, 5, 9]], r"^expected boxes \[\[x1, y1, x2, y2\], ...\], got shape \(1, 3\)"),
        ([[1, 1, 9, 9], [50, 60, 4, 4]], r"^boxes\[1\]: not xyxy: \[50.0, 60.0, 4.0, 4.0\]"),
        ([[80, 5, 120, 9]], r"^point \[100.0, 7.0\] is outside the image"),
    ],
)
def test_a_box_that_makes_no_sense_is_refused(predictor, boxes, said):
    with pytest.raises(ValueError, match=said):
        predictor.predict(boxes=boxes)


def test_a_drawn_box_comes_back_as_it_was_drawn(predictor):
    """Beside a click and a negative click; the part outside the image is cut off."""
    found = predictor.predict([[60, 20], [30, 60]], [1, 0], boxes=[[10, 12, 21, 17], [80, 30, 96, 40]])
    assert found.points.tolist() == [[60, 20], [30, 60], [15.5, 14.5], [88, 35]] and found.labels.tolist() == [1, 0, 1, 1]
    assert {(10, 12, 21, 17), (80, 30, 90, 40)} <= {tuple(box) for box in found.boxes[found.clicked].tolist()}
    predictor.rescale = False  # both are read at one scale
    drawn, clicked = predictor.embed(None, boxes=[[10, 12, 21, 17]]), predictor.embed(None, [[15.5, 14.5]])
    assert (
        torch.equal(drawn.vectors[:, :-EXTENT], clicked.vectors[:, :-EXTENT])
        and drawn.vectors[0, -3] == 1 > clicked.vectors[0, -3]
    )
    prompts = [([], None, [[10, 12, 21, 17]]), ([[60, 20]], None), ([[30, 60]], None, [[40, 40, 47, 52]])]
    predictor.together = False
    for of_set, prompt in zip(predictor.predict_categories(prompts), prompts, strict=True):
        same(of_set, predictor.predict_categories([prompt])[0])


def test_boxes_in_other_images_follow_a_drawn_one(predictor):
    """The embedding tells how much wider it was drawn; asked without that, sizes are smaller by its power."""
    embedding = predictor.embed(None, boxes=[[10, 12, 31, 40]])
    wider = embedding.vectors[0, -2:]
    assert wider.abs().max() > 0.1 and not embedding.vectors[1, -EXTENT:].any()
    predictor.set_image(noise(64, 96))
    untold = torch.cat([embedding.vectors[:, :-2], torch.zeros(2, 2)], dim=1)
    sizes, plain = (
        detect(predictor.model, predictor.features, without_clicks([0]), vectors[None]).pred_boxes[0, :, 2:]
        for vectors in (embedding.vectors, untold)
    )
    torch.testing.assert_close(sizes, plain * (FOLLOW * wider).exp())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 77), (33, 31), (7, 128)])
def test_an_image_of_any_size_works(tiny_model, height, width):
    predictor = Predictor(tiny_model, threshold=0.0)
    predictor.set_image(noise(height, width))
    found = predictor.click(width / 2, height / 2)
    assert torch.isfinite(found.boxes).all() and torch.isfinite(found.scores).all()
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height, width, height])).all()


def test_a_predictor_reads_a_checkpoint(tiny_model, predictor, tmp_path):
    save_model(tiny_model, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        loaded = Predictor(path, threshold=0.0)
        loaded.set_image(predictor.image)
        same(loaded.click(20, 30), predictor.click(20, 30))


def test_the_model_given_is_left_as_it_is(make_tiny):
    model = make_tiny().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predictor = Predictor(model)
    predictor.set_image(noise(40, 40))
    predictor.click(5, 5)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("backbone", ["nano", "lite0", "resnet18", "resnet50"])
def test_the_copy_for_inference_computes_the_same_without_batch_norms(tiny_config, backbone):
    torch.manual_seed(0)
    model = build_model(replace(tiny_config, backbone=backbone, decoder_layers=1))
    for module in model.modules():  # statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5), module.weight.data.uniform_(0.5, 1.5)
    model.eval()
    fast = for_inference(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    prompts = stack_prompts([(torch.tensor([[20.0, 30.0]]), torch.tensor([1]))], [0])
    with torch.no_grad():
        slow, quick = (m(to_input(noise(64, 64))[None], prompts) for m in (model, fast))
    torch.testing.assert_close(quick.activation.peak_logits, slow.activation.peak_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(quick.pred_boxes[:, 0], slow.pred_boxes[:, 0], rtol=1e-3, atol=1e-2)


def test_bfloat16_gives_nearly_the_same(tiny_model, predictor, monkeypatch):
    bfloat16(monkeypatch, faster=True)
    short = Predictor(tiny_model, threshold=0.0)
    assert {p.dtype for p in short.model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in for_inference(tiny_model, float32=True).parameters()} == {torch.float32}, "what graphs are made of"
    short.set_image(predictor.image)
    found, expected = short.click(20, 30), predictor.click(20, 30)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    again = Predictor(short.model, threshold=0.0)
    again.set_image(predictor.image)
    same(again.click(20, 30), found)
    assert abs(found.scores.max() - expected.scores.max()) < 0.02 and found.count == pytest.approx(expected.count, rel=0.1)


# Detections


@pytest.fixture
def detections():
    return Detections(
        boxes=torch.tensor([[1.0, 1, 5, 5], [10, 10, 14.123, 16]]),
        scores=torch.tensor([0.75, 0.25]),
        image=noise(20, 30),
        points=torch.tensor([[3.0, 3.0], [20.0, 10.0]]),
        labels=torch.tensor([1, 0]),
    )


def test_detections_become_json(detections):
    assert json.loads(json.dumps(detections.to_dict())) == {
        "boxes": [[1.0, 1.0, 5.0, 5.0], [10.0, 10.0, 14.12, 16.0]],
        "scores": [0.75, 0.25],
    }
    assert detections.above(1.0).to_dict() == {"boxes": [], "scores": []}


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_detections_draw_themselves(detections, threshold):
    import matplotlib.pyplot as plt

    some = detections.above(threshold)
    ax = some.plot()
    assert len(ax.patches) == len(some) and len(ax.images) == 1 and ax.get_title() == f"{len(some)} found"
    assert ax.get_xlim() == (0, 30) and ax.get_ylim() == (20, 0)  # pixels, with y down
    assert [c.get_offsets().tolist() for c in ax.collections] == [[[3, 3]], [[20, 10]]]
    one = replace(some, points=some.points[:1], labels=some.labels[:1])
    assert one.plot(ax) is ax and ax.get_title() == f"{len(some)} found with one click"
    assert one.plot(ax, title="coins").get_title() == "coins"
    plt.close(ax.figure)


def test_a_notebook_shows_a_png_and_nothing_stays_open(detections, tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    picture = Image.open(io.BytesIO(detections._repr_png_()))
    assert picture.format == "PNG" and min(picture.size) > 100
    assert replace(detections, image=None)._repr_png_() is None
    detections.save_figure(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == picture.size
    assert plt.get_fignums() == before


# Rivals, rounds and uncertain clicks


def found_at(x, scores, clicked=(), **more):
    """Detections of 8 x 8 px at these x, strongest first."""
    boxes = torch.tensor([[v, 10.0, v + 8, 18.0] for v in x]).reshape(-1, 4)
    return Detections(
        boxes=boxes, scores=torch.tensor(scores), clicked=torch.tensor([k in clicked for k in range(len(x))]), **more
    )


def test_rivals_share_the_score_of_a_place():
    """At 0 a kind of 0.8 and one of 0.6, at 50 one alone; the first keeps 0.8 x 0.8 / 1.4 and falls behind the one alone."""
    a, b, none = found_at([0, 50], [0.8, 0.7], clicked=[0], count=2.0), found_at([1], [0.6]), found_at([], [])
    first, second, third = compete([a, b, none])
    assert first.scores.tolist() == pytest.approx([0.7, 0.64 / 1.4]) and first.boxes[:, 0].tolist() == [50, 0]
    assert first.clicked.tolist() == [False, True] and first.count == 2
    assert second.scores.tolist() == pytest.approx([0.36 / 1.4]) and len(third) == 0
    assert torch.equal(compete([a])[0].scores, a.scores) and compete([]) == []
    apart = compete([a, found_at([5], [0.9])])[0]  # 3 of 13 px: no IoU over 0.5
    assert apart.scores.tolist() == pytest.approx([0.8, 0.7])


def test_the_surest_detections_are_prompts_beside_the_click_the_farthest_first(predictor, monkeypatch):
    asked = []

    def embed(model, features, prompts):
        asked.append(prompts.points[0, :, 0].tolist())
        return torch.full((1, 2, 9), 4.0)

    monkeypatch.setattr(dealkit.predict.predictor, "embed", embed)
    found = [found_at([10, 20, 90, 50, 12, 88, 0], [0.9] * 6 + [0.4]), found_at([10], [0.4])]
    given = torch.arange(36.0).reshape(2, 2, 9)
    new = surest(predictor.model, predictor.features, found, given)
    assert asked == [[14, 94, 54, 24, 16]]  # centres, 80, 40 and 10 px from those before; at most five, all of 0.5 or more
    assert new[0, 0].tolist() == [2.0, 2.5, 3.0, 3.5, 4, 5, 6, 7, 8]  # half each; the extent is the click's
    assert torch.equal(new[0, 1], given[0, 1]) and torch.equal(new[1], given[1])


def test_what_was_clicked_keeps_its_score_through_the_rounds(predictor):
    later, first = found_at([0, 50, 90], [0.9, 0.5, 0.2], clicked=[2]), found_at([90, 0], [0.7, 0.1], clicked=[0])
    kept = with_click(later, first)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.5]) and kept.boxes[:, 0].tolist() == [0, 90, 50]
    assert kept.clicked.tolist() == [False, True, False]
    assert with_click(later, found_at([90], [0.7])) is later and with_click(found_at([], []), first).clicked.tolist() == []
    once = predictor.click(20, 30)
    predictor.rounds = 3
    thrice = predictor.click(20, 30)
    assert thrice.certain == once.certain and thrice.scores[thrice.clicked].max() >= once.scores[once.clicked].max()


def test_an_uncertain_click_shows_nothing_unless_all_is_asked_for(monkeypatch):
    monkeypatch.setattr("dealkit.predict.detections.CERTAIN", 0.1)
    unsure, sure, unclicked = (found_at([0, 50], [0.6, 0.05], certain=c, count=1.0) for c in (0.09, 0.1, None))
    assert [len(shown(unsure, t)) for t in (0.5, "adaptive", 0.002, MIN_SCORE, 0.0)] == [0, 0, 0, 2, 2]
    assert [len(shown(f, 0.5)) for f in (sure, unclicked)] == [1, 1] and shown(unsure, 0.5).certain == 0.09
    assert torch.equal(shown(sure, "adaptive").scores, sure.adaptive().scores)


# Data sets


@pytest.fixture
def data(make_coco):
    rows = [
        [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)],
        [],
        [(5, [30, 30, 6, 8], 0), (9, [2, 2, 4, 4], 0), (9, [80, 60, 10, 10], 0), (9, [60, 60, 9, 9], 0)],
    ]
    file = make_coco("three", rows)
    return file, CocoFolder(file, file.parent / "images")


def test_results_are_coco_results_inside_their_images(data, tiny_model):
    file, folder = data
    found = predict_coco(tiny_model, folder, [make_clicks(file, setting="1/category", seed=0)])[0]
    assert {(row["image_id"], row["category_id"]) for row in found} == {(1, 5), (1, 9), (3, 5), (3, 9)}
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in found)
    x, y, w, h = np.array([row["bbox"] for row in found]).T
    assert (x >= 0).all() and (y >= 0).all() and (w >= 0).all() and (h >= 0).all()
    assert (x + w <= 90.02).all() and (y + h <= 70.02).all()  # both parts are rounded to 0.01
    assert all(0.001 <= row["score"] <= 1 for row in found)
    from pycocotools.coco import COCO

    assert len(COCO(str(file)).loadRes(json.loads(json.dumps(found))).anns) == len(found)


def as_detections(rows, pair):
    rows = [row for row in rows if (row["image_id"], row["category_id"]) == pair]
    return Detections(boxes=torch.tensor([row["bbox"] for row in rows]), scores=torch.tensor([row["score"] for row in rows]))


def test_several_click_lists_at_once_equal_each_alone(data, tiny_model):
    file, folder = data
    lists = [
        make_clicks(file, setting=setting, seed=seed)
        for setting, seed in (("1/category", 0), ("3/category", 1), ("1/instance", 0))
    ]
    together = predict_coco(tiny_model, folder, lists)
    assert len(together) == 3
    for found, clicks in zip(together, lists, strict=True):
        alone = predict_coco(tiny_model, folder, [clicks])[0]
        for pair in {(p["image_id"], p["category_id"]) for p in clicks["prompts"]}:
            same(as_detections(found, pair), as_detections(alone, pair))


def test_results_are_those_of_a_click_on_the_image(data, tiny_model):
    file, folder = data
    clicks = make_clicks(file, setting="3/category", seed=0)
    found = predict_coco(tiny_model, folder, [clicks])[0]
    predictor = Predictor(tiny_model, threshold=0.001)
    predictor.set_image(folder[2].image)
    prompt = next(p for p in clicks["prompts"] if (p["image_id"], p["category_id"]) == (3, 9))
    expected = predictor.predict(prompt["points"], prompt["labels"])
    xywh = torch.cat([expected.boxes[:, :2], expected.boxes[:, 2:] - expected.boxes[:, :2]], 1)
    same(as_detections(found, (3, 9)), replace(expected, boxes=xywh))


def test_kinds_of_one_click_list_are_rivals_and_those_of_two_are_not(data, tiny_model):
    file, folder = data
    lists = [make_clicks(file, setting="1/category", seed=0, kind=kind) for kind in ("centre", "box")]
    alone, rivals = (list(predict_prompts(tiny_model, folder, lists, together=t)) for t in (False, True))
    for k in (0, 1):
        for image_id in (1, 3):
            mine = [f for of_list, prompt, f in alone if (of_list, prompt["image_id"]) == (k, image_id)]
            theirs = [f for of_list, prompt, f in rivals if (of_list, prompt["image_id"]) == (k, image_id)]
            assert len(mine) == 2 and all(torch.equal(a.scores, b.scores) for a, b in zip(compete(mine), theirs, strict=True))
    drawn = next(f for k, prompt, f in alone if (k, prompt["image_id"], prompt["category_id"]) == (1, 1, 9))
    assert [70, 10, 80, 20] in drawn.boxes[drawn.clicked].tolist()


def test_limits_of_score_and_number_are_kept(data, tiny_model):
    file, folder = data
    clicks = [make_clicks(file, setting="1/category", seed=0)]
    few = predict_coco(tiny_model, folder, clicks, max_dets=3)[0]
    assert len(few) == 4 * 3
    every = predict_coco(tiny_model, folder, clicks)[0]
    assert len(every) > 4 * 20 and min(row["score"] for row in every) >= MIN_SCORE


def test_no_clicks_give_no_results(data, tiny_model):
    empty = {"setting": "1/category", "seed": 0, "kind": "centre", "prompts": []}
    assert predict_coco(tiny_model, data[1], [empty, empty]) == [[], []] and predict_coco(tiny_model, data[1], []) == []


def test_a_click_list_that_is_none_is_refused(data, tiny_model):
    with pytest.raises(ValueError, match="clicks: expected an object with setting"):
        predict_coco(tiny_model, data[1], [{"prompts": []}])


def test_what_was_clicked_is_the_strongest_of_the_clicks_own_queries():
    """Two clicks with two queries each: 0 and 2 of the first, 1 and 3 of the second; the fifth is nobody's."""
    boxes = torch.tensor([[10, 10, 8, 8], [40, 40, 8, 8], [10, 10, 4, 4], [40, 40, 16, 16], [70, 70, 8, 8.0]])
    nothing = torch.zeros(1, 1, 1)
    output = Output(
        pred_logits=torch.tensor([[0.3, 0.4, 0.1, 0.6, 0.9]]).logit(),
        pred_boxes=boxes[None],
        valid=torch.ones(1, 5, dtype=torch.bool),
        activation=Activation(hidden=nothing[None], peak_logits=nothing, density=nothing, boxes=torch.zeros(1, 1, 1, 4)),
        aux_outputs=[],
        reference_points=boxes[None],
        count=torch.tensor([3.0]),
        starts=2,
        denoised=[],
    )
    found = to_detections(output, 0, (100, 100), clicks=2)
    assert [round(s, 1) for s in found.scores.tolist()] == [0.9, 0.6, 0.4, 0.3, 0.1]
    assert found.clicked.tolist() == [False, True, False, True, False]
    assert found.certain == pytest.approx((0.3 + 0.6) / 2)
    plain = to_detections(output, 0, (100, 100))
    assert plain.clicked is None and plain.certain is None
