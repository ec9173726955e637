"""Corrections in FiftyOne come back in COCO, and nothing else changes."""

import json

import pytest

from dealkit.browse import dataset as browse
from dealkit.browse.corrections import Corrections, Label, correct, export_corrections
from dealkit.browse.mistakes import add_predictions
from dealkit.cli import data as commands
from dealkit.data.coco import check
from dealkit.data.objects import read_table

BOLT, NUT = 5, 9
OBJECTS = [
    [(BOLT, [10.25, 12, 6, 8], 0), (BOLT, [50, 40, 6, 6], 0), (NUT, [70, 10, 15, 20], 0)],
    [],
    [(NUT, [5, 5, 40, 6], 1), (BOLT, [60, 40, 10, 10], 0)],
]
FOUND = [
    {"image_id": 1, "category_id": BOLT, "bbox": [50, 41, 6, 6], "score": 0.9},  # annotation 2, one pixel lower
    {"image_id": 2, "category_id": NUT, "bbox": [30, 30, 9, 7.5], "score": 0.8},  # an object that nobody has drawn
    {"image_id": 2, "category_id": NUT, "bbox": [60, 50, 9, 9], "score": 0.7},  # on nothing
]


@pytest.fixture
def parts(make_coco):
    """A COCO file with more in it than boxes."""
    file = make_coco("parts", OBJECTS)
    data = json.loads(file.read_text())
    data |= {"info": {"année": 2026}, "licenses": [{"id": 3, "name": "CC BY 4.0"}]}
    for row in data["annotations"]:
        x, y, w, h = row["bbox"]
        row |= {"segmentation": [[x, y, x + w, y, x + w, y + h]], "area": 0.5 * w * h, "remark": "½", "occluded": None}
    file.write_text(json.dumps(data))
    return file


@pytest.fixture
def shown(fo, parts, tmp_path, name):
    """The data set of it in FiftyOne, with predictions `nano`."""
    predictions = tmp_path / "nano.json"
    predictions.write_text(json.dumps(FOUND))
    dataset = browse.build_dataset([parts], name=name).dataset
    add_predictions(dataset, read_table([parts]), [predictions])
    return dataset


def of_image(dataset, image_id):
    return dataset.match({"image_id": image_id}).first()


def rows_of(file):
    """Annotation id -> its row as text."""
    return {row["id"]: json.dumps(row) for row in json.loads(file.read_text())["annotations"]}


def test_without_corrections_every_row_comes_back_byte_for_byte(shown, parts, tmp_path):
    made = export_corrections(shown.name, parts, tmp_path / "out.json")
    assert made == Corrections() and str(made) == "0 removed, 0 moved, 0 relabelled, 0 added, 0 to redraw"
    assert json.dumps(json.loads((tmp_path / "out.json").read_text())) == parts.read_text()


def test_what_is_corrected_in_fiftyone_arrives_and_all_else_stays(shown, parts, tmp_path):
    first, second, third = (of_image(shown, i) for i in (1, 2, 3))
    first.objects.detections[0].bounding_box = [20 / 90, 21 / 70, 7 / 90, 9.5 / 70]  # annotation 1: moved
    first.objects.detections[2].label = "bolt"  # annotation 3: another category
    first.nano.detections[0].tags.append("fix")  # annotation 2: gets the box of the detection
    kinds = {d.confidence: d for d in second.nano.detections}
    kinds[0.8].tags.append("missing")
    kinds[0.7].tags.append("wrong")  # a false detection is no annotation: nothing to be done
    third.objects.detections[1].tags.append("wrong")  # annotation 5
    third.objects.detections[0].tags.append("fix")  # annotation 4: to be redrawn
    drawn = third.objects.detections[0].copy()
    drawn.bounding_box, drawn.annotation_id, drawn.label, drawn.tags = [0.1, 0.5, 0.1, 0.2], None, "nut", []
    third.objects.detections.append(drawn)
    for sample in (first, second, third):
        sample.save()

    out = tmp_path / "out.json"
    commands.export(parts, out, name=shown.name)
    before, after = rows_of(parts), rows_of(out)
    assert list(after) == [1, 2, 3, 4, 6, 7] and after[4] == before[4]
    rows, old = ({i: json.loads(row) for i, row in texts.items()} for texts in (after, before))
    for i, box in ((1, {"bbox": [20.0, 21.0, 7.0, 9.5], "area": 66.5}), (2, {"bbox": [50.0, 41.0, 6.0, 6.0], "area": 36.0})):
        assert rows[i] == {key: value for key, value in old[i].items() if key != "segmentation"} | box
    assert rows[3] == old[3] | {"category_id": BOLT}
    # 0.1 x 90, 0.5 x 70, 0.1 x 90, 0.2 x 70
    assert rows[6] == {"id": 6, "image_id": 3, "category_id": NUT, "bbox": [9, 35, 9, 14], "area": 126, "iscrowd": 0}
    assert rows[7] == {"id": 7, "image_id": 2, "category_id": NUT, "bbox": [30, 30, 9, 7.5], "area": 67.5, "iscrowd": 0}
    for key in ("images", "categories", "info", "licenses"):
        assert json.dumps(json.loads(out.read_text())[key]) == json.dumps(json.loads(parts.read_text())[key])
    assert not check(out, parts.parent / "images")
    made = Corrections(removed=(5,), moved=(1, 2), relabelled=(3,), added=(6, 7), to_redraw=(4,))
    assert export_corrections(shown.name, parts, out) == made


def test_a_deleted_box_goes_and_one_edited_and_tagged_fix_is_redrawn(shown, parts, tmp_path):
    sample = of_image(shown, 1)
    sample.objects.detections[1].tags.append("fix")
    sample.objects.detections[1].bounding_box = [50 / 90, 40 / 70, 8 / 90, 6 / 70]
    del sample.objects.detections[0]
    sample.save()
    made = export_corrections(shown.name, parts, tmp_path / "out.json")
    assert made == Corrections(removed=(1,), moved=(2,))


def test_the_corrected_file_can_be_shown_and_is_then_without_corrections(fo, shown, parts, capsys, tmp_path):
    sample = of_image(shown, 2)
    sample.nano.detections[0].tags.append("missing")
    sample.save()
    export_corrections(shown.name, parts, parts)
    options = {"predictions": (str(tmp_path / "nano.json"),), "app": False}
    commands.browse((str(parts),), name=shown.name, **options)
    said = capsys.readouterr().out
    assert "3 images, 6 objects (0 added, 1 updated, 0 removed, 2 unchanged)" in said and "nano: 3 detections" in said
    sample = of_image(fo.load_dataset(shown.name), 2)
    assert [(d.annotation_id, d.label) for d in sample.objects.detections] == [(6, "nut")]


def test_a_file_that_has_changed_since_is_refused(shown, parts, tmp_path):
    data = json.loads(parts.read_text())
    data["annotations"][0]["bbox"] = [11, 12, 6, 8]
    parts.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"annotations\.json: image 1: its annotations are not those that the data set"):
        export_corrections(shown.name, parts, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_what_is_not_there_is_named(fo, shown, parts, make_coco, tmp_path):
    with pytest.raises(ValueError, match="FiftyOne has no data set 'nothing'"):
        export_corrections("nothing", parts, tmp_path / "out.json")
    other = make_coco("other", OBJECTS)
    with pytest.raises(ValueError, match=r"other.annotations\.json: image 1: .*0\.png is not in the data set"):
        export_corrections(shown.name, other, tmp_path / "out.json")


COCO = {
    "images": [{"id": 1, "width": 90, "height": 70}],
    "categories": [{"id": 5, "name": "bolt"}, {"id": 6, "name": "twin"}, {"id": 7, "name": "twin"}],
    "annotations": [{"id": 4, "image_id": 1, "category_id": 6, "bbox": [-1, 10, 11, 10], "area": 110}],
}
SEEN = {"image_id": 1, "annotation_id": 4, "bbox": (0, 10, 10, 10), "label": "twin"}


def test_a_box_over_the_border_a_name_used_twice_and_an_empty_file_are_no_corrections():
    assert correct(COCO, [Label(**SEEN)]) == (COCO, Corrections())
    assert correct(COCO | {"annotations": []}, []) == (COCO | {"annotations": []}, Corrections())


def test_two_models_that_show_one_missing_object_add_it_once():
    missing = {"image_id": 1, "annotation_id": None, "label": "bolt", "tags": ("missing",)}
    boxes = [(40, 40, 10, 10), (41, 40, 10, 10), (41, 52, 10, 10)]  # IoU 90 / 110 of the first two
    made, changes = correct(COCO, [Label(**SEEN)], [Label(bbox=box, **missing) for box in boxes])
    assert [row["bbox"] for row in made["annotations"][1:]] == [[40, 40, 10, 10], [41, 52, 10, 10]]
    assert changes.added == (5, 6)


@pytest.mark.parametrize(
    ("objects", "detections", "message"),
    [
        ([SEEN | {"tags": ("missing",)}], [], r"coco: image 1: box \[0, 10, 10, 10\]: tag 'missing': expected on a detection"),
        ([SEEN], [SEEN | {"annotation_id": None, "tags": ("fix",)}], "tag 'fix': it concerns no annotated object"),
        ([SEEN], [SEEN | {"tags": ("fix",)}] * 2, "tag 'fix': another detection has it for the same object"),
        ([SEEN | {"annotation_id": None}], [], "label 'twin' names 2 categories, expected one of bolt, twin"),
        ([SEEN | {"label": "nut"}], [], "label 'nut' names 0 categories"),
        ([SEEN | {"bbox": (95, 10, 5, 5)}], [], "expected a box with an area inside the image of 90 x 70"),
    ],
)
def test_a_correction_that_makes_no_sense_is_named(objects, detections, message):
    with pytest.raises(ValueError, match=message):
        correct(COCO, [Label(**row) for row in objects], [Label(**row) for row in detections])
