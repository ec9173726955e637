"""Sources that come as COCO JSON: one's own folders, AI-TOD, SODA-D, TinyPerson, SeaDronesSee."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.data.sources.readers.reading import Found, OnProblem, Reading
from dealkit.data.sources.records import ImageRecord

Row = dict[str, Any]


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
        split = _split_of(file.stem)
        name = file.stem.removeprefix("instances_")  # COCO's own folders: train2017
        folders = [f"images/{split}", f"images/{name}", "images", name, split, "."]
        yield from _coco(reading, file, folders, split=split)


def read_aitod(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """AI-TOD: `annotations/aitod_{train,val,test}[_v1].json`, images in `images/{split}`, `{split}/images` or `trainval`.

    Tiles of one large image (`1052__600_1200.png`) are one group. About a third of the images has to be made from xView by the
    authors' tool; how many are missing is one problem per file. `trainval` repeats train and val: it is read, as train, only
    where these are not there.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 1, "file_name": "12__0_600.png", "width": 8, "height": 8}], "annotations": [],
    ...            "categories": [{"id": 1, "name": "ship"}]}'''
    >>> with example({"annotations/aitod_val_v1.json": text, "images/val/12__0_600.png": (8, 8)}) as root:
    ...     [record] = read_aitod(root)
    >>> record.group, record.split, len(record.boxes)
    ('12', 'val', 0)
    """
    yield from _aitod(Reading("aitod", root, on_problem), "aitod_{}.json", "aitod_{}_v1.json")


def read_aitodv2(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """AI-TOD-v2: the images of AI-TOD with the new `annotations/aitodv2_{train,val,test}.json`; else as `read_aitod`.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 1, "file_name": "12__0_600.png", "width": 8, "height": 8}], "annotations": [],
    ...            "categories": [{"id": 1, "name": "ship"}]}'''
    >>> with example({"annotations/aitodv2_test.json": text, "test/images/12__0_600.png": (8, 8)}) as root:
    ...     [record] = read_aitodv2(root)
    >>> record.source, record.split
    ('aitod-v2', 'test')
    """
    yield from _aitod(Reading("aitod-v2", root, on_problem), "aitodv2_{}.json", "aitod_{}_v2.json")


def _aitod(reading: Reading, *names: str) -> Iterator[ImageRecord]:
    places = [f"{folder}{name}" for folder in ("annotations/", "annotations*/", "", "*/") for name in names]
    files = {split: reading.first(*(p.format(split) for p in places)) for split in ("train", "val", "test", "trainval")}
    whole = files.pop("trainval")
    if whole is not None and files["train"] is None and files["val"] is None:
        files["train"] = whole
    for split, file in reading.present(files, f"annotations/{names[0]}").items():
        folders = [f.format(s) for s in (split, "trainval") for f in ("images/{}", "{}/images", "{}")] + ["images"]
        missing = "a third of the images must be made from xView with the authors' tool (aitodtoolkit)"
        yield from _coco(reading, file, folders, split=split, group=lambda row: _large_image(row["file_name"]), missing=missing)


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
    files = {split: reading.first(f"Annotations/{split}.json", f"annotations/{split}.json") for split in ("train", "val", "test")}
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
        yield from _coco(
            reading,
            file,
            [str(inside / split), str(inside / split / "labeled_images")],
            split=split,
            ignore_keys=("ignore", "uncertain", "logo", "in_dense_image"),
            whole_only="corner",
            group=lambda row: _video_of(row["file_name"]),
        )


def read_seadronessee(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SeaDronesSee object detection v2: `annotations/instances_{train,val}.json` and `images/{train,val}`.

    Category 0, `ignored`, is an ordinary category of the file and stands for ignored regions. Frames of one video
    (`source.video` of the image record) are one group. A name ending in .png is also looked for as .jpg: both were published.
    The labels of the test split are not public.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"images": [{"id": 5, "file_name": "5.png", "width": 8, "height": 8, "source": {"video": "DJI_0057.MP4"}}],
    ...            "annotations": [{"id": 1, "image_id": 5, "category_id": 0, "bbox": [0, 0, 4, 4]}],
    ...            "categories": [{"id": 0, "name": "ignored"}, {"id": 1, "name": "swimmer"}]}'''
    >>> with example({"annotations/instances_val.json": text, "images/val/5.jpg": (8, 8)}) as root:
    ...     [record] = read_seadronessee(root)
    >>> record.group, record.categories, record.ignore
    ('DJI_0057.MP4', ('ignored',), array([ True]))
    """
    reading = Reading("seadronessee", root, on_problem)

    def video(row: Row) -> str:
        source = row.get("source")
        return str(source.get("video") or source.get("folder_name") or "") if isinstance(source, dict) else ""

    files = {split: reading.root / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
    for split, file in reading.present(files, "annotations/instances_{}.json").items():
        yield from _coco(reading, file, [f"images/{split}", split, "images"], split=split, ignored=("ignored",), group=video)


def _coco(
    reading: Reading,
    file: Path,
    folders: list[str],
    *,
    split: str,
    ignored: tuple[str, ...] = (),
    ignore_keys: tuple[str, ...] = ("ignore",),
    whole_only: str | None = None,
    group: Callable[[Row], str] | None = None,
    missing: str | None = None,
) -> Iterator[ImageRecord]:
    """Records of one COCO file; ids are only looked up, so that any numbering will do.

    `ignored` are categories and `ignore_keys` keys of annotations that make ignored objects; `whole_only` is a key that only
    image records of cut tiles have; `missing` makes all missing images one problem, which it explains.
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
    images: dict[Any, Row] = {}
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
            reading.wrong(file, _where(i, row), "image_id", f"unknown image {row.get('image_id')!r}")
        else:
            reading.wrong(file, f"annotations[{i}]", "record", f"expected an object, got {row!r:.60}")

    def found(i: int) -> Found | None:
        row, rows[i] = rows[i], None  # forget it: files have millions
        where, box, name = _where(i, row), row.get("bbox"), names.get(_key(row.get("category_id")))
        if name is None:
            reading.wrong(file, where, "category_id", f"unknown category {row.get('category_id')!r}")
        elif not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)):
            reading.wrong(file, where, "bbox", f"expected four numbers x, y, width, height, got {box!r:.80}")
        else:
            x, y, width, height = box
            ignore = name in ignored or bool(row.get("iscrowd")) or any(row.get(key) for key in ignore_keys)
            return Found(where, name, (x, y, x + width, y + height), ignore, _outline(row.get("segmentation")))
        return None

    lost = []
    folder = next((f for name in folders if (f := reading.root / name).is_dir()), reading.root / folders[0])
    for image_id, row in images.items():
        path = _find(reading.root, folders, row["file_name"]) or folder / row["file_name"]
        if missing is not None and not path.is_file():
            lost.append(row["file_name"])
            continue
        size = (row["width"], row["height"]) if "width" in row and "height" in row else None
        name = group(row) if group is not None else ""
        where = f"image {image_id}"
        objects = [o for i in of_image.pop(image_id, ()) if (o := found(i)) is not None]
        record = reading.record(path, objects, file=file, where=where, size=size, group=name, split=split)
        if record is not None:
            yield record
    if lost:
        reading.wrong(
            file, "file", "images", f"{len(lost)} of {len(images)} images are missing, the first is {lost[0]}; {missing}"
        )


def _find(root: Path, folders: list[str], name: str) -> Path | None:
    names = [name, str(Path(name).with_suffix(".jpg"))] if name.endswith(".png") else [name]
    return next((p for n in names for f in folders if (p := root / f / n).is_file()), None)


def _outline(segmentation: Any) -> np.ndarray | None:
    """The polygon of an object in one part, else None."""
    if not (isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], list)):
        return None
    values = segmentation[0]
    if len(values) < 6 or len(values) % 2 or not all(type(v) in (int, float) for v in values):
        return None
    polygon = np.array(values, np.float32).reshape(-1, 2)
    return polygon if np.isfinite(polygon).all() else None


def _where(i: int, row: Row) -> str:
    return f"annotation {row['id']}" if "id" in row else f"annotations[{i}]"


def _key(value: Any) -> Any:
    """An id, or None for what cannot be one."""
    return value if isinstance(value, int | str) else None


def _split_of(name: str) -> str:
    found = re.search("train|val|test", name.lower())
    return found.group() if found else ""


def _large_image(name: str) -> str:
    stem, separator, _ = Path(name).stem.partition("__")
    return stem if separator else ""


def _video_of(name: str) -> str:
    stem, separator, _ = Path(name).stem.rpartition("_I")
    return stem if separator else ""
