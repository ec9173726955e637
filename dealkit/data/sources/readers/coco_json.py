"""Sources that come as COCO JSON: one's own folders, AI-TOD, SODA-D, TinyPerson."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.data.coco import SPLIT_NAMES
from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, are_numbers, named_part
from dealkit.data.sources.records import ImageRecord
from dealkit.files import Json


def read_coco(root: str | Path, *, source: str = "coco", on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """A COCO folder: `*.json` or `annotations/*.json`, images in `images/`, in a folder named as the split, or beside.

    The split is the first of train, val and test in the name of the file. `iscrowd: 1` and `ignore: 1` are ignored objects;
    outlines of several parts and run-length masks are left out, their boxes stay. Choice: two records of one image are a
    problem, since each shows the other's objects as background.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 6}], "categories": [{"id": 3, "name": "nut"}],
    ...            "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}]}'''
    >>> with example({"train.json": text, "images/a.png": (8, 6)}) as root:
    ...     [record] = read_coco(root)
    >>> record.image_id, record.split, record.categories, record.boxes.tolist()
    ('images/a.png', 'train', ('nut',), [[1.0, 2.0, 4.0, 6.0]])
    """
    reading = Reading(source, root, on_problem, own=True)
    root = Path(root)
    files = sorted(root.glob("annotations/instances_*.json")) or sorted(root.glob("*.json")) + sorted(
        root.glob("annotations/*.json")
    )
    if not files:
        reading.wrong(root, "file", "path", "expected COCO files: *.json or annotations/*.json")
    for file in files:
        split = (re.findall("train|val|test", file.stem.lower()) or [""])[0]
        name = file.stem.removeprefix("instances_")  # COCO's own folders: train2017
        folders = [f"images/{split}", f"images/{name}", "images", name, split, "."]
        yield from _coco(reading, file, folders, split=split)


def read_aitod(root: str | Path, *, version: str = "1", on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """AI-TOD: `annotations/aitod_{train,val,test}[_v1].json`, images in `images/{split}`, `{split}/images` or `trainval`.

    Tiles of one large image (`1052__600_1200.png`) are one group. About a third of the images has to be made from xView by the
    authors' tool; how many are missing is one problem per file. `trainval` repeats train and val: it is read, as train, only
    where these are not there.

    Args:
        version: 2 is AI-TOD-v2, the same images with the new `annotations/aitodv2_{train,val,test}.json`.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 1, "file_name": "12__0_600.png", "width": 8, "height": 8}], "annotations": [],
    ...            "categories": [{"id": 1, "name": "ship"}]}'''
    >>> with example({"annotations/aitodv2_test.json": text, "test/images/12__0_600.png": (8, 8)}) as root:
    ...     [record] = read_aitod(root, version="2")
    >>> record.source, record.split, record.group, len(record.boxes)
    ('aitod-v2', 'test', '12', 0)
    """
    if version not in ("1", "2"):
        raise ValueError(f"version: expected 1 or 2, got {version!r}")
    reading = Reading("aitod" if version == "1" else "aitod-v2", root, on_problem)
    names = ("aitod_{}.json", "aitod_{}_v1.json") if version == "1" else ("aitodv2_{}.json", "aitod_{}_v2.json")
    places = [f"{folder}{name}" for folder in ("annotations/", "annotations*/", "", "*/") for name in names]
    files = {split: reading.first(*(p.format(split) for p in places)) for split in (*SPLIT_NAMES, "trainval")}
    whole = files.pop("trainval")
    if whole is not None and files["train"] is None and files["val"] is None:
        files["train"] = whole
    missing = "a third of the images must be made from xView with the authors' tool (aitodtoolkit)"
    for split, file in reading.present(files, f"annotations/{names[0]}").items():
        folders = [f.format(s) for s in (split, "trainval") for f in ("images/{}", "{}/images", "{}")] + ["images"]
        yield from _coco(reading, file, folders, split=split, group=r"(.+?)__.*", missing=missing)


def read_sodad(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SODA-D: `Annotations/{train,val,test}.json` and `Images/`; category 10, `ignore`, and `ignore` flags are ignored objects.

    Choice: the original images, as the benchmark scores them. Files of the authors' split tool (records with `start_coord`) are
    a problem.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 0, "file_name": "a.jpg", "width": 8, "height": 8}],
    ...            "annotations": [{"id": 0, "image_id": 0, "category_id": 10, "bbox": [0, 0, 4, 4]}],
    ...            "categories": [{"id": 1, "name": "people"}, {"id": 10, "name": "ignore"}]}'''
    >>> with example({"Annotations/train.json": text, "Images/a.jpg": (8, 8)}) as root:
    ...     [record] = read_sodad(root)
    >>> record.categories, record.ignore
    (('ignore',), array([ True]))
    """
    reading = Reading("soda-d", root, on_problem)
    files = {split: reading.first(f"Annotations/{split}.json", f"annotations/{split}.json") for split in SPLIT_NAMES}
    for split, file in reading.present(files, "Annotations/{}.json").items():
        folders = ["Images", f"Images/{split}", "images", f"images/{split}"]
        yield from _coco(reading, file, folders, split=split, ignored=("ignore",), whole_only="start_coord")


def read_tinyperson(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """TinyPerson: `annotations/tiny_set_{train,test}.json` with `train/` and `test/`, in the root or in `tiny_set/`.

    Objects flagged `ignore`, `uncertain`, `logo` or `in_dense_image` are ignored objects. Choice: the images as taken, not the
    ones in which the authors erased these objects; the files without dense images, whose labels are loose; the two
    categories sea_person and earth_person, not the merged task. Frames of one video (`bb_V0032_I0001640.jpg`) are one group.
    Files in which one image is several records with a `corner` hold cut objects and are a problem.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 0, "file_name": "labeled_images/bb_V0032_I0001640.jpg", "width": 8, "height": 8}],
    ...            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4], "ignore": true}],
    ...            "categories": [{"id": 1, "name": "sea_person"}]}'''
    >>> with example({"annotations/tiny_set_train.json": text, "train/labeled_images/bb_V0032_I0001640.jpg": (8, 8)}) as root:
    ...     [record] = read_tinyperson(root)
    >>> record.group, record.ignore
    ('bb_V0032', array([ True]))
    """
    reading = Reading("tinyperson", root, on_problem)
    start = next((f for f in (reading.root / "tiny_set", reading.root) if (f / "annotations").is_dir()), reading.root)
    inside = start.relative_to(reading.root)
    files = {split: start / "annotations" / f"tiny_set_{split}.json" for split in ("train", "test")}
    for split, file in reading.present(files, "annotations/tiny_set_{}.json").items():
        folders, flags = (
            [str(inside / split), str(inside / split / "labeled_images")],
            ("ignore", "uncertain", "logo", "in_dense_image"),
        )
        yield from _coco(reading, file, folders, split=split, ignore_keys=flags, whole_only="corner", group=r"(.+)_I\d+")


def _coco(
    reading: Reading,
    file: Path,
    folders: list[str],
    *,
    split: str,
    ignored: tuple[str, ...] = (),
    ignore_keys: tuple[str, ...] = ("ignore",),
    whole_only: str | None = None,
    group: str = "",
    missing: str | None = None,
) -> Iterator[ImageRecord]:
    """Records of one COCO file; ids are only looked up, so that any numbering will do.

    `ignored` are categories and `ignore_keys` keys of annotations that make ignored objects; `whole_only` is a key that only
    image records of cut tiles have; `group` is the pattern of `named_part`; `missing` makes all missing images one problem, which
    it explains.
    """
    data = reading.json(file)
    if data is None:
        return
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            reading.wrong(file, "file", key, "expected a COCO file, an object with the lists images, annotations and categories")
            return
    names = {}
    for i, row in enumerate(data["categories"]):
        if isinstance(row, dict) and isinstance(row.get("name"), str) and row["name"] and isinstance(row.get("id"), int):
            names[row["id"]] = row["name"]
        else:
            reading.wrong(file, f"categories[{i}]", "record", f"expected an id and a name, got {row!r:.60}")
    images: dict[Any, Json] = {}
    for i, row in enumerate(data["images"]):
        if not (isinstance(row, dict) and isinstance(row.get("file_name"), str) and isinstance(row.get("id"), int | str)):
            reading.wrong(file, f"images[{i}]", "record", f"expected an id and a file_name, got {row!r:.60}")
        elif whole_only is not None and whole_only in row:
            reading.wrong(file, f"image {row['id']}", whole_only, "a record of a cut tile, expected the file of the whole images")
            return
        elif row["id"] in images:
            reading.wrong(file, f"image {row['id']}", "id", "used more than once")
        else:
            images[row["id"]] = row
    rows = data["annotations"]
    of_image: dict[Any, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if isinstance(row, dict) and _key(row.get("image_id")) in images:
            of_image[row["image_id"]].append(i)
        elif isinstance(row, dict):
            reading.wrong(file, _record_name(i, row), "image_id", f"unknown image {row.get('image_id')!r}")
        else:
            reading.wrong(file, f"annotations[{i}]", "record", f"expected an object, got {row!r:.60}")

    def found(i: int) -> Found | None:
        row, rows[i] = rows[i], None  # forget it: files have millions
        where, box, name = _record_name(i, row), row.get("bbox"), names.get(_key(row.get("category_id")))
        if name is None:
            reading.wrong(file, where, "category_id", f"unknown category {row.get('category_id')!r}")
        elif not (are_numbers(box) and len(box) == 4):
            reading.wrong(file, where, "bbox", f"expected four numbers x, y, width, height, got {box!r:.80}")
        else:
            x, y, width, height = box
            ignore = name in ignored or bool(row.get("iscrowd")) or any(row.get(key) for key in ignore_keys)
            return Found(where, name, (x, y, x + width, y + height), ignore, _outline(row.get("segmentation")))
        return None

    lost = []
    folder = next((f for name in folders if (f := reading.root / name).is_dir()), reading.root / folders[0])
    for image_id, row in images.items():
        path = next((p for f in folders if (p := reading.root / f / row["file_name"]).is_file()), folder / row["file_name"])
        if missing is not None and not path.is_file():
            lost.append(row["file_name"])
            continue
        size = (row["width"], row["height"]) if "width" in row and "height" in row else None
        objects = [o for i in of_image.pop(image_id, ()) if (o := found(i)) is not None]
        options = {"where": f"image {image_id}", "size": size, "group": named_part(group, row["file_name"]), "split": split}
        yield from reading.record(path, objects, file=file, **options)
    if lost:
        many = f"{len(lost)} of {len(images)} images are missing, the first is {lost[0]}; {missing}"
        reading.wrong(file, "file", "images", many)


def _outline(segmentation: Any) -> np.ndarray | None:
    """The polygon of an object in one part, else None."""
    values = segmentation[0] if isinstance(segmentation, list) and len(segmentation) == 1 else None
    if not are_numbers(values) or len(values) < 6 or len(values) % 2:
        return None
    polygon = np.array(values, np.float32).reshape(-1, 2)
    return polygon if np.isfinite(polygon).all() else None


def _record_name(i: int, row: Json) -> str:
    return f"annotation {row['id']}" if "id" in row else f"annotations[{i}]"


def _key(value: Any) -> Any:
    """An id, or None for what cannot be one."""
    return value if isinstance(value, int | str) else None
