"""`data.sources.catalogue`: every reader on small made files in the official layout with the known traps, and broken sources."""

import io
import json
import os
import sys
from pathlib import Path

import conftest
import numpy as np
import pytest
from PIL import Image

from dealkit.__main__ import main
from dealkit.data.sources.catalogue import (
    DATA_DOMAINS,
    SOURCES,
    read_aitod,
    read_bccd,
    read_coco,
    read_dior,
    read_dota,
    read_gwhd,
    read_sirst,
    read_sodad,
    read_tinyperson,
    read_tt100k,
    read_visdrone,
    read_voc,
    read_widerface,
    read_yolo,
    sources_markdown,
)
from dealkit.data.sources.readers.reading import example
from dealkit.data.sources.readers.text_lines import DOTA_CATEGORIES
from dealkit.data.sources.readers.voc_xml import DIOR_CATEGORIES
from dealkit.data.sources.records import ImageRecord
from dealkit.files import PROJECT_ROOT

REAL = conftest.REAL / "realsmall"
SIDE = (100, 80)
"""Width and height of a made image."""


@pytest.fixture
def made():
    """Writes files as `example` does and gives the folder, which stays until the end of the test."""
    folders = []

    def make(files):
        folders.append(example(files))
        return folders[-1].__enter__()

    yield make
    for folder in folders:
        folder.__exit__(None, None, None)


def coco(images, annotations, categories):
    """COCO text: images as (id, name, more), annotations as (id, image, category, box, more), categories by id."""
    rows = [{"id": i, "file_name": name, "width": SIDE[0], "height": SIDE[1]} | more for i, name, more in images]
    boxes = [{"id": i, "image_id": m, "category_id": c, "bbox": box} | more for i, m, c, box, more in annotations]
    return json.dumps({"images": rows, "annotations": boxes, "categories": [{"id": i, "name": n} for i, n in categories.items()]})


def voc(*objects, size=None):
    """VOC text: objects as (name, four corners or None, more XML)."""
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    for name, box, more in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=False))
        text += f"<object><name>{name}</name>{more}{f'<bndbox>{corners}</bndbox>' if box else ''}</object>"
    return f"<annotation>{text}</annotation>"


def lines(*rows):
    return "\n".join(rows) + "\n"


def read(reader, root, **options):
    """All records, and the problems as text."""
    problems = []
    records = list(reader(root, on_problem=problems.append, **options))
    return records, [str(problem).replace(str(root), "ROOT") for problem in problems]


def boxes(record):
    return record.boxes.tolist()


# Records


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes": np.float32([[4, 2, 1, 6]])}, r"boxes\[0\]: expected 0 <= x1 < x2 <= 8 and 0 <= y1 < y2 <= 6"),
        ({"boxes": np.float32([[np.nan, 2, 4, 6]])}, r"boxes\[0\]: expected"),
        ({"boxes": np.float64([[1, 2, 4, 6]])}, r"boxes: expected float32 \(1, 4\)"),
        ({"ignore": np.array([0])}, r"ignore: expected bool \(1,\)"),
        ({"categories": ("",)}, r"categories\[0\]: expected a name"),
        ({"width": 0}, "width: expected a positive integer, got 0"),
        ({"split": "trainval"}, "split: expected train, val, test or nothing, got 'trainval'"),
        ({"polygons": (None, None)}, r"polygons: expected none or one per object \(1\), got 2"),
        ({"polygons": (np.float32([[1, 2], [4, 2]]),)}, r"polygons\[0\]: expected \(P, 2\)"),
        ({"path": "a.png"}, "path: expected a Path"),
    ],
)
def test_a_record_names_source_image_field_and_object_that_are_wrong(change, said):
    good = {"path": Path("a.png"), "width": 8, "height": 6, "boxes": np.float32([[1, 2, 4, 6]]), "categories": ("nut",)}
    good |= {"ignore": np.array([False]), "source": "s", "image_id": "a"}
    record = ImageRecord(**good)
    assert record.group == "a" and record.split == ""
    with pytest.raises(ValueError, match=f"^s: image a: {said}"):
        ImageRecord(**good | change)


# Folders of one's own


def test_coco_gives_splits_crowds_and_outlines(made):
    cut = {"segmentation": [[10, 10, 20, 10, 20, 20]]}
    parts = {"segmentation": [[1, 1, 2, 1, 2, 2], [3, 3, 4, 3, 4, 4]]}
    rows = [(0, 0, 5, [10, 10, 10, 10], cut), (1, 0, 9, [0.25, 0, 2, 2], {"iscrowd": 1}), (2, 0, 5, [1, 1, 4, 4], parts)]
    text = coco([(0, "a.png", {}), (1, "empty.png", {})], rows, {9: "nut", 5: "bolt"})
    root = made({"train.json": text, "images/a.png": SIDE, "images/empty.png": SIDE})
    records, problems = read(read_coco, root)
    assert problems == [] and [r.image_id for r in records] == ["images/a.png", "images/empty.png"]
    assert records[0].categories == ("bolt", "nut", "bolt") and records[0].ignore.tolist() == [False, True, False]
    assert boxes(records[0])[1] == [0.25, 0, 2.25, 2]
    assert records[0].polygons[0].tolist() == [[10, 10], [20, 10], [20, 20]] and records[0].polygons[1:] == (None, None)
    assert records[1].polygons == () and len(records[1].boxes) == 0


def test_coco_finds_images_by_split_and_takes_only_instances_of_coco_itself(made):
    text = coco([(1, "a.png", {})], [], {1: "nut"})
    files = {"annotations/instances_train2017.json": text, "annotations/captions_train2017.json": "{}", "train2017/a.png": SIDE}
    records, problems = read(read_coco, made(files), source="mine")
    assert problems == [] and (records[0].split, records[0].source) == ("train", "mine")


def test_a_lying_jpeg_is_measured_upright(made):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(buffer, "JPEG", exif=exif)
    root = made(
        {"train.json": coco([(1, "a.jpg", {})], [(1, 1, 1, [90, 1, 5, 5], {})], {1: "nut"}), "images/a.jpg": buffer.getvalue()}
    )
    [record], problems = read(read_coco, root)
    assert (record.width, record.height) == SIDE and problems == []


def test_voc_counts_from_one_to_the_last_and_ignores_the_difficult(made):
    files = {
        "Annotations/a.xml": voc(("nut", (1, 2, 3, 4), "<difficult>1</difficult>"), ("bolt", (1.5, 1, 100, 80), ""), size=SIDE),
        "Annotations/b.xml": voc(size=(0, 0)),
        "JPEGImages/a.jpg": SIDE,
        "JPEGImages/b.png": SIDE,
        "JPEGImages/unlabelled.jpg": SIDE,
        "ImageSets/Main/train.txt": lines("a  1", "b -1"),
    }
    records, problems = read(read_voc, made(files))
    assert problems == [] and [record.split for record in records] == ["train", "train"]
    assert boxes(records[0]) == [[0, 1, 3, 4], [0.5, 0, 100, 80]] and records[0].ignore.tolist() == [True, False]
    assert boxes(read(read_voc, made(files), one_based=False)[0][0])[0] == [1, 2, 3, 4]


def test_yolo_reads_both_layouts_polygons_and_images_without_labels(made):
    rows = lines("0 0.5 0.5 0.2 0.5", "", "1 0.1 0.1 0.3 0.1 0.3 0.2")
    for images, labels in (("images/train", "labels/train"), ("train/images", "train/labels")):
        files = {"data.yaml": "nc: 2\nnames: {0: nut, 1: bolt}\n", f"{images}/a.png": SIDE, f"{images}/b.png": SIDE}
        records, problems = read(read_yolo, made(files | {f"{labels}/a.txt": rows, f"{labels}/classes.txt": "nut\nbolt"}))
        assert problems == [] and [len(record.boxes) for record in records] == [2, 0]
        np.testing.assert_allclose(records[0].boxes, [[40, 20, 60, 60], [10, 8, 30, 16]], rtol=1e-6)
        assert records[0].polygons[0] is None and records[0].polygons[1].shape == (3, 2)
        assert (records[0].split, records[0].categories) == ("train", ("nut", "bolt"))


def test_yolo_tells_predictions_pixels_and_unknown_classes_from_labels(made):
    said = {
        "0 0.5 0.5 0.2 0.5 0.99": "line 1: columns: expected class, centre x",
        "0 50 40 20 40": "line 2: numbers: expected shares of the image, 0 to 1, got '0 50 40 20 40' (pixels?)",
        "2 0.5 0.5 0.2 0.5": "line 3: class: expected one of 0, 1, got 2",
        "0.5 0.5 0.5 0.2 0.5": "line 4: class: expected one of 0, 1, got 0.5",
        "0 0.5 0.5 nan 0.5": "line 5: numbers",
        "0 1 1 1 1": "line 6: box: [50.0, 40.0, 150.0, 120.0] (x1, y1, x2, y2) is outside the image of 100 x 80",
    }
    files = {"classes.txt": "nut\nbolt", "images/a.png": SIDE, "labels/a.txt": lines(*said), "labels/b.txt": ""}
    records, problems = read(read_yolo, made(files))
    assert [len(record.boxes) for record in records] == [0] and "b.txt: file: image: no image of that name" in problems[0]
    assert all(message in problem for message, problem in zip(said.values(), problems[1:], strict=True))


# AI-TOD


def test_aitod_counts_the_images_that_must_be_made_and_groups_tiles(made):
    images = [(i, f"{name}.png", {}) for i, name in enumerate(("1052__0_0", "1052__600_0", "P0001", "gone__0_0"))]
    files = {"annotations/aitod_train_v1.json": coco(images, [(0, 0, 1, [1, 1, 4, 4], {})], {1: "ship"})}
    files |= {f"images/train/{name}.png": SIDE for name in ("1052__0_0", "1052__600_0", "P0001")}
    records, problems = read(read_aitod, made(files))
    assert [record.group for record in records] == ["1052", "1052", "images/train/P0001.png"]
    assert "1 of 4 images are missing, the first is gone__0_0.png" in problems[-1] and "xView" in problems[-1]
    with pytest.raises(ValueError, match="1 of 4 images are missing"):
        list(read_aitod(made(files)))


def test_aitod_does_not_read_trainval_beside_train(made):
    def text(*names):
        return coco([(i, name, {}) for i, name in enumerate(names)], [], {1: "ship"})

    whole = {"annotations/aitodv2_trainval.json": text("a.png", "b.png")}
    whole |= {f"trainval/images/{name}.png": SIDE for name in "ab"}
    parts = {"annotations/aitodv2_train.json": text("a.png"), "annotations/aitodv2_val.json": text("b.png")}
    assert [r.split for r in read(read_aitod, made(whole), version="2")[0]] == ["train", "train"]
    records = read(read_aitod, made(whole | parts), version="2")[0]
    assert [r.split for r in records] == ["train", "val"] and records[0].source == "aitod-v2"
    for reader in (read_aitod, read_sirst):
        with pytest.raises(ValueError, match="version: expected 1 or 2, got 'v2'"):
            list(reader(made(whole), version="v2"))


# SODA


def test_sodad_honours_its_ignore_category_and_flag_and_ids_from_zero(made):
    rows = [(0, 0, 1, [1, 1, 4, 4], {}), (1, 0, 10, [10, 10, 4, 4], {}), (2, 0, 1, [20, 1, 4, 4], {"ignore": 1})]
    text = coco([(0, "a.jpg", {})], rows, {1: "people", 10: "ignore"})
    [record], _ = read(read_sodad, made({"Annotations/val.json": text, "Images/a.jpg": SIDE}))
    assert record.ignore.tolist() == [False, True, True] and record.split == "val"


def test_sodad_refuses_the_tiles_of_the_split_tool(made):
    text = coco([(0, "a__0.jpg", {"ori_id": 3, "start_coord": [0, 0]})], [], {1: "people"})
    with pytest.raises(ValueError, match="start_coord: a record of a cut tile, expected the file of the whole images"):
        list(read_sodad(made({"Annotations/train.json": text, "Images/a__0.jpg": SIDE})))


# DOTA


def test_dota_reads_every_form_of_header_and_line(made):
    rows = {
        "P1": ("imagesource:GoogleEarth", "gsd:0.25", "1 1 9 1 9 9 1 9 ship 1"),
        "P2": ("imagesource:GoogleEarth", "gsd:null", "1 1 9 1 9 9 1 9 ship 0"),
        "P3": ("1 1 9 1 9 9 1 9 ship",),
        "P4": ("gsd:0.5", "-5 -5 9.0 1 120 90 1 9 small-vehicle 2"),
        "P5": (),
    }
    files = {f"train/labelTxt/{name}.txt": lines(*text) for name, text in rows.items()}
    files |= {f"train/images/{name}.png": SIDE for name in (*rows, "unlabelled")} | {"test/images/P9.png": SIDE}
    records, problems = read(read_dota, made(files), version="1.0")
    assert [record.ignore.tolist() for record in records] == [[True], [False], [False], [True], []]
    assert boxes(records[3]) == [[0, 0, 100, 80]] and records[3].polygons[0][2].tolist() == [120, 90]
    assert len(records) == 5, "images without labels and the test split are not empty images"
    assert any("unlabelled" in problem for problem in problems)


def test_dota_versions_have_their_own_folders_and_categories(made):
    assert [len(DOTA_CATEGORIES[v]) for v in ("1.0", "1.5", "2.0")] == [15, 16, 18]
    files = {"val/images/P1.png": SIDE, "val/labelTxt/P1.txt": "1 1 9 1 9 9 1 9 ship 0"}
    files["val/labelTxt-v1.5/DOTA-v1.5_val/P1.txt"] = "1 1 9 1 9 9 1 9 container-crane 0"
    root = made(files)
    assert read(read_dota, root, version="1.0")[0][0].categories == ("ship",)
    assert read(read_dota, root, version="1.5")[0][0].categories == ("container-crane",)
    assert read(read_dota, root, version="2.0") == ([], [read(read_dota, root, version="2.0")[1][0]])
    with pytest.raises(ValueError, match="nothing of this source is here; expected .*labelTxt-v2.0"):
        list(read_dota(root, version="2.0"))
    (root / "val/labelTxt/P1.txt").write_text("1 1 9 1 9 9 1 9 airport 0")
    assert "'airport' is no category of DOTA 1.0" in read(read_dota, root, version="1.0")[1][-1]
    with pytest.raises(ValueError, match="version: expected one of 1.0, 1.5, 2.0, got '3'"):
        list(read_dota(root, version="3"))


def test_dota_reads_grey_images_and_only_the_header_of_large_ones(made):
    grey, large = io.BytesIO(), io.BytesIO()
    Image.new("L", SIDE).save(grey, "PNG")
    Image.new("1", (30_000, 20_000)).save(large, "PNG")  # 600 million pixels: Pillow alone would refuse it
    files = {f"train/labelTxt-v2.0/{n}.txt": "29000 1 29009 1 29009 9 29000 9 helipad 0" for n in ("P1", "P2")}
    records, problems = read(
        read_dota, made(files | {"train/images/P1.png": grey.getvalue(), "train/images/P2.png": large.getvalue()}), version="2.0"
    )
    assert [(r.width, r.height, len(r.boxes)) for r in records] == [(*SIDE, 0), (30_000, 20_000, 1)]
    assert "has no area inside the image of 100 x 80" in problems[-1]


# DIOR, SIRST, BCCD


def test_dior_restores_names_and_finds_images_of_both_folders(made):
    folder = "Annotations/Horizontal Bounding Boxes"
    spelled = ("Expressway-Service-area", "expressway-toll-station", "Storage tank", "groundtrackfield")
    files = {f"{folder}/00001.xml": voc(*((name, (1, 1, 8, 8), "") for name in spelled)), f"{folder}/11726.xml": voc()}
    files |= {"JPEGImages-trainval/00001.jpg": SIDE, "JPEGImages-test/11726.jpg": SIDE, "JPEGImages-test/11727.jpg": SIDE}
    files |= {"ImageSets/Main/train.txt": "00001", "ImageSets/Main/test.txt": lines("11726", "11727")}
    records, problems = read(read_dior, made(files))
    assert records[0].categories == ("Expressway-Service-area", "Expressway-toll-station", "storagetank", "groundtrackfield")
    assert boxes(records[0])[0] == [0, 0, 8, 8] and [r.split for r in records] == ["train", "test"] and len(DIOR_CATEGORIES) == 20
    assert problems == [f"ROOT/{folder}: file: images: 1 images have no XML file and are left out"]
    files[f"{folder}/00001.xml"] = voc(("spaceship", (1, 1, 8, 8), ""))
    with pytest.raises(ValueError, match="00001.xml: object 1: name: expected one of airplane, .*got 'spaceship'"):
        list(read_dior(made(files)))


def test_dior_of_a_mirror_and_dota_of_another_are_read(made):
    files = {"Annotations/trainval/1.xml": voc(), "Images/trainval/1.jpg": SIDE, "Images/test/2.jpg": SIDE}
    assert [record.image_id for record in read(read_dior, made(files))[0]] == ["Images/trainval/1.jpg"]
    files = {"val/annotations/version2.0/P1.txt": "1 1 9 1 9 9 1 9 helipad 0", "val/images/P1.png": SIDE}
    assert read(read_dota, made(files))[0][0].categories == ("helipad",)


def test_sirst_boxes_are_inclusive_and_backgrounds_have_no_box(made):
    target, background = voc(("Target", (71, 75, 73, 75), "")), voc(("Target", None, "<pixels><id>0</id></pixels>"))
    files = {"annotations/bboxes/S20210527_S4_114.xml": target, "annotations/bboxes/Misc_1.xml": target}
    files |= {"annotations/bboxes/20210725-S4-1001.xml": background, "annotations/bboxes/20210725-S4-1401.xml": background}
    files |= {"images/targets/S20210527_S4_114.png": SIDE, "mixed/Misc_1.png": SIDE}
    files |= {f"images/backgrounds/20210725-S4-{i}.png": SIDE for i in (1001, 1401)}
    files |= {"splits/train_full.txt": "Misc_1", "splits/test_full.txt": "20210725-S4-1001", "splits/mini_test.txt": "Misc_1"}
    records, problems = read(read_sirst, made(files), version="2")
    assert problems == [] and [(r.path.stem, len(r.boxes), r.split) for r in records] == [
        ("20210725-S4-1001", 0, "test"),
        ("20210725-S4-1401", 0, ""),
        ("Misc_1", 1, "train"),
        ("S20210527_S4_114", 1, ""),
    ]
    assert [r.group for r in records] == ["20210725-S4", "20210725-S4", "mixed/Misc_1.png", "S20210527_S4"]
    assert boxes(records[2]) == [[70, 74, 73, 75]], "3 px wide, 1 px high"


def test_sirst_one_has_its_boxes_beside_the_masks(made):
    files = {"masks/Misc_1.xml": voc(("Target", (1, 1, 2, 2), ""), size=SIDE), "masks/Misc_1_pixels0.png": SIDE}
    [record], problems = read(read_sirst, made(files | {"images/Misc_1.png": SIDE, "idx_427/test.txt": "Misc_1"}))
    assert record.split == "test" and boxes(record) == [[0, 0, 2, 2]] and problems == []


def test_bccd_is_a_voc_folder_inside_its_repository(made):
    files = {
        f"BCCD/Annotations/BloodImage_0000{i}.xml": voc(("RBC", (346, 361, 446, 454), ""), size=(640, 480)) for i in range(2)
    }
    files |= {f"BCCD/JPEGImages/BloodImage_0000{i}.jpg": (640, 480) for i in range(2)}
    files |= {"BCCD/ImageSets/Main/train.txt": "BloodImage_00001", "BCCD/ImageSets/Main/test.txt": "BloodImage_00000"}
    records, problems = read(read_bccd, made(files))
    assert problems == [] and [r.split for r in records] == ["test", "train"]
    assert boxes(records[0]) == [[345, 360, 446, 454]] and records[0].source == "bccd"


# VisDrone, WIDER FACE


def test_visdrone_reads_trailing_commas_and_honours_what_is_ignored(made):
    rows = lines("10,10,20,20,1,4,0,0,", "0,0,50,50,0,0,0,0", "30,30,5,5,1,11,0,0", "40,40,5,5,0,1,0,0", "50,50,5,0,1,1,0,0", "")
    name = "0000002_00005_d_0000014"
    folder = "VisDrone2019-DET-train"
    root = made({f"{folder}/images/{name}.jpg": SIDE, f"{folder}/annotations/{name}.txt": rows})
    [record], problems = read(read_visdrone, root)
    assert record.categories == ("car", "ignored regions", "others", "pedestrian")
    assert record.ignore.tolist() == [False, True, True, True] and record.group == "0000002" and record.split == "train"
    assert any("line 5: box: expected finite x1 < x2 and y1 < y2" in problem for problem in problems)
    next(iter(read_visdrone(root)))  # a known defect raises nothing


def test_visdrone_names_a_wrong_line(made):
    folder = "VisDrone2019-DET-val"
    rows = lines("<html>", "1,2,3,4,1,4,0", "1,2,3,4,1,12,0,0")
    _, problems = read(read_visdrone, made({f"{folder}/images/1_a.jpg": SIDE, f"{folder}/annotations/1_a.txt": rows}))
    assert "line 1: numbers: expected left,top,width,height,score,category,truncation,occlusion, got '<html>'" in problems[-3]
    assert "line 2: numbers" in problems[-2] and "line 3: category: expected 0 to 11, got 12" in problems[-1]


def test_widerface_survives_images_without_faces_and_broken_counts(made):
    rows = ("0--Parade/a.jpg", "0", "0 0 0 0 0 0 0 0 0 0", "0--Parade/b.jpg", "0", "0--Parade/c.jpg", "3")
    rows += ("1 2 10 10 1 0 0 1 0 0 ", "20 20 0 10 0 0 0 0 0 0", "30 30 10 10 2 1 1 0 2 1")
    rows += ("0--Parade/d.jpg", "many", "0--Parade/e.jpg", "1", "5 5 5 5 0 0 0 0 0 0")
    files = {"wider_face_split/wider_face_train_bbx_gt.txt": lines(*rows)}
    records, problems = read(read_widerface, made(files | {f"WIDER_train/images/0--Parade/{n}.jpg": SIDE for n in "abcde"}))
    assert [(r.path.stem, len(r.boxes)) for r in records] == [("a", 0), ("b", 0), ("c", 2), ("e", 1)]
    assert records[2].ignore.tolist() == [True, False], "the eighth column is `invalid`"
    assert any("line 9: box: expected finite x1 < x2" in problem for problem in problems)
    assert any("line 11: image: expected a file name, a count and so many lines" in problem for problem in problems)


# TinyPerson, TT100K, wheat heads


def test_tinyperson_ignores_what_its_flags_say_and_counts_ids_from_zero(made):
    flags = ({}, {"ignore": True}, {"uncertain": True}, {"logo": True}, {"in_dense_image": True, "ignore": False})
    rows = [(i, 0, 1 + i % 2, [10 * i, 5, 4, 4], {"ignore": False, "uncertain": False} | flag) for i, flag in enumerate(flags)]
    text = coco([(0, "labeled_images/bb_V0032_I0001640.jpg", {})], rows, {1: "sea_person", 2: "earth_person"})
    files = {"tiny_set/annotations/tiny_set_train.json": text, "tiny_set/train/labeled_images/bb_V0032_I0001640.jpg": SIDE}
    files |= {"tiny_set/erase_with_uncertain_dataset/train/labeled_images/bb_V0032_I0001640.jpg": SIDE}
    [record], _ = read(read_tinyperson, made(files))
    assert record.ignore.tolist() == [False, True, True, True, True] and record.group == "bb_V0032"
    assert record.image_id.startswith("tiny_set/train/"), "the images as taken, not the erased ones"


def test_tinyperson_refuses_the_files_of_cut_images(made):
    name = "labeled_images/bb_V0032_I0001640.jpg"
    images = [(0, name, {"corner": [0, 0, 640, 512]}), (1, name, {"corner": [590, 0, 1230, 512]})]
    files = {"annotations/tiny_set_train.json": coco(images, [], {1: "person"}), f"train/{name}": SIDE}
    with pytest.raises(ValueError, match="image 0: corner: a record of a cut tile, expected the file of the whole images"):
        list(read_tinyperson(made(files)))


def test_tt100k_reads_both_releases_and_ids_without_an_entry(made):
    sign = {"category": "ph4.5", "bbox": {"xmin": 10.5, "ymin": 10, "xmax": 20, "ymax": 20.25}, "ellipse": []}
    odd = [{"category": "", "bbox": sign["bbox"]}, {"category": "i2", "bbox": {"xmin": 1}}]
    images = {"10056": {"path": "test/10056.jpg", "objects": [sign, *odd]}, "7": {"path": "other/7.jpg", "objects": []}}
    common = {"tt100k_2021/test/10056.jpg": SIDE, "tt100k_2021/other/7.jpg": SIDE}
    common |= {"tt100k_2021/test/ids.txt": lines("10056", "10057")}
    for name in ("annotations.json", "annotations_all.json"):
        text = json.dumps({"types": ["ph4.5"], "imgs": images})
        records, problems = read(read_tt100k, made(common | {f"tt100k_2021/{name}": text}))
        assert [(r.path.stem, r.split) for r in records] == [("7", ""), ("10056", "test")]
        assert boxes(records[1]) == [[10.5, 10, 20, 20.25]] and records[1].categories == ("ph4.5",)
        assert problems[0] == f"ROOT/tt100k_2021/test/ids.txt: line 2: id: 10057 has no entry in {name}"
        assert "10056.objects[1]: category" in problems[1] and "10056.objects[2]: bbox" in problems[2]


def test_gwhd_reads_boxes_of_a_row_and_rows_without(made):
    rows = ("image_name,BoxesString,domain", "a.png,1 2 30 40;50 50 60 70,ETHZ_1", "b.png,no_box,ETHZ_1", "c.png,1 2 3,NMBU_2")
    files = {"gwhd_2021/competition_test.csv": lines(*rows)} | {f"gwhd_2021/images/{n}.png": SIDE for n in "abc"}
    records, problems = read(read_gwhd, made(files))
    assert [(len(r.boxes), r.group) for r in records] == [(2, "ETHZ_1"), (0, "ETHZ_1"), (0, "NMBU_2")]
    assert boxes(records[0]) == [[1, 2, 30, 40], [50, 50, 60, 70]] and {r.split for r in records} == {"test"}
    assert "line 4: numbers: expected image_name,x1 y1 x2 y2;...,domain, got '1 2 3'" in problems[-1]


# Kinds of broken source: what each says, and that the rest is read

GOOD = [(1, 1, 1, [1, 1, 4, 4], {})]


def folder_with(change=None):
    """A good folder: two images to train with and one to validate with; changed by a function, or with other annotations."""
    rows = change if isinstance(change, list) else GOOD
    whole = {"train.json": coco([(1, "a.png", {}), (2, "b.png", {})], rows, {1: "nut"})}
    whole |= {"val.json": coco([(1, "v.png", {})], GOOD, {1: "nut"})} | {f"images/{name}.png": SIDE for name in "abv"}
    return change(whole) if callable(change) else whole


def without(name):
    return lambda files: {key: value for key, value in files.items() if key != name}


def in_train(*names):
    text = coco([(i, name, {}) for i, name in enumerate(names, 1)], [], {1: "nut"})
    return lambda files: files | {"train.json": text}


PNG = b"\x89PNG\r\n\x1a\n"
BROKEN = {
    "missing file": (without("images/b.png"), "train.json: image 2: file_name: no such file: ROOT/images/b.png", 2),
    "half-written JSON": (lambda f: f | {"train.json": f["train.json"][:80]}, "train.json: file: content: not JSON", 1),
    "wrong header": (lambda f: f | {"train.json": '{"version": 1}'}, "train.json: file: images: expected a COCO file", 1),
    "swapped corners": ([(1, 1, 1, [9, 9, -8, -8], {})], "annotation 1: box: expected finite x1 < x2 and y1 < y2, got [9.0,", 3),
    "zero-byte image": (lambda f: f | {"images/b.png": b""}, "ROOT/images/b.png: image 2: image: an empty file, 0 bytes", 2),
    "half an image": (lambda f: f | {"images/b.png": PNG}, "ROOT/images/b.png: image 2: image: ", 2),
    "wrong size": (
        lambda f: f | {"images/b.png": (50, 40)},
        "stated 100 x 80 (width x height), ROOT/images/b.png has 50",
        2,
    ),
    "duplicate names": (in_train("a.png", "a.png"), "train.json: image 2: file_name: images/a.png is used more than once", 2),
    "name that leads out": (in_train("../../etc/a.png"), "image 1: file_name: expected a path inside the folder of images", 1),
    "unknown category": ([(7, 1, 9, [1, 1, 4, 4], {})], "annotation 7: category_id: unknown category 9", 3),
    "annotation of a missing image": ([(7, 9, 1, [1, 1, 4, 4], {})], "annotation 7: image_id: unknown image 9", 3),
    "box of text": ([(1, 1, 1, "1 2 3 4", {})], "bbox: expected four numbers x, y, width, height, got '1 2 3 4'", 3),
    "box outside": ([(1, 1, 1, [90, 1, 30, 4], {})], "box: [90.0, 1.0, 120.0, 5.0] (x1, y1, x2, y2) is outside", 3),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_source_says_what_and_where_and_the_rest_is_read(made, kind):
    change, message, count = BROKEN[kind]
    root = made(folder_with(change))
    records, problems = read(read_coco, root)
    assert len(records) == count and len(problems) == 1 and message in problems[0], problems
    with pytest.raises(ValueError) as error:
        list(read_coco(root))
    assert str(error.value).replace(str(root), "ROOT") == problems[0]


def test_a_name_that_is_not_utf8_is_told_and_the_rest_is_read(made):
    root = made({"classes.txt": "nut", "images/a.png": SIDE, "labels/a.txt": ""})
    try:
        (root / "images" / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "images/a.png").read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8")
    records, problems = read(read_yolo, root)
    assert len(records) == 1 and len(problems) == 1
    assert problems[0] == r"ROOT/images/caf\xe9.png: image: file_name: expected a name in UTF-8"


@pytest.mark.parametrize(("name", "said"), [("nowhere", "nowhere: file: path: no such folder"), (".", "expected|no such file")])
def test_a_folder_that_is_empty_or_not_there_says_what_was_expected(tmp_path, name, said):
    for key, source in SOURCES.items():
        with pytest.raises(ValueError, match=said):
            list(source.read(tmp_path / name))
        assert list(source.read(tmp_path / name, on_problem=lambda problem: None)) == [], key


def test_two_images_of_one_name_are_told(made):
    files = {"Annotations/a.xml": voc(), "JPEGImages/a.jpg": SIDE, "JPEGImages/a.png": SIDE, "JPEGImages/._a.jpg": b"\0"}
    records, problems = read(read_voc, made(files))
    assert len(records) == 1 and "a.png: image: name: the same name as a.jpg" in problems[0] and len(problems) == 1


def test_xml_without_names_or_numbers_is_told(made):
    files = {
        "a.xml": "<annotation><object>",
        "b.xml": voc(("", (1, 1, 2, 2), ""), ("nut", (1, 1, "x", 2), ""), ("nut", None, "")),
    }
    records, problems = read(read_voc, made(files | {"a.jpg": SIDE, "b.jpg": SIDE}))
    assert len(records) == 1 and "a.xml: file: content: not XML" in problems[0]
    assert [p.split("b.xml: ")[1].split(":")[0] for p in problems[1:]] == ["object 1", "object 2", "object 3"]


def test_without_pyyaml_the_names_come_from_another_file_or_the_message_says_so(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    root = made({"data.yaml": "names: [nut]", "images/a.png": SIDE, "labels/a.txt": "0 0.5 0.5 1 1"})
    with pytest.raises(ValueError, match="needs PyYAML: pip install dealkit"):
        list(read_yolo(root))
    (root / "classes.txt").write_text("nut")
    assert read(read_yolo, root)[0][0].categories == ("nut",)


# All of them


def test_the_command_line_lists_sources_and_says_how_to_get_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["dealkit", "data", "sources"])
    main()
    listed = capsys.readouterr().out
    assert "dota-v2.0" in listed and "sirst-v2" in listed
    for words, code in ((["soda-d", "--root", str(tmp_path)], 2), (["widerfac", "--root", str(tmp_path)], 2)):
        monkeypatch.setattr(sys, "argv", ["dealkit", "data", "get", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "expected  Annotations/{train,val,test}.json" in out and "did you mean widerface?" in err


def test_the_table_has_every_fact_or_says_that_it_is_unknown():
    assert {source.domain for source in SOURCES.values()} > set(DATA_DOMAINS[:6]), "a source of each domain of the paper"
    for key, source in SOURCES.items():
        assert source.domain in DATA_DOMAINS or source.domain == "" and source.how == "your own", key
        assert all((source.title, source.licence, source.page.startswith("http"), source.layout, source.note)), key
        assert bool(source.downloads) != bool(source.by_hand) or not source.domain, key
        assert source.how in ("git", "http", "by hand", "your own"), key


def test_the_data_card_holds_the_table_of_today():
    assert sources_markdown() in (PROJECT_ROOT / "data" / "README.md").read_text()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs real data: set DEALKIT_DATA to the folder that holds realsmall")
def test_real_folders_are_read_without_a_problem():
    for folder in sorted(path for path in REAL.iterdir() if path.is_dir()):
        records = list(read_coco(folder, source=folder.name))
        assert records and {record.split for record in records} == {"train", "val"}, folder
