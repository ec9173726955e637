"""Formats of other tools: each is read back by a reader that is not ours where there is one, boxes to 0.01 pixel."""

import importlib
import json
import os
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dealkit.data.coco import CocoFolder, check
from dealkit.data.sources.readers.voc_xml import read_voc
from dealkit.data.sources.readers.yolo_txt import read_yolo
from dealkit.predict.formats import FORMATS, Findings, check_names, write_formats

FOUND = [
    Findings(
        image="a.png",
        width=80,
        height=60,
        boxes=[[10.0, 20.0, 14.5, 26.25], [0.0, 0.0, 80.0, 60.0]],
        scores=[0.9, 0.4],
        adaptive=1,
    ),
    Findings(image="empty.png", width=80, height=60, boxes=[], scores=[], adaptive=0),
    Findings(image="deep/b & <c>.jpg", width=33, height=47, boxes=[[1.07, 2.0, 5.0, 6.33]], scores=[0.25], adaptive=3),
]
KIND = 'bolt "M3" <&>'


@pytest.fixture
def folder(tmp_path):
    """The images that were predicted, and beside them a file that was not."""
    for each in FOUND:
        (path := tmp_path / "photos" / each.image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (each.width, each.height)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def written(folder, tmp_path):
    """Every format of what was found."""
    write_formats(FOUND, folder, tmp_path / "out", KIND, FORMATS)
    return tmp_path / "out"


def same_boxes(read, *, near=0.01):
    """`read` maps the end of an image's path to (kind, [x1, y1, x2, y2]) of its objects."""
    assert len(read) == len(FOUND)
    for each in FOUND:
        objects = read[each.image]
        assert [kind for kind, _ in objects] == [KIND] * len(each.boxes)
        np.testing.assert_allclose([box for _, box in objects], np.reshape(each.boxes, (-1, 4)).tolist(), atol=near)


def utils(name):
    """One of FiftyOne's modules of readers."""
    return importlib.import_module(f"fiftyone.utils.{name}")


def by_fiftyone(importer, folder):
    """What one of FiftyOne's importers gives, in pixels."""
    read = {}
    with importer:
        for path, _, detections in importer:
            name = next(each for each in FOUND if path.endswith(each.image))
            assert os.path.samefile(path, folder / name.image)
            size = name.width, name.height
            labels = detections.get("detections") if isinstance(detections, dict) else detections  # CVAT has several types
            rows = labels.detections if labels else []
            boxes = [np.array(row.bounding_box) * [*size, *size] for row in rows]
            read[name.image] = [(row.label, [*box[:2], *(box[:2] + box[2:])]) for row, box in zip(rows, boxes, strict=True)]
    return read


def test_coco_has_no_problem_and_scores_and_fiftyone_reads_it(fo, folder, written):
    assert check(written / "coco.json", folder) == []
    assert CocoFolder(written / "coco.json", folder).categories == [(1, KIND)]
    assert [row["score"] for row in json.loads((written / "coco.json").read_text())["annotations"]] == [0.9, 0.4, 0.25]
    importer = utils("coco").COCODetectionDatasetImporter
    same_boxes(by_fiftyone(importer(data_path=str(folder), labels_path=str(written / "coco.json")), folder))


def test_fiftyone_reads_yolo_of_the_images_in_their_place(fo, folder, written):
    importer = utils("yolo").YOLOv5DatasetImporter
    same_boxes(by_fiftyone(importer(yaml_path=str(written / "yolo" / "data.yaml")), folder))


def test_our_readers_take_yolo_and_voc_as_sources(written):
    for records, near in ((read_yolo(written / "yolo"), 0.01), (read_voc(written / "voc", one_based=False), 0.5)):
        (record,) = (record for record in records if record.path.name == "a.png")
        np.testing.assert_allclose(record.boxes, FOUND[0].boxes, atol=near)


def test_fiftyone_reads_voc_in_whole_pixels(fo, folder, written):
    paths = {"data_path": str(written / "voc" / "JPEGImages"), "labels_path": str(written / "voc" / "Annotations")}
    same_boxes(by_fiftyone(utils("voc").VOCDetectionDatasetImporter(**paths), folder), near=0.5)


def test_a_box_within_a_pixel_is_a_pixel_in_voc():
    thin = Findings(image="a.png", width=80, height=60, boxes=[[10.1, 20.1, 10.4, 25.0]], scores=[0.9], adaptive=1)
    text = FORMATS["voc"]([thin], "bolt")["voc/Annotations/a.xml"]
    assert all(part in text for part in ("<xmin>10<", "<ymin>20<", "<xmax>11<", "<ymax>25<"))


def test_cvat_has_the_boxes_exactly_and_fiftyone_reads_them_as_it_does(fo, folder, written):
    importer = utils("cvat").CVATImageDatasetImporter(data_path=str(folder), labels_path=str(written / "cvat.xml"))
    same_boxes(by_fiftyone(importer, folder), near=0.999)  # it cuts off what follows the point
    images = ElementTree.parse(written / "cvat.xml").findall("image")
    corners = [[[float(box.get(name)) for name in ("xtl", "ytl", "xbr", "ybr")] for box in image] for image in images]
    assert corners == [each.boxes for each in FOUND]


def test_label_studio_tasks_have_the_documented_form_and_fiftyone_reads_them(fo, written):
    read = {}
    for task, each in zip(json.loads((written / "labelstudio.json").read_text()), FOUND, strict=True):
        assert set(task) == {"data", "predictions"}
        (prediction,) = task["predictions"]
        read[each.image] = []
        for row in prediction["result"]:
            assert {"id", "type", "from_name", "to_name", "original_width", "original_height", "image_rotation"} <= set(row)
            name, label = utils("labelstudio").import_label_studio_annotation(row)
            x, y, width, height = np.array(label.bounding_box) * np.tile([each.width, each.height], 2)
            assert name == "label" and (row["original_width"], row["original_height"]) == (each.width, each.height)
            read[each.image].append((label.label, [x, y, x + width, y + height]))
    same_boxes(read)
    assert task["data"]["image"] == "/data/local-files/?d=deep/b%20%26%20%3Cc%3E.jpg"
    assert 'value="bolt &quot;M3&quot; &lt;&amp;&gt;"' in (written / "labelstudio.xml").read_text()


def test_csv_is_a_table_of_boxes(written):
    table = pd.read_csv(written / "boxes.csv")
    assert list(table) == ["image", "kind", "score", "x1", "y1", "x2", "y2"] and table["score"].tolist() == [0.9, 0.4, 0.25]
    rows = {each.image: table[table["image"] == each.image] for each in FOUND}
    same_boxes({name: list(zip(part["kind"], part[["x1", "y1", "x2", "y2"]].values, strict=True)) for name, part in rows.items()})


def test_geojson_has_closed_rings_that_turn_left_in_pixels(written):
    read = {}
    for each in FOUND:
        made = json.loads((written / "geojson" / f"{each.image}.geojson").read_text())
        assert made["type"] == "FeatureCollection"
        read[each.image] = []
        for feature, score in zip(made["features"], each.scores, strict=True):
            (ring,) = feature["geometry"]["coordinates"]
            x, y = np.array(ring).T
            assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon" and ring[0] == ring[-1]
            assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0, "RFC 7946, 3.1.6: the outer ring is counterclockwise"
            assert feature["properties"]["score"] == score
            read[each.image].append((feature["properties"]["classification"]["name"], [x.min(), y.min(), x.max(), y.max()]))
    same_boxes(read)


def test_counts_are_a_line_per_image(written):
    table = pd.read_csv(written / "counts.csv")
    assert list(table) == ["image", "kind", "count", "adaptive_count", "mean_score"]
    assert table["count"].tolist() == [2, 0, 1] and table["adaptive_count"].tolist() == [1, 0, 3]
    assert table["mean_score"].fillna(-1).tolist() == [0.65, -1, 0.25]  # (0.9 + 0.4) / 2; none; 0.25


def test_writing_again_changes_nothing_and_nothing_found_is_written_too(folder, written, tmp_path):
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    write_formats(FOUND, folder, written, KIND, FORMATS)
    assert before == {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    paths = write_formats([], folder, tmp_path / "none", KIND, FORMATS)
    assert json.loads((tmp_path / "none" / "coco.json").read_text())["images"] == [] and all(path.exists() for path in paths[:-1])


def test_two_images_that_would_share_a_label_file_are_named():
    names = ["a/x.jpg", "b/x.jpg", "a/x.png"]
    check_names(names, ["coco", "geojson"])
    with pytest.raises(ValueError, match=r"--format yolo: a/x\.jpg and a/x\.png would share one file"):
        check_names(names, ["coco", "yolo"])
