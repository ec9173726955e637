"""Folders in YOLO format, a text file per image."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, box_of
from dealkit.data.sources.records import ImageRecord


def read_yolo(root: str | Path, *, source: str = "yolo", on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """A YOLO folder: `images/[split/]` with `labels/[split/]`, or `{train,valid,val,test}/images` with `labels` beside.

    Names come from `data.yaml` (any `*.yaml` with `names`), `classes.txt` or `obj.names`. A line is a class from 0 and centre x,
    centre y, width, height as shares of the image, or a class and the corners of a polygon. An image without a label file is one
    without objects, the format's convention; a label file without an image is a problem.

    >>> from dealkit.data.sources.readers.reading import example
    >>> files = {"data.yaml": "names: [nut, bolt]", "images/val/a.png": (8, 4), "labels/val/a.txt": "1 0.5 0.5 0.25 0.5"}
    >>> with example(files) as root:
    ...     [record] = read_yolo(root)
    >>> record.split, record.categories, record.boxes.tolist()
    ('val', ('bolt',), [[3.0, 1.0, 5.0, 3.0]])
    """
    reading = Reading(source, root, on_problem, own=True)
    names = _yolo_names(reading)
    if not names:
        return
    pairs = []
    for split in ("train", "val", "valid", "test", ""):
        for images, labels in ((f"images/{split}", f"labels/{split}"), (f"{split}/images", f"{split}/labels")):
            if (reading.root / images).is_dir() and (split or not pairs):
                pairs.append((split.replace("valid", "val"), reading.root / images, reading.root / labels))
    if not pairs and reading.root.is_dir():
        reading.wrong(reading.root, "file", "path", "expected images/ and labels/, or train/images/ and train/labels/")
    for split, folder, labels in pairs:
        images = reading.images(folder)
        for file in sorted(labels.glob("*.txt")):
            if file.stem not in images and file.stem != "classes":
                reading.wrong(file, "file", "image", f"no image of that name in {folder}")
        if not labels.is_dir():
            reading.wrong(labels, "file", "path", f"no such folder of labels, but there are images in {folder}")
            continue
        for stem, path in images.items():
            file = labels / f"{stem}.txt"
            size = reading.size(path, file, "image")
            if size is None:
                continue
            objects = _yolo_objects(reading, file, names, size) if file.is_file() else ()
            yield from reading.record(path, objects, file=file, split=split)


def _yolo_objects(reading: Reading, file: Path, names: Mapping[int, str], size: tuple[int, int]) -> Iterator[Found]:
    form = "class, centre x, centre y, width, height, or class and at least three corners x y"
    for where, line in reading.lines(file):
        words = line.split()
        if not (len(words) == 5 or len(words) >= 7 and len(words) % 2 == 1):
            reading.wrong(file, where, "columns", f"expected {form}, got {len(words)} columns")
            continue
        values = reading.numbers(file, where, words, form)
        if values is None:
            continue
        name = names.get(int(values[0])) if values[0] == int(values[0]) else None
        if name is None:
            reading.wrong(file, where, "class", f"expected one of {', '.join(map(str, names))}, got {words[0]}")
            continue
        if max(values[1:]) > 2 or min(values[1:]) < -1:
            reading.wrong(file, where, "numbers", f"expected shares of the image, 0 to 1, got {line!r:.80} (pixels?)")
            continue
        points = np.array(values[1:]).reshape(-1, 2) * size
        if len(points) == 2:
            centre, extent = points
            yield Found(where, name, [*(centre - extent / 2), *(centre + extent / 2)])
        else:
            yield Found(where, name, box_of(points), polygon=points)


def _yolo_names(reading: Reading) -> dict[int, str]:
    for file in sorted(reading.root.glob("*.y*ml")):
        names = _yaml(reading, file).get("names")
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and names and all(isinstance(i, int) and isinstance(n, str) and n for i, n in names.items()):
            return names
        if names is not None:
            reading.wrong(file, "file", "names", f"expected a list of names, or names by number from 0, got {names!r:.60}")
    file = reading.first("classes.txt", "obj.names", "*.names", "labels/classes.txt", "labels/*/classes.txt")
    if file is not None:
        return {i: line for i, (_, line) in enumerate(reading.lines(file))}
    if reading.root.is_dir():
        reading.wrong(reading.root, "file", "names", "expected the names of the classes in data.yaml, classes.txt or obj.names")
    return {}


def _yaml(reading: Reading, file: Path) -> dict:
    try:
        import yaml
    except ImportError:
        hint = "reading it needs PyYAML: pip install dealkit[data], or write the names to classes.txt"
        reading.wrong(file, "file", "content", hint)
        return {}
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reading.wrong(file, "file", "content", f"not YAML: {error}")
        return {}
    return data if isinstance(data, dict) else {}
