"""Sources with an XML file per image: Pascal VOC folders, DIOR, SIRST, DroneVehicle."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, box_of
from dealkit.data.sources.records import ImageRecord

DIOR_CATEGORIES = tuple(
    """airplane airport baseballfield basketballcourt bridge chimney dam Expressway-Service-area Expressway-toll-station golffield
    groundtrackfield harbor overpass ship stadium storagetank tenniscourt trainstation vehicle windmill""".split()  # noqa: SIM905
)
"""The names of DIOR's own files, two of them in upper case."""

DRONEVEHICLE_NAMES = {
    "car": "car",
    "truck": "truck",
    "truvk": "truck",
    "bus": "bus",
    "van": "van",
    "freight car": "freight car",
    "freight_car": "freight car",
    "feright car": "freight car",
    "feright_car": "freight car",
    "feright": "freight car",
}
"""Spellings in DroneVehicle's files and what they mean."""
DRONEVEHICLE_BORDER = 100
"""White pixels on every side of DroneVehicle's images as published, 840 x 712 around 640 x 512."""


def read_voc(
    root: str | Path, *, one_based: bool = True, source: str = "voc", on_problem: OnProblem | None = None
) -> Iterator[ImageRecord]:
    """A Pascal VOC folder: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/{train,val,test}.txt`; or XML beside images.

    `difficult` objects are ignored ones, as in VOC's own evaluation. An image is found by the name of its XML file, since
    `<filename>` is often that of another machine. Images without an XML file are unlabelled and left out.

    Args:
        one_based: corners count pixels from 1 and include the last, VOC's convention, so that 1..3 is x from 0 to 3. Set it to
            False where a tool wrote corners counted from 0.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>nut</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>
    ... <ymax>4</ymax></bndbox></object></annotation>'''
    >>> with example({"Annotations/a.xml": text, "JPEGImages/a.jpg": (8, 6), "ImageSets/Main/val.txt": "a"}) as root:
    ...     [record] = read_voc(root)
    >>> record.split, record.boxes.tolist(), record.ignore
    ('val', [[0.0, 1.0, 3.0, 4.0]], array([ True]))
    """
    reading = Reading(source, root, on_problem, own=True)
    root = Path(root)
    folder = next((f for f in (root / "Annotations", root / "annotations", root / "xmls") if f.is_dir()), root)
    images = reading.images(root / "JPEGImages", root / "images", folder, *([root] if folder != root else []))
    splits = _splits(reading, [root / "ImageSets" / "Main" / f"{s}.txt" for s in ("train", "val", "test")])
    files = {file.stem: file for file in sorted(folder.glob("*.xml"))}
    if not files:
        reading.wrong(folder, "file", "path", "expected *.xml or Annotations/*.xml")
    for stem in splits.keys() - files.keys():
        reading.wrong(folder / f"{stem}.xml", "file", "path", f"no such file, but {splits[stem]}.txt names it")
    for stem, file in files.items():
        path = images.get(stem, root / "JPEGImages" / f"{stem}.jpg")
        if (tree := reading.xml(file)) is not None:
            objects = _objects(reading, file, tree, one_based)
            record = reading.record(path, objects, file=file, size=_size(tree), split=splits.get(stem, ""))
            if record is not None:
                yield record


def read_dior(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """DIOR: `Annotations/Horizontal Bounding Boxes/*.xml`, `ImageSets/Main/*.txt`, `JPEGImages-trainval/`, `JPEGImages-test/`;
    or a mirror's `Annotations/trainval/*.xml` and `Images/{trainval,test}`.

    Names of categories are the authors', whatever a mirror made of their case, blanks and hyphens. Corners are taken as 1-based
    and inclusive. Images of a split without any XML file (a mirror has no test labels) are left out, not read as empty.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>expressway service area</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax>
    ... <ymax>4</ymax></bndbox></object></annotation>'''
    >>> folder = "Annotations/Horizontal Bounding Boxes"
    >>> with example({f"{folder}/00001.xml": text, "JPEGImages-trainval/00001.jpg": (8, 8)}) as root:
    ...     [record] = read_dior(root)
    >>> record.categories
    ('Expressway-Service-area',)
    """
    reading = Reading("dior", root, on_problem)
    root = Path(root)
    folder = (
        reading.first("Annotations/[Hh]orizontal*", "[Hh]orizontal*", "Annotations/trainval", "Annotations")
        or root / "Annotations"
    )
    images = reading.images(
        *(root / f for f in ("JPEGImages-trainval", "JPEGImages-test", "JPEGImages", "Images/trainval", "Images/test"))
    )
    lists = [reading.first(f"ImageSets/Main/{s}.txt", f"Main/{s}.txt") for s in ("train", "val", "test")]
    splits = _splits(reading, [file for file in lists if file is not None])
    names = {_plain(name): name for name in DIOR_CATEGORIES}
    files = sorted(folder.glob("*.xml"))
    if not files:
        reading.wrong(folder, "file", "path", "expected Annotations/Horizontal Bounding Boxes/*.xml")
    for file in files:
        path = images.get(file.stem, root / "JPEGImages-trainval" / f"{file.stem}.jpg")
        if (tree := reading.xml(file)) is None:
            continue
        objects = []
        for found in _objects(reading, file, tree):
            name = names.get(_plain(found.category))
            if name is None:
                reading.wrong(file, found.where, "name", f"expected one of {', '.join(DIOR_CATEGORIES)}, got {found.category!r}")
            else:
                objects.append(Found(found.where, name, found.box, found.ignore))
        record = reading.record(path, objects, file=file, split=splits.get(file.stem, ""))
        if record is not None:
            yield record
    unlabelled = len(images.keys() - {file.stem for file in files})
    if unlabelled:
        reading.known(folder, "file", "images", f"{unlabelled} images have no XML file and are left out")


def read_sirst(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SIRST: `images/*.png`, `masks/*.xml` (the boxes), `idx_427/{train,val,test}.txt`.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>Target</name><bndbox><xmin>71</xmin><ymin>75</ymin><xmax>73</xmax><ymax>75</ymax>
    ... </bndbox></object></annotation>'''
    >>> with example({"masks/Misc_1.xml": text, "images/Misc_1.png": (100, 90), "idx_427/val.txt": "Misc_1"}) as root:
    ...     [record] = read_sirst(root)
    >>> record.split, record.boxes.tolist()
    ('val', [[70.0, 74.0, 73.0, 75.0]])
    """
    yield from _sirst(Reading("sirst", root, on_problem), "masks", ["images"], "idx_427/{}.txt")


def read_sirstv2(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SIRST-v2: `annotations/bboxes/*.xml`, `images/{targets,backgrounds}` or `mixed/`, `splits/{train,val,test}_full.txt`.

    Corners are 1-based and inclusive: 71..73 is 3 px. An object without `bndbox` says that its image is a background: an image
    without objects. Choice: of several families of splits the full one. Frames of a sequence (`S20210527_S4_114`,
    `20210725-S4-1001`) are one group; collections such as `Misc_1`, which come from many sequences, are not.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = "<annotation><object><name>Target</name><pixels><id>0</id></pixels></object></annotation>"
    >>> with example({"annotations/bboxes/S1_7.xml": text, "images/backgrounds/S1_7.png": (9, 9)}) as root:
    ...     [record] = read_sirstv2(root)
    >>> record.group, len(record.boxes)
    ('S1', 0)
    """
    folders = ["images/targets", "images/backgrounds", "images", "mixed"]
    yield from _sirst(Reading("sirst-v2", root, on_problem), "annotations/bboxes", folders, "splits/{}_full.txt")


def _sirst(reading: Reading, annotations: str, folders: list[str], lists: str) -> Iterator[ImageRecord]:
    folder = reading.root / annotations
    images = reading.images(*(reading.root / name for name in folders))
    splits = _splits(reading, [reading.root / lists.format(split) for split in ("train", "val", "test")])
    files = sorted(folder.glob("*.xml"))
    if not files:
        reading.wrong(folder, "file", "path", f"expected {annotations}/*.xml")
    for file in files:
        if (tree := reading.xml(file)) is None:
            continue
        sequence = re.fullmatch(r"((?:S?\d{8}[-_])?S\d+|211_HD|TH0517)[-_]\d+", file.stem)
        record = reading.record(
            images.get(file.stem, reading.root / folders[0] / f"{file.stem}.png"),
            _objects(reading, file, tree, without_box=True),
            file=file,
            group=sequence.group(1) if sequence else "",
            split=splits.get(file.stem, ""),
        )
        if record is not None:
            yield record


def read_dronevehicle(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """DroneVehicle: `{train,val,test}/{split}img` and `{split}label`, infrared in `{split}imgr` and `{split}labelr`.

    Colour and infrared images are labelled apart and are records of their own, in one group. Coordinates belong to the images
    with their white border of 100 px; where it was cut off (640 x 512), they are shifted. Choice: boxes are cut to the picture
    inside the border. Misspelt names (`feright car`, `truvk`) are put right; objects named `*` or without a shape are left out.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>feright_car</name><polygon><x1>110</x1><y1>120</y1><x2>130</x2><y2>120</y2>
    ... <x3>130</x3><y3>130</y3><x4>110</x4><y4>130</y4></polygon></object></annotation>'''
    >>> with example({"val/vallabelr/00001.xml": text, "val/valimgr/00001.jpg": (640, 512)}) as root:
    ...     [record] = read_dronevehicle(root)
    >>> record.categories, record.boxes.tolist()
    (('freight car',), [[10.0, 20.0, 30.0, 30.0]])
    """
    reading = Reading("dronevehicle", root, on_problem)
    root = Path(root)
    folders = {split: root / split for split in ("train", "val", "test")}
    for split, folder in reading.present(folders, "{}/trainimg, {}/trainlabel, ..., each with its split").items():
        for suffix in ("", "r"):
            images = reading.images(folder / f"{split}img{suffix}")
            for file in sorted((folder / f"{split}label{suffix}").glob("*.xml")):
                if (tree := reading.xml(file)) is None:
                    continue
                path = images.get(file.stem, folder / f"{split}img{suffix}" / f"{file.stem}.jpg")
                size = reading.size(path, file, "image")
                if size is None:
                    continue
                if size not in ((840, 712), (640, 512)):
                    reading.wrong(
                        path, "image", "width, height", f"expected 840 x 712 with border or 640 x 512, got {size[0]} x {size[1]}"
                    )
                    continue
                objects = list(_vehicles(reading, file, tree, bordered=size == (840, 712)))
                record = reading.record(path, objects, file=file, group=f"{split}/{file.stem}", split=split)
                if record is not None:
                    yield record


def _vehicles(reading: Reading, file: Path, tree: ET.Element, *, bordered: bool) -> Iterator[Found]:
    edge = DRONEVEHICLE_BORDER if bordered else 0
    low, high = np.float64([edge, edge]), np.float64([edge + 640, edge + 512])
    for i, item in enumerate(tree.findall("object"), 1):
        where, text = f"object {i}", (item.findtext("name") or "").strip()
        name, shape = DRONEVEHICLE_NAMES.get(text.lower()), item.find("polygon")
        if name is None:
            reading.known(file, where, "name", f"expected car, truck, bus, van or freight car, got {text!r}")
            continue
        keys = [f"{axis}{corner}" for corner in "1234" for axis in "xy"]
        if shape is None:
            shape, keys = item.find("bndbox"), ["xmin", "ymin", "xmax", "ymin", "xmax", "ymax", "xmin", "ymax"]
        try:
            corners = np.array([float(shape.findtext(key) or "nan") for key in keys]).reshape(4, 2)  # type: ignore[union-attr]
        except (AttributeError, ValueError):
            corners = np.full((4, 2), np.nan)
        if not np.isfinite(corners).all():
            reading.known(file, where, "polygon", "no polygon of four corners and no bndbox")
            continue
        corners += edge - DRONEVEHICLE_BORDER
        yield Found(where, name, box_of(np.clip(corners, low, high)), polygon=corners)


def _objects(
    reading: Reading, file: Path, tree: ET.Element, one_based: bool = True, *, without_box: bool = False
) -> Iterator[Found]:
    """Objects of a VOC file; `without_box` says that one without `bndbox` is no object, else it is a defect."""
    for i, item in enumerate(tree.findall("object"), 1):
        where, name, shape = f"object {i}", (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name:
            reading.wrong(file, where, "name", "missing")
            continue
        if shape is None:
            if not without_box:
                reading.defect(file, where, "bndbox", "missing")
            continue
        try:
            box = [float(shape.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            box = [math.nan]
        if not all(map(math.isfinite, box)):
            reading.wrong(file, where, "bndbox", "expected the numbers xmin, ymin, xmax, ymax")
            continue
        box = [box[0] - one_based, box[1] - one_based, *box[2:]]
        yield Found(where, name, box, ignore=(item.findtext("difficult") or "0").strip() == "1")


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Width and height as stated; None where they are missing or 0, as some tools write."""
    words = [(tree.findtext(f"size/{key}") or "").strip() for key in ("width", "height")]
    return (int(words[0]), int(words[1])) if all(word.isdigit() and int(word) > 0 for word in words) else None


def _splits(reading: Reading, files: list[Path]) -> dict[str, str]:
    """Split by image name, from lists named `train.txt`, `val_full.txt`, ...; lists that are not there are passed over."""
    splits: dict[str, str] = {}
    for file in files:
        for _, line in reading.lines(file) if file.is_file() else ():
            splits.setdefault(Path(line.split()[0]).name.removesuffix(".jpg").removesuffix(".png"), file.stem.split("_")[0])
    return splits


def _plain(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())
