"""Find all like this: clicks on what is selected, what is written, what a second search does, and what is accepted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bfloat16

from dealkit.browse import find
from dealkit.browse.corrections import export_corrections
from dealkit.browse.dataset import OBJECTS, build_dataset
from dealkit.data.images import read_image
from dealkit.predict.predictor import Predictor

BOLT, NUT = 5, 9
IMAGES = [
    [(BOLT, [10, 12, 6, 8], 0), (BOLT, [50, 40, 6, 6], 0), (NUT, [70, 10, 15, 20], 0)],
    [(BOLT, [30, 30, 8, 8], 0)],
    [],
]


@pytest.fixture
def data(fo, make_coco, name):
    """Three images of 90 x 70."""
    return build_dataset([make_coco("parts", IMAGES)], name=name).dataset


@pytest.fixture(scope="module")
def few(tiny_model):
    """A predictor that finds some boxes in every image, in float32: scores of random weights lie close together."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bfloat16(monkeypatch, faster=False)
        made = Predictor(tiny_model, threshold=0.0)
        made.set_image(torch.full((3, 70, 90), 80, dtype=torch.uint8))
        made.threshold = round(float(made.click(13, 16).scores[5]), 4)
        yield made


def select(data, image, *objects, field=OBJECTS):
    """What the App says of selected labels."""
    label_ids = data.match({"image_id": image}).first()[field].detections
    return [{"label_id": label_ids[k].id, "field": field} for k in objects]


def search(data, example, scope, predictor, **options):
    """The last state of a search."""
    return [*find.find_alike(data, example, find.scope_ids(scope, example, data), predictor, **options)][-1]


def pixel_boxes(sample, field="found"):
    """xyxy pixels of what a field holds."""
    rows = np.array([label.bounding_box for label in sample[field].detections]).reshape(-1, 4) * [90, 70, 90, 70]
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


def test_a_box_is_clicked_at_its_centre(data):
    made = find.read_example(data, select(data, 1, 0, 1) + select(data, 2, 0))
    first, second = (sample.id for sample in data.limit(2))
    assert made.label == "bolt" and set(made.points) == {first, second}
    # 10 + 6 / 2, 12 + 8 / 2; 50 + 6 / 2, 40 + 6 / 2; 30 + 8 / 2, twice
    np.testing.assert_allclose(made.points[first], [(13 / 90, 16 / 70, 1), (53 / 90, 43 / 70, 1)])
    np.testing.assert_allclose(made.points[second], [(34 / 90, 34 / 70, 1)])


def test_keypoints_are_clicks_and_say_what_is_not_meant(fo, data):
    for sample, meanings in zip(data.limit(2), (["this", "not this"], ["not this"]), strict=True):
        points = [fo.Keypoint(points=[(0.25, 0.5)], meaning=meaning) for meaning in meanings]
        sample["clicks"] = fo.Keypoints(keypoints=[*points, fo.Keypoint(points=[(0.1, 0.2), (0.3, 0.4)])][: 3 - len(meanings)])
        sample.save()
    selected = [{"label_id": i, "field": "clicks"} for i in data.values("clicks.keypoints.id", unwind=True)]
    made = find.read_example(data, selected[:1] + selected[-2:-1])
    assert made.label == "object" and list(made.points.values()) == [[(0.25, 0.5, 1)]], "alone a negative click asks for nothing"


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        (lambda data: [], "selection: expected one or more objects: open an image"),
        (lambda data: select(data, 1, 0, 2), "selection: expected objects of one label, got bolt, nut"),
        (lambda data: [{"label_id": data.first()["line"].id, "field": "line"}], "expected boxes or keypoints, got a Polyline"),
    ],
)
def test_a_selection_that_is_no_example_is_named(fo, data, selected, message):
    sample = data.first()
    sample["line"] = fo.Polyline(points=[[(0.1, 0.1), (0.2, 0.2)]])
    sample.save()
    with pytest.raises(ValueError, match=message):
        find.read_example(data, selected(data))


def test_scopes_start_with_the_example_and_understand_patches(data):
    made = find.read_example(data, select(data, 2, 0))
    first, second, third = data.values("id")
    assert find.scope_ids("sample", made, data) == [second]
    assert find.scope_ids("dataset", made, data) == [second, first, third]
    assert find.scope_ids("view", made, data.to_patches(OBJECTS)) == [second, first]
    with pytest.raises(ValueError, match="scope: expected one of sample, view, dataset; got 'all'"):
        find.scope_ids("all", made, data)


def test_what_is_written_is_what_the_predictor_finds(data, few):
    made = find.read_example(data, select(data, 1, 0))
    state = search(data, made, "dataset", few)
    first, second, third = data
    few.set_image(first.filepath)
    expected = [few.click(13, 16)]
    prompt = few.embed(None, [[13, 16]])
    for sample in (second, third):
        few.set_image(sample.filepath)
        expected.append(few.predict_embedding(prompt))
    assert (state.done, state.total, state.skipped) == (3, 3, 0) and state.boxes == sum(map(len, expected)) > 0
    for sample, wanted in zip((first, second, third), expected, strict=True):
        np.testing.assert_allclose(pixel_boxes(sample), wanted.boxes.numpy(), atol=1e-3)
        np.testing.assert_allclose([d.confidence for d in sample.found.detections], wanted.scores.numpy(), rtol=1e-6)
        assert sample.found_count == pytest.approx(wanted.count) and sample.found_run == state.run
        assert {d.label for d in sample.found.detections} <= {"bolt"}
    assert [d.state == "clicked" for d in first.found.detections] == expected[0].clicked.tolist()
    about = data.info["found"]["found"]
    assert (about["run"], about["label"], about["model"]) == (state.run, "bolt", few.model_hash)
    assert about["clicks"] == {first.filepath: [[pytest.approx(13 / 90), pytest.approx(16 / 70), 1]]}


def test_several_images_of_examples_are_averaged_for_the_others(data, few):
    made = find.read_example(data, select(data, 1, 0) + select(data, 2, 0))
    search(data, made, "dataset", few)
    third = data.last()
    parts = [few.embed(path, [xy]) for path, xy in zip(data.limit(2).values("filepath"), [(13, 16), (34, 34)], strict=True)]
    few.set_image(third.filepath)
    wanted = few.predict_embedding(find.mean_embedding(parts))
    np.testing.assert_allclose(pixel_boxes(third), wanted.boxes.numpy(), atol=1e-3)


def test_a_search_that_was_stopped_goes_on(data, few, monkeypatch):
    made = find.read_example(data, select(data, 1, 0))
    going = find.find_alike(data, made, find.scope_ids("dataset", made, data), few)
    assert [next(going).done, next(going).done] == [0, 1]
    going.close()
    opened = []
    monkeypatch.setattr(find, "read_image", lambda path: opened.append(path) or read_image(path))
    state = search(data, made, "dataset", few)
    assert (state.done, state.total, state.skipped) == (2, 2, 1) and "searched before" in str(state)
    assert data.first().filepath in opened, "read for its embedding"
    opened.clear()
    state = search(data, made, "dataset", few)
    assert (state.done, state.total, state.skipped) == (0, 0, 3) and not opened


def test_another_example_empties_the_field_unless_something_in_it_is_tagged(data, few):
    search(data, find.read_example(data, select(data, 1, 0)), "dataset", few)
    other = find.read_example(data, select(data, 2, 0))
    sample = data.first()
    sample.found.detections[0].tags.append("accept")
    sample.save()
    with pytest.raises(ValueError, match="field 'found': another search left detections tagged accept in it"):
        search(data, other, "sample", few)
    search(data, other, "sample", few, into="found_2")
    assert data.values("found_2_run")[0] is None and len(data.first().found.detections), "each field has its own search"
    sample.found.detections[0].tags = []
    sample.save()
    search(data, other, "sample", few)
    data.reload()
    assert [bool(run) for run in data.values("found_run")] == [False, True, False] and data.first().found is None


def test_an_image_that_cannot_be_read_is_left_for_the_next_search(data, few):
    path = data.last().filepath
    content = Path(path).read_bytes()
    Path(path).write_bytes(b"no image")
    made = find.read_example(data, select(data, 1, 0))
    state = search(data, made, "dataset", few)
    assert state.done == 3 and len(state.unreadable) == 1
    assert f"1 not read: {path}: not an image" in str(state) and data.last().found is None
    Path(path).write_bytes(content)
    state = search(data, made, "dataset", few)
    assert (state.done, state.skipped) == (1, 2) and not state.unreadable


def test_nothing_found_is_a_result(data, tiny_model):
    state = search(data, find.read_example(data, select(data, 1, 0)), "sample", Predictor(tiny_model, threshold=1.0))
    data.reload()
    assert state.boxes == 0 and data.first().found.detections == [] and data.first().found_run == state.run


@pytest.mark.parametrize("into", [OBJECTS, "source", "two words"])
def test_a_field_of_something_else_is_refused(data, few, into):
    with pytest.raises(ValueError, match=f"field '{into}': expected a name of letters"):
        search(data, find.read_example(data, select(data, 1, 0)), "sample", few, into=into)


def test_the_app_shows_the_field_in_its_colours(data):
    find.declare_found(data)
    find.declare_found(data)
    with pytest.raises(ValueError, match="nothing was found in it yet"):
        find.accept_found(data)
    data.reload()
    colours = {field["path"]: field for field in data.app_config.color_scheme.fields}
    assert {row["value"]: row["color"] for row in colours["found"]["valueColors"]} == find.FOUND_COLOURS
    assert colours[OBJECTS]["colorByAttribute"] == "size_bin", "as before"
    groups = {group.name: group.paths for group in data.app_config.sidebar_groups}
    assert "found" in groups["labels"] and "found_count" in groups["data"] and "found_run" in groups["files"]


@pytest.fixture
def found(fo, data):
    """A finished search: in the first image the bolt at 13, 16 again, a new one of 4 x 9, and one elsewhere."""
    data.info["found"] = {"found": {"run": "r1"}}
    boxes = {1: [[10, 12, 6, 8], [20, 50, 4, 9]], 2: [[60, 50, 5, 5]]}
    for sample in data:
        rows = boxes.get(sample.image_id, [])
        shares = [[x / 90, y / 70, w / 90, h / 70] for x, y, w, h in rows]
        sample["found"] = fo.Detections(
            detections=[fo.Detection(label="bolt", bounding_box=box, confidence=0.75, state="found") for box in shares]
        )
        sample["found_run"] = "r1"
        sample.save()
    data.save()
    return data


def test_selected_detections_become_objects_and_go_to_the_coco_file(found, make_coco, tmp_path):
    accepted = find.accept_found(found, select(found, 1, 0, 1, field="found") + select(found, 2, 0))
    assert (accepted.added, accepted.known) == (1, 1), "the first is annotated, objects are no detections"
    found.reload()
    first, second, _ = found
    assert len(first.objects.detections) == 4 and len(second.objects.detections) == 1
    new = first.objects.detections[-1]
    assert (new.label, new.found_by, new.found_score, new.size_bin, new.source) == ("bolt", "r1", 0.75, "vt", "parts")
    assert new.size_px == 6.0, "the root of 4 x 9"
    np.testing.assert_allclose(pixel_boxes(first, OBJECTS)[-1], [20, 50, 24, 59], atol=1e-6)
    assert [d.state for d in first.found.detections] == ["accepted", "accepted"]
    file = first.annotations
    changes = export_corrections(found.name, file, tmp_path / "out.json")
    assert (len(changes.added), len(changes.removed), len(changes.moved)) == (1, 0, 0)
    row = json.loads((tmp_path / "out.json").read_text())["annotations"][-1]
    assert (row["image_id"], row["category_id"], row["bbox"]) == (1, BOLT, [20.0, 50.0, 4.0, 9.0])


def test_without_a_selection_the_tagged_ones_are_accepted_once(found):
    sample = found.match({"image_id": 2}).first()
    sample.found.detections[0].tags = ["accept", "mine"]
    sample.save()
    assert str(find.accept_found(found)) == "1 added, 0 were annotated already"
    found.reload()
    assert found.count_label_tags("found") == {"mine": 1} and found.count_label_tags(OBJECTS) == {}
    with pytest.raises(ValueError, match="expected detections of found that are selected, or tagged 'accept'"):
        find.accept_found(found)


def test_accepting_needs_something_found_and_a_field_of_boxes(data, request):
    with pytest.raises(ValueError, match="nothing was found in it yet: run 'Find all like this' first"):
        find.accept_found(data)
    found = request.getfixturevalue("found")
    for into in ("source", "found", "none"):
        with pytest.raises(ValueError, match=f"field '{into}': expected a field of annotated boxes, such as 'objects'"):
            find.accept_found(found, into=into)
