"""FiftyOne with predictions: kinds of mistakes worked out by hand, saved views, what a second build does, and the App."""

import json

import numpy as np
import pytest
from PIL import Image

from dealkit.browse import dataset as browse
from dealkit.browse import map as browse_map
from dealkit.browse import mistakes
from dealkit.browse.mistakes import CLICK_COLOURS, ERROR_COLOURS, add_predictions, field_name
from dealkit.clicks import save_clicks
from dealkit.data.objects import read_table

BOLT, NUT = 5, 9
OBJECTS = [
    # annotations 1 to 5: found by both, found by the first alone, missed and very tiny, found loosely, taken by bolts
    [(BOLT, [10, 10, 10, 10], 0), (BOLT, [40, 10, 10, 10], 0), (BOLT, [10, 40, 6, 6], 0), (BOLT, [40, 40, 10, 10], 0)]
    + [(NUT, [70, 10, 10, 10], 0)],
    [],
    # annotation 6: a crowd region; annotation 7: found by the second alone
    [(BOLT, [5, 5, 30, 30], 1), (BOLT, [60, 40, 10, 10], 0)],
]
FIRST = [
    (1, BOLT, [10, 10, 10, 8], 0.9),  # annotation 1, IoU 80 / 100
    (1, BOLT, [10, 11, 10, 8], 0.6),  # the same once more
    (1, BOLT, [40, 10, 10, 10], 0.8),  # annotation 2
    (1, BOLT, [40, 40, 10, 4], 0.7),  # annotation 4, IoU 0.4
    (1, BOLT, [70, 10, 10, 10], 0.65),  # on the nut
    (1, BOLT, [60, 60, 8, 8], 0.55),  # on nothing
    (1, BOLT, [20, 60, 8, 8], 0.3),  # on nothing, not confident
    (1, BOLT, [10, 40, 6, 6], 0.1),  # annotation 3, but under the score shown
    (2, NUT, [30, 30, 9, 9], 0.5),  # the image has no object
    (3, BOLT, [10, 10, 8, 8], 0.8),  # in the crowd region
]
SECOND = [(1, BOLT, [10, 10, 10, 10], 0.5), (3, BOLT, [60, 40, 10, 10], 0.75)]
CLICK = {"image_id": 1, "category_id": BOLT, "points": [[15.0, 15.0]], "labels": [1], "annotation_ids": [1]}


def results(rows):
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in rows]


@pytest.fixture
def case(fo, make_coco, tmp_path):
    """Files of a data set with two sets of predictions and a click."""
    coco, clicks = make_coco("parts", OBJECTS), tmp_path / "clicks.json"
    save_clicks({"setting": "1/category", "seed": 0, "kind": "centre", "prompts": [CLICK]}, clicks)
    files = {"coco": coco, "clicks": clicks}
    for name, rows in (("first", FIRST), ("second", SECOND)):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(results(rows)))
    return files


def bring(case, name, *predictions, **options):
    """Build the data set with these predictions, or both; the data set and what was done."""
    made = browse.build_dataset([case["coco"]], name=name)
    chosen = [case[p] for p in predictions or ("first", "second")]
    return made.dataset, add_predictions(made.dataset, read_table([case["coco"]]), chosen, case["clicks"], **options)


def objects_of(dataset):
    """Annotation id -> object."""
    return {label.annotation_id: label for sample in dataset for label in sample.objects.detections}


def test_every_object_says_what_became_of_it(case, name):
    dataset, made = bring(case, name)
    assert (made.names, made.written) == (["first", "second"], {"first": 3, "second": 3})
    assert made.detections == {"first": 9, "second": 2}, "one of the first is under the score"
    objects = objects_of(dataset)
    states = ["found", "found", "missed", "localisation", "other category", "ignored", "missed"]
    assert [objects[i].first_error for i in range(1, 8)] == states
    assert [objects[i].second_error for i in (1, 2, 7)] == ["found", "missed", "found"]
    # 1 - score x IoU: 1 - 0.9 x 0.8 and 1 - 0.8 x 1; what is not found has lost all
    losses = [0.28, 0.2, 1, 1, 1, None, 1]
    assert [objects[i].first_loss for i in range(1, 8)] == [None if v is None else pytest.approx(v) for v in losses]
    assert (objects[4].first_error_iou, objects[4].first_score) == (pytest.approx(0.4), pytest.approx(0.7))
    assert (objects[1].instances, objects[1].truncated, objects[5].kinds) == (4, 0, 2), "the factors of its image"
    assert objects[1].click_distance == pytest.approx(0) and objects[7].click_distance is None


def test_every_detection_says_what_it_is(case, name):
    dataset, made = bring(case, name)
    sample = dataset.match({"image_id": 1}).first()
    kinds = {round(d.confidence, 2): (d.first_error, d.annotation_id) for d in sample.first.detections}
    of_objects = {0.9: ("true", 1), 0.6: ("duplicate", 1), 0.8: ("true", 2), 0.7: ("localisation", 4)}
    assert kinds == of_objects | {0.65: ("other category", 5)} | {0.55: ("background", None), 0.3: ("background", None)}
    assert sample.first.detections[-1].confidence == 0.9, "the strongest is drawn last, on top"
    assert sample.first.detections[-1].bounding_box == pytest.approx([10 / 90, 10 / 70, 10 / 90, 8 / 70])
    counts = {"other category": 1, "localisation": 1, "both": 0, "duplicate": 1, "background": 3, "missed": 2}
    assert made.mistakes["first"] == counts
    # losses 0.28 + 0.2 + 1 + 1 + 1, scores of false ones 0.6 + 0.7 + 0.65 + 0.55 + 0.3
    assert sample.first_loss == pytest.approx(3.48 + 2.8)
    assert dataset.match({"image_id": 2}).first().first_loss == pytest.approx(0.5)
    assert dataset.match({"image_id": 3}).first().first_loss == pytest.approx(1), "nothing is wrong in the crowd"
    (click,) = sample.clicks.keypoints
    assert (click.label, click.meaning) == ("bolt", "this") and click.points[0] == pytest.approx([15 / 90, 15 / 70])


VIEW_COUNTS = {
    "first: missed very tiny": ("objects", 1, 1),
    "first: confident false positives": ("first", 2, 5),  # 0.6, 0.7, 0.65, 0.55 in one image, 0.5 in another
    "first: duplicates": ("first", 1, 1),
    "first: confused categories": ("first", 1, 1),
    "first: worst images": ("objects", 3, 7),
    "second: missed very tiny": ("objects", 1, 1),
    "second: confident false positives": ("second", 0, 0),
    "second: worst images": ("objects", 2, 7),  # the one without objects has nothing wrong
    "only first": ("objects", 1, 1),
    "only second": ("objects", 1, 1),
}
"""View -> field, images, labels."""


def test_saved_views_keep_what_they_say(case, name):
    dataset, _ = bring(case, name)
    views = {view: dataset.load_saved_view(view) for view in dataset.list_saved_views()}
    expected = [f"{name}: {view}" for name in ("first", "second") for view in mistakes.ERROR_VIEWS]
    assert sorted(views) == sorted([*expected, "only first", "only second", *browse.VIEWS])
    for view, (field, images, labels) in VIEW_COUNTS.items():
        assert (len(views[view]), views[view].count(f"{field}.detections")) == (images, labels), view
    assert views["first: worst images"].values("image_id") == [1, 3, 2]
    assert views["only first"].values("objects.detections.annotation_id") == [[2]]
    assert views["only second"].values("objects.detections.annotation_id") == [[7]]
    # a patch each: 4 objects that are not found (3, 4, 5, 7) and 6 false detections
    patches = views["first: mistakes"]
    kinds = patches.count_values("type")
    assert kinds == {"missed": 2, "localisation": 2, "other category": 2, "duplicate": 1, "background": 3}
    found = dataset.to_evaluation_patches("first_error").match({"type": "found"})
    assert found.count("objects.detections") == found.count("first.detections") == 2, "found ones come with what found them"


def test_a_second_build_writes_only_what_has_changed(case, name, monkeypatch):
    dataset, _ = bring(case, name)
    sample = dataset.match({"image_id": 3}).first()
    sample.objects.detections[1].tags.append("mine")
    sample.second.detections[0].tags.append("missing")
    sample.save()
    measured, measure = [], mistakes.measure_factors
    monkeypatch.setattr(mistakes, "measure_factors", lambda table, i, rest: measured.append(i) or measure(table, i, rest))
    assert bring(case, name)[1].written == {"first": 0, "second": 0} and not measured

    case["first"].write_text(json.dumps(results([*FIRST, (3, BOLT, [60, 40, 10, 10], 0.9)])))
    dataset, made = bring(case, name)
    assert made.written == {"first": 1, "second": 0} and not measured
    dataset.reload()
    sample = dataset.match({"image_id": 3}).first()
    assert sample.objects.detections[1].first_error == "found" and sample.objects.detections[1].tags == ["mine"]
    assert sample.second.detections[0].tags == ["missing"]
    assert dataset.load_saved_view("only second").count("objects.detections") == 0

    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(case["coco"].parent / "images" / "1.png")
    assert bring(case, name)[1].written == {"first": 1, "second": 1} and measured == [1]


def test_a_build_that_was_stopped_goes_on(case, name, monkeypatch):
    write = mistakes._write
    monkeypatch.setattr(mistakes, "_write", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bring(case, name)
    monkeypatch.setattr(mistakes, "_write", write)
    dataset, made = bring(case, name, batch=1)
    assert made.written == {"first": 3, "second": 3} and objects_of(dataset)[1].first_error == "found"


def test_other_predictions_take_the_place_of_earlier_ones_unless_those_are_tagged(case, name):
    dataset, _ = bring(case, name)
    dataset, _ = bring(case, name, "second")
    assert not dataset.has_field("first") and not dataset.has_field("objects.detections.first_error")
    assert not [view for view in dataset.list_saved_views() if "first" in view or view.startswith("only")]
    assert objects_of(dataset)[7].second_error == "found"
    sample = dataset.match({"image_id": 3}).first()
    sample.second.detections[0].tags.append("missing")
    sample.save()
    with pytest.raises(ValueError, match="second: has tagged detections and is not among the predictions given"):
        bring(case, name, "first")


def test_predictions_without_rows_miss_everything_and_a_broken_row_is_named(case, name):
    case["first"].write_text("[]")
    dataset, made = bring(case, name, "first")
    assert made.detections == {"first": 0} and made.mistakes["first"]["missed"] == 6
    assert dataset.load_saved_view("first: mistakes").count_values("type") == {"missed": 6}
    case["first"].write_text(json.dumps(results([(1, 4, [1, 1, 2, 2], 0.5)])))
    with pytest.raises(ValueError, match=r"first\.json: predictions\[0\]\.category_id: expected an id .*, got 4"):
        bring(case, name, "first")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "predictions: expected one or two sets, got 0"),
        (["a.json", "b.json", "c.json"], "predictions: expected one or two sets, got 3"),
        (["x/a.json", "y/a.json"], "x/a.json and y/a.json are both shown as 'a': rename one"),
        (["none.json"], "none.json: no such file of predictions"),
    ],
)
def test_wrong_predictions_are_named(case, name, predictions, message):
    dataset = browse.build_dataset([case["coco"]], name=name).dataset
    with pytest.raises(ValueError, match=message):
        add_predictions(dataset, read_table([case["coco"]]), predictions)


def test_several_sources_are_told_apart_by_their_folders(fo, make_coco, tmp_path, name):
    files = [make_coco(source, OBJECTS) for source in ("a", "b")]
    for source, rows in (("a", FIRST), ("b", SECOND)):
        (tmp_path / f"{source}.json").write_text(json.dumps(results(rows)))
    dataset = browse.build_dataset(files, name=name).dataset
    with pytest.raises(ValueError, match=r"a\.json: expected \{source\} in the name, since there are 2 COCO files"):
        add_predictions(dataset, read_table(files), [tmp_path / "a.json"])
    made = add_predictions(dataset, read_table(files), [tmp_path / "{source}.json"])
    (field,) = made.names
    assert field == field_name(tmp_path / "{source}.json") and made.detections[field] == 11
    assert dataset.match({"source": "b"}).values(f"{field}.detections.confidence") == [[0.5], [], [0.75]]
    assert not dataset.count("clicks.keypoints"), "no click list was given"


def test_missed_objects_get_a_map(case, name, tiny_model, tmp_path, monkeypatch):
    from dealkit.predict.predictor import Predictor

    dataset, _ = bring(case, name)
    monkeypatch.setattr(browse_map, "Predictor", lambda checkpoint: Predictor(tiny_model))
    # not found: 3, 4, 5 and 7; found: 1 and 2
    assert browse_map.add_map(dataset, read_table([case["coco"]]), "first", "tiny") == 6
    layout = dataset.load_brain_results("first_map")
    assert layout.points.shape == (6, 2) and np.isfinite(layout.points).all()
    shown = {i: label.id for i, label in objects_of(dataset).items()}
    assert set(layout.label_ids) == {shown[i] for i in (1, 2, 3, 4, 5, 7)}
    again = layout.points.copy()
    browse_map.add_map(dataset, read_table([case["coco"]]), "first", "tiny")
    assert np.array_equal(dataset.load_brain_results("first_map").points, again), "the same seed gives the same map"
    with pytest.raises(ValueError, match="third: expected predictions of .*: first, second"):
        browse_map.add_map(dataset, read_table([case["coco"]]), "third", "tiny")


VISIONS = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""How linear RGB is seen. Source: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0."""


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_kinds_differ_for_any_colour_vision(vision):
    from skimage.color import rgb2lab

    names = [*ERROR_COLOURS.values(), CLICK_COLOURS["this"]]
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in names])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISIONS[vision]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    differences = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert differences.min() > 15, "2.3 is just noticeable"


@pytest.mark.slow
def test_the_app_shows_mistakes_clicks_and_saved_views(case, browser, serve, app_images, colour_pixels, name, tmp_path):
    options = ["--predictions", str(case["first"]), str(case["second"]), "--clicks", str(case["clicks"])]
    address, log = serve(case["coco"], name, *options)
    assert "first: 9 detections; 1 other category, 1 localisation, 1 duplicate, 3 background, 2 missed (3 images" in log
    colours = {}
    for view, images in (("", 3), ("first: missed very tiny", 1), ("first: duplicates", 1)):
        page = app_images(address, view, images)
        for k in range(images):
            page.locator("[data-cy=looker]").nth(k).screenshot(path=tmp_path / f"{k}.png", timeout=60_000)
        colours[view] = [colour_pixels(tmp_path / f"{k}.png", ERROR_COLOURS | CLICK_COLOURS, near=45) for k in range(images)]
    app_images(address, "first: mistakes", 10)  # patches, last; the other views are counted without the App
    # boxes are lines one pixel wide; grey and black are also in the images
    first, second, third = colours[""]
    drawn = ("found", "true", "missed", "localisation", "other category", "duplicate", "background", "this")
    assert all(first[kind] > 10 for kind in drawn), first
    assert second["background"] > 20 and second["missed"] == second["this"] == 0, second
    assert third["missed"] > 20 and third["background"] == third["this"] == 0, third
    (missed,), (duplicates,) = colours["first: missed very tiny"], colours["first: duplicates"]
    assert missed["missed"] > 10 and missed["found"] < 5, "only the missed object is left"
    assert duplicates["duplicate"] > 10 and duplicates["background"] < 5, "only the duplicate is left"
