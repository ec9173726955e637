"""`dealkit.data.coco`: COCO folders, and the check that names file, record and field."""

import json
import pickle

import conftest
import pytest
import torch
from image_cases import save_rotated, truncate
from PIL import Image
from pycocotools.coco import COCO

from dealkit.clicks import make_clicks
from dealkit.data.annotations import image_folder, read_coco
from dealkit.data.coco import CocoFolder, check, check_report, coco_dict
from dealkit.data.scenes.scene import write_coco
from dealkit.evaluate.coco import evaluate
from dealkit.files import OUTSIDE

REAL = conftest.REAL / "realsmall"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs real data: set DEALKIT_DATA to the folder that holds realsmall")


def write_folder(folder, *, change=None):
    """Two images of 20 x 10 (width x height), two categories, three annotations; `change(data)` edits the JSON."""
    (folder / "images").mkdir(exist_ok=True)
    for i, name in enumerate(("a.png", "b.png", "empty.png")):
        Image.new("RGB", (20, 10), (10 * i, 0, 0)).save(folder / "images" / name)
    data = {
        "images": [
            {"id": 3, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 1, "file_name": "b.png", "width": 20, "height": 10},
            {"id": 2, "file_name": "empty.png", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0},
            {"id": 12, "image_id": 3, "category_id": 5, "bbox": [0.25, 0.5, 0.5, 0.25], "area": 0.125},
            {"id": 13, "image_id": 1, "category_id": 5, "bbox": [10, 0, 10, 10], "area": 100.0, "iscrowd": 1},
        ],
        "categories": [{"id": 9, "name": "nut"}, {"id": 5, "name": "bolt"}],
    }
    if change is not None:
        change(data)
    (folder / "train.json").write_text(json.dumps(data))
    return folder / "train.json", folder / "images"


# Folders


def test_a_folder_gives_samples_in_the_order_of_the_file(tmp_path):
    folder = pickle.loads(pickle.dumps(CocoFolder(*write_folder(tmp_path))))  # as loader workers need
    assert len(folder) == 3
    assert folder.categories == [(5, "bolt"), (9, "nut")]
    assert folder.image_ids == [3, 1, 2]
    assert folder.file_names == ["a.png", "b.png", "empty.png"]
    assert folder.sizes_hw == [(10, 20)] * 3
    assert folder.source == tmp_path.name
    sample = folder[1]
    assert sample.image.shape == (3, 10, 20) and sample.image[0, 0, 0] == 10
    assert sample.boxes.tolist() == [[1.0, 2.0, 4.0, 6.0], [10.0, 0.0, 20.0, 10.0]]  # xywh to xyxy
    assert sample.labels.tolist() == [1, 0]  # id 9 is the second id, 5 the first
    assert sample.crowd.tolist() == [False, True]
    assert sample.annotation_ids.tolist() == [11, 13]
    assert sample.image_id == 1 and sample.source == tmp_path.name
    assert sample.boxes.dtype == torch.float32 and sample.labels.dtype == sample.annotation_ids.dtype == torch.int64
    assert folder[0].boxes.tolist() == [[0.25, 0.5, 0.75, 0.75]]  # under a pixel: an ordinary box
    assert folder[2].boxes.shape == (0, 4) and folder[2].labels.shape == folder[2].crowd.shape == (0,)
    folder[1].boxes.zero_()
    assert folder[1].boxes.tolist() == sample.boxes.tolist()


def test_rows_give_the_boxes_without_reading_an_image(tmp_path):
    annotations, images = write_folder(tmp_path)
    folder = CocoFolder(annotations, images, source="bench")
    for path in images.iterdir():
        path.unlink()
    assert [folder.annotation_ids[folder.rows(i)].tolist() for i in range(3)] == [[12], [11, 13], []]
    assert folder.rows(-2) == folder.rows(1)
    with pytest.raises(IndexError):
        folder.rows(3)
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        folder[0]


@pytest.mark.parametrize("gone", [["annotations"], ["annotations", "images"]])
def test_a_file_without_any_annotation_or_image_is_read(tmp_path, gone):
    paths = write_folder(tmp_path, change=lambda d: d.update(dict.fromkeys(gone, [])))
    assert [len(sample.boxes) for sample in CocoFolder(*paths)] == [0] * (0 if "images" in gone else 3)
    assert check_report(*paths) == (f"{paths[0]}: no problems", 0)


def test_a_box_that_stands_out_by_up_to_a_pixel_is_cut_off(tmp_path):
    paths = write_folder(tmp_path, change=lambda d: d["annotations"][1].update(bbox=[-1, -0.5, 22, 11.5], ignore=1))
    assert check(*paths) == []
    sample = CocoFolder(*paths)[0]
    assert sample.boxes.tolist() == [[0.0, 0.0, 20.0, 10.0]] and sample.crowd.tolist() == [True]


def test_numbers_agree_with_pycocotools(tmp_path):
    annotations, images = write_folder(tmp_path)
    folder, reference = CocoFolder(annotations, images), COCO(str(annotations))
    for sample in folder:
        rows = reference.loadAnns(reference.getAnnIds(imgIds=[sample.image_id]))
        assert sample.annotation_ids.tolist() == [row["id"] for row in rows]
        assert [folder.categories[label][0] for label in sample.labels] == [row["category_id"] for row in rows]


def test_the_constructor_names_the_first_problem_and_the_command_for_all(tmp_path):
    def change(data):
        data["annotations"][0]["category_id"] = 77
        data["annotations"][2]["bbox"] = [0, 0, -1, 5]

    annotations, images = write_folder(tmp_path, change=change)
    with pytest.raises(ValueError) as caught:
        CocoFolder(annotations, images)
    first, rest = str(caught.value).split("\n")
    assert first == f"{annotations}: annotation 11: category_id: unknown category 77"
    assert rest.startswith("1 more; ")
    assert rest.endswith(f"python -m dealkit data check {annotations} --images {images}")


def test_an_image_of_another_size_than_stated_is_named_when_it_is_read(tmp_path):
    annotations, images = write_folder(tmp_path)
    folder = CocoFolder(annotations, images)
    Image.new("L", (20, 12)).save(images / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: image 3: width, height: stated 20 x 10 .* the file has 20 x 12"):
        folder[0]
    save_rotated(images / "a.png")
    (problem,) = check(annotations, images)
    assert (problem.file, problem.where, problem.field) == (str(images / "a.png"), "image 3", "width, height")
    assert "the file has 10 x 20 (were the boxes drawn before the file's EXIF rotation" in problem.message


# The check


def set_in(key, index, **values):
    return lambda data: data[key][index].update(values)


def drop(key, index, field):
    return lambda data: data[key][index].pop(field)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "where", "field", "message"),
    [
        (set_in("annotations", 0, bbox=[1, 2, 0, 4]), "annotation 11", "bbox", "positive width and height"),
        (set_in("annotations", 0, bbox=[1, 2, 3]), "annotation 11", "bbox", "four finite numbers"),
        (set_in("annotations", 0, bbox=None), "annotation 11", "bbox", "four finite numbers"),
        (set_in("annotations", 0, bbox=[1, 2, "3", 4]), "annotation 11", "bbox", "four finite numbers"),
        (set_in("annotations", 0, bbox=[NAN, 2, 3, 4]), "annotation 11", "bbox", "four finite numbers"),
        (set_in("annotations", 0, bbox=[1, 2, INF, 4]), "annotation 11", "bbox", "four finite numbers"),
        (set_in("annotations", 0, bbox=[1, 2, 10**400, 4]), "annotation 11", "bbox", "four finite numbers"),
        (drop("annotations", 0, "bbox"), "annotation 11", "bbox", "missing"),
        (set_in("annotations", 0, bbox=[15, 2, 6.5, 4]), "annotation 11", "bbox", "outside the image of 20 x 10"),
        (set_in("annotations", 0, bbox=[-2, 2, 6, 4]), "annotation 11", "bbox", "outside the image of 20 x 10"),
        (set_in("annotations", 0, bbox=[20, 2, 1, 4]), "annotation 11", "bbox", "no area inside the image"),
        (set_in("annotations", 0, bbox=[19, 2, 1e-9, 4]), "annotation 11", "bbox", "in float32"),
        (set_in("annotations", 0, area=NAN), "annotation 11", "area", "finite number"),
        (set_in("annotations", 0, iscrowd=2), "annotation 11", "iscrowd", "expected 0 or 1, got 2"),
        (set_in("annotations", 0, ignore="yes"), "annotation 11", "ignore", "expected 0 or 1, got 'yes'"),
        (set_in("annotations", 0, category_id=77), "annotation 11", "category_id", "unknown category 77"),
        (drop("annotations", 0, "category_id"), "annotation 11", "category_id", "missing"),
        (set_in("annotations", 0, image_id=77), "annotation 11", "image_id", "unknown image 77"),
        (set_in("annotations", 0, image_id=[1]), "annotation 11", "image_id", "unknown image [1]"),
        (drop("annotations", 0, "image_id"), "annotation 11", "image_id", "missing"),
        (set_in("annotations", 0, id=0), "annotation 0", "id", "never be matched"),
        (set_in("annotations", 0, id=13), "annotation 13", "id", "used more than once, again in annotations[2]"),
        (set_in("annotations", 0, id="x"), "annotations[0]", "id", "expected an integer, got 'x'"),
        (set_in("annotations", 0, id=2**70), "annotations[0]", "id", "expected an integer"),
        (drop("annotations", 0, "id"), "annotations[0]", "id", "missing"),
        (lambda d: d["annotations"].append("text"), "annotations[3]", "record", "expected an object, got 'text'"),
        (lambda d: d["categories"].append({"id": 5, "name": "screw"}), "category 5", "id", "again in categories[2]"),
        (drop("categories", 0, "name"), "category 9", "name", "expected text, got None"),
        (lambda d: d["images"].append(dict(d["images"][0], file_name="c")), "image 3", "id", "again in images[3]"),
        (set_in("images", 2, file_name="gone.png"), "image 2", "file_name", "no such file"),
        (set_in("images", 2, file_name=""), "image 2", "file_name", "expected text"),
        (set_in("images", 2, file_name="a.png"), "image 2", "file_name", "already the file of image 3"),
        (drop("images", 2, "file_name"), "image 2", "file_name", "missing"),
        (drop("images", 2, "width"), "image 2", "width", "missing"),
        (set_in("images", 2, height=10.0), "image 2", "height", "expected a positive integer, got 10.0"),
        (set_in("images", 2, width=0), "image 2", "width", "expected a positive integer, got 0"),
        (lambda d: d.pop("categories"), "file", "categories", "missing"),
        (lambda d: d.update(images={}), "file", "images", "expected a list, got a dict"),
    ],
)
def test_each_fault_of_the_file_is_one_problem_that_names_record_and_field(tmp_path, change, where, field, message):
    annotations, images = write_folder(tmp_path, change=change)
    problems = check(annotations, images)
    assert len(problems) == 1
    assert (problems[0].file, problems[0].where, problems[0].field) == (str(annotations), where, field)
    assert message in problems[0].message
    assert "\n" not in str(problems[0])
    with pytest.raises(ValueError, match="data check"):
        CocoFolder(annotations, images)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a JSON"), ("", "not a JSON"), ("[1]", "got a list"), ("\0\1", "not a JSON")]
)
def test_a_file_that_is_not_coco_json_is_one_problem(tmp_path, text, message):
    annotations, images = write_folder(tmp_path)
    annotations.write_text(text)
    (problem,) = check(annotations, images)
    assert (problem.where, problem.field) == ("file", "content") and message in problem.message
    assert str(*check(tmp_path / "none.json", images)).endswith("none.json: file: path: no such file")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    annotations, images = write_folder(tmp_path)
    annotations.write_text("\ufeff" + annotations.read_text(), encoding="utf-8")
    assert check(annotations, images) == []
    assert str(check(annotations, tmp_path / "none")[0]).endswith("none: file: path: no such folder of images")


def test_image_and_category_ids_may_be_zero(tmp_path):
    def change(data):
        data["images"][2]["id"] = 0
        data["categories"][1]["id"] = 0
        for row in data["annotations"]:
            row["category_id"] = {5: 0}.get(row["category_id"], row["category_id"])

    paths = write_folder(tmp_path, change=change)
    assert check(*paths) == [] and CocoFolder(*paths).categories == [(0, "bolt"), (9, "nut")]


def test_truncated_and_false_images_are_problems_found_by_decoding(tmp_path):
    annotations, images = write_folder(tmp_path)
    truncate(images / "a.png")
    (images / "b.png").write_text("text")
    problems = check(annotations, images)
    assert [(p.file, p.where) for p in problems] == [(str(images / "a.png"), "image 3"), (str(images / "b.png"), "image 1")]
    assert all(str(images) not in p.message for p in problems)  # the file is named once


def test_all_problems_are_listed_not_only_the_first(tmp_path):
    def change(data):
        data["annotations"][0].update(bbox=[NAN, 0, 1, 1], category_id=77, image_id=88)
        data["images"][2]["file_name"] = "gone.png"

    annotations, images = write_folder(tmp_path, change=change)
    truncate(images / "a.png")
    text, code = check_report(annotations, images)
    assert code == 1
    lines = text.splitlines()
    assert len(lines) == 6 and lines[-1] == f"{annotations}: problems: 5"
    said = [line.split(": ")[1:3] for line in lines[:-1]]
    of_box = [["annotation 11", field] for field in ("category_id", "image_id", "bbox")]
    assert said == [["image 2", "file_name"], *of_box, ["image 3", "file_name"]]


# Masks, boxes without a size, names that lead out


def masked(data, *segmentations):
    """One annotation for each mask, without a box; the last in `images[1]`, as all."""
    rows = [{"id": i, "image_id": 1, "category_id": 5, "segmentation": s} for i, s in enumerate(segmentations, 21)]
    data.update(annotations=rows)
    return rows


POLYGON = [[1, 2, 5, 2, 5, 4.5], [7, 3, 8, 3, 8, 4]]  # x 1 to 8, y 2 to 4.5
RLE = {"size": [10, 20], "counts": [12, 4, 6, 4, 174]}  # columns 1 and 2, rows 2 to 5
PACKED = {"size": [10, 20], "counts": "<460X5"}  # the same, as pycocotools writes it


@pytest.mark.parametrize(
    ("segmentation", "xywh"),
    [(POLYGON, [1, 2, 7, 2.5]), (RLE, [1, 2, 2, 4]), (PACKED, [1, 2, 2, 4])],
    ids=["polygon", "rle", "packed"],
)
@pytest.mark.parametrize("bbox", ["missing", None, []])
def test_boxes_come_from_the_masks_where_there_are_none_and_are_counted_once(tmp_path, told, segmentation, xywh, bbox):
    def change(data):
        for row in masked(data, segmentation, segmentation):
            row.update({} if bbox == "missing" else {"bbox": bbox})

    paths = write_folder(tmp_path, change=change)
    assert check(*paths) == []
    x, y, w, h = xywh
    assert CocoFolder(*paths)[1].boxes.tolist() == [[x, y, x + w, y + h]] * 2
    assert [row["bbox"] for row in read_coco(paths[0])["annotations"]] == [xywh] * 2
    assert len(make_clicks(paths[0], setting="1/instance", seed=0)["prompts"][0]["points"]) == 2
    assert evaluate(paths[0], [])["counts"]["objects"] == 2
    assert told() == f"{paths[0]}: 2 annotations without a bbox: their boxes are those of their masks"


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "missing, and no mask"),
        ([[1, 2, 3]], "expected polygons"),
        ([[1, 2, 3, 4, 5, NAN]], "expected polygons"),
        ("text", "expected polygons"),
        ({"size": [10, 20]}, "expected an RLE {size, counts}: KeyError"),
        ({"size": [10, 20], "counts": " 1"}, "expected an RLE {size, counts}: "),
        ({"size": [10, 20], "counts": [1, -1]}, "expected an RLE {size, counts}: "),
        ({"size": [10**400, 20], "counts": [1, 2]}, "expected an RLE {size, counts}: "),
        ({"size": [10, 20], "counts": [200]}, "expected a positive width and height"),
        ([[30, 2, 35, 2, 35, 4]], "is outside the image"),
    ],
)
def test_a_mask_that_gives_no_box_is_one_problem(tmp_path, segmentation, said):
    (problem,) = check(*write_folder(tmp_path, change=lambda data: masked(data, segmentation)))
    assert problem.where == "annotation 21" and said in problem.message


def test_boxes_without_a_size_are_a_problem_or_dropped_and_counted(tmp_path, told):
    def change(data):
        data["annotations"][0]["bbox"], data["annotations"][2]["bbox"] = [1, 2, 0, 4], [3, 3, 2, -1]

    paths = write_folder(tmp_path, change=change)
    assert ["`--drop` leaves the annotation out" in str(p) for p in check(*paths)] == [True, True]
    assert check(*paths, drop=True) == [] and check_report(*paths, drop=True)[1] == 0
    assert CocoFolder(*paths, drop=True).annotation_ids.tolist() == [12]
    assert [row["id"] for row in read_coco(paths[0], drop=True)["annotations"]] == [12]
    assert told() == f"{paths[0]}: 2 annotations without a positive width and height are left out"
    with pytest.raises(ValueError, match="annotation 11: bbox: expected a positive width and height"):
        read_coco(paths[0])


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "a/../../a.png", ".."])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    paths = write_folder(tmp_path, change=set_in("images", 2, file_name=name))
    assert [str(p).split(": ")[1:3] for p in check(*paths)] == [["image 2", "file_name"]]
    with pytest.raises(ValueError, match="image 2: file_name: expected a path inside the folder of images"):
        read_coco(paths[0])


def test_a_file_name_that_leads_out_of_the_folder_is_read_where_that_is_allowed(tmp_path, monkeypatch):
    def change(data):
        data["images"][0]["file_name"], data["images"][1]["file_name"] = str(outside / "a.png"), "../elsewhere/b.png"

    outside = tmp_path / "elsewhere"
    outside.mkdir()
    paths = write_folder(tmp_path, change=change)
    for name in ("a.png", "b.png"):
        (paths[1] / name).rename(outside / name)
    assert len(check(*paths)) == 2
    monkeypatch.setenv(OUTSIDE, "1")
    assert check(*paths) == [] and len(read_coco(paths[0])["images"]) == 3
    assert [sample.image.shape[2] for sample in CocoFolder(*paths)] == [20, 20, 20]


def test_images_lie_beside_the_file_or_below_it(make_coco, tmp_path):
    file = make_coco("a", [[]])
    assert image_folder(file) == CocoFolder(file).images == file.parent / "images"
    scenes = write_coco(tmp_path / "scenes", 1, size=64)
    assert image_folder(scenes) == CocoFolder(scenes).images == scenes.parent


def test_text_that_no_terminal_prints_is_refused_and_printed_in_another_way(tmp_path):
    def change(data):
        data["categories"][0]["name"] = data["images"][2]["file_name"] = "\ud800"

    text, _ = check_report(*write_folder(tmp_path, change=change))
    assert text.encode() and text.count("expected text, got '\\ud800'") == 2


# Writing


def test_what_coco_dict_writes_is_read_back(tmp_path):
    boxes = torch.tensor([[1.0, 2.0, 3.5, 4.0], [0.0, 0.0, 20.0, 10.0]])
    labels, crowd = torch.tensor([1, 0]), torch.tensor([False, True])
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    data = coco_dict([("a.png", (10, 20), boxes, labels, crowd), ("b.png", (10, 20), *none)], ["bolt", "nut"])
    annotations, images = write_folder(tmp_path, change=lambda d: (d.clear(), d.update(data)))
    assert check(annotations, images) == []
    first, second = CocoFolder(annotations, images)
    assert torch.equal(first.boxes, boxes) and torch.equal(first.labels, labels) and torch.equal(first.crowd, crowd)
    assert first.annotation_ids.tolist() == [1, 2] and len(second.boxes) == 0


# Real data


@needs_real
@pytest.mark.real
@pytest.mark.parametrize("source", ["sirst", "ibis", "hemocytometer", "particles"])
def test_real_sources_load_with_boxes_inside_their_images(source):
    folder = CocoFolder(REAL / source / "val.json", REAL / source / "images")
    assert folder.source == source and len(folder) > 0
    limits = torch.tensor([[w, h, w, h] for h, w in folder.sizes_hw], dtype=torch.float32)
    for i in range(len(folder)):
        boxes = folder.boxes[folder.rows(i)]
        assert (boxes >= 0).all() and (boxes <= limits[i]).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert folder[0].image.shape[1:] == folder.sizes_hw[0]
    assert int(folder.labels.max()) < len(folder.categories)
