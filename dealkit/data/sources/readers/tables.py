"""Sources with tables of their own: TT100K (JSON), Global Wheat Head (CSV)."""

from collections.abc import Iterator
from pathlib import Path

from dealkit.data.coco import SPLIT_NAMES
from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, are_numbers
from dealkit.data.sources.records import ImageRecord


def read_tt100k(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """TT100K: `annotations_all.json` (2021) or `annotations.json` (2016) and the images it names, in `train`, `test` and `other`.

    All types of signs are given; papers use the 45 with at least 100 signs. Numbers of `ids.txt` without an entry are known
    defects. Images of `other` have no split.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"types": ["i2"], "imgs": {"7": {"id": 7, "path": "test/7.jpg", "objects": [
    ...     {"category": "i2", "bbox": {"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6}}]}}}'''
    >>> with example({"annotations_all.json": text, "test/7.jpg": (9, 9)}) as root:
    ...     [record] = read_tt100k(root)
    >>> record.categories, record.boxes.tolist(), record.split
    (('i2',), [[1.0, 2.0, 4.0, 6.0]], 'test')
    """
    reading = Reading("tt100k", root, on_problem)
    names = ("annotations_all.json", "annotations.json")
    file = reading.first(*names, *(f"*/{name}" for name in names)) or reading.root / names[0]
    images = (reading.json(file, "imgs", dict, "imgs, the images by number") or {}).get("imgs", {})
    for split in ("train", "test", "other") if images else ():
        ids = file.parent / split / "ids.txt"
        for where, line in reading.lines(ids) if ids.is_file() else ():
            if line not in images:
                reading.known(ids, where, "id", f"{line} has no entry in {file.name}")
    for number in sorted(images, key=lambda n: (len(n), n)):
        row, where = images[number], f"image {number}"
        if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not isinstance(row.get("objects", []), list):
            reading.wrong(file, where, "record", f"expected a path and the list objects, got {row!r:.60}")
            continue
        objects = []
        for k, item in enumerate(row.get("objects", [])):
            at = f"{where}.objects[{k}]"
            name, box = (item.get("category"), item.get("bbox")) if isinstance(item, dict) else (None, None)
            corners = [box.get(key) for key in ("xmin", "ymin", "xmax", "ymax")] if isinstance(box, dict) else []
            if not (isinstance(name, str) and name):
                reading.wrong(file, at, "category", f"expected a name, got {name!r}")
            elif len(corners) != 4 or not are_numbers(corners):
                reading.wrong(file, at, "bbox", f"expected the numbers xmin, ymin, xmax, ymax, got {box!r:.80}")
            else:
                objects.append(Found(at, name, corners))
        split = row["path"].split("/")[0]
        split = split if split in ("train", "test") else ""
        yield from reading.record(file.parent / row["path"], objects, file=file, where=where, split=split)


def read_gwhd(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """Global Wheat Head 2021: `gwhd_2021/competition_{train,val,test}.csv` and `gwhd_2021/images/*.png`.

    A row is an image's name, its boxes (`x1 y1 x2 y2;...`, or `no_box`) and its domain. Images of one domain, a field on one
    day, are one group.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = "image_name,BoxesString,domain" + chr(10) + "a.png,1 2 4 6;0 0 3 3,ETHZ_1"
    >>> with example({"gwhd_2021/competition_val.csv": text, "gwhd_2021/images/a.png": (9, 9)}) as root:
    ...     [record] = read_gwhd(root)
    >>> record.boxes.tolist(), record.group, record.split
    ([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 3.0, 3.0]], 'ETHZ_1', 'val')
    """
    reading = Reading("gwhd", root, on_problem)
    files = {s: reading.first(f"competition_{s}.csv", f"*/competition_{s}.csv") for s in SPLIT_NAMES}
    for split, file in reading.present(files, "gwhd_2021/competition_{}.csv").items():
        for where, line in reading.lines(file):
            name, boxes, group, *_ = [*line.split(","), "", ""]
            if name == "image_name":
                continue
            words = [text.split() for text in boxes.split(";")] if boxes != "no_box" else []
            found = [reading.numbers(file, where, box, "image_name,x1 y1 x2 y2;...,domain", 4) for box in words]
            objects = [Found(where, "wheat head", box) for box in found if box is not None]
            yield from reading.record(file.parent / "images" / name, objects, file=file, where=where, group=group, split=split)
