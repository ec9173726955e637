"""Sources with an XML file per image: Pascal VOC folders, DIOR, SIRST, BCCD."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from dealkit.data.coco import SPLIT_NAMES
from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, named_part
from dealkit.data.sources.records import ImageRecord

DIOR_CATEGORIES = tuple(
    """airplane airport baseballfield basketballcourt bridge chimney dam Expressway-Service-area Expressway-toll-station golffield
    groundtrackfield harbor overpass ship stadium storagetank tenniscourt trainstation vehicle windmill""".split()  # noqa: SIM905
)
"""The names of DIOR's own files, two of them in upper case."""


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
    folder = next((f for f in (reading.root / n for n in ("Annotations", "annotations", "xmls")) if f.is_dir()), reading.root)
    splits = _splits(reading, "ImageSets/Main/{}.txt")
    for stem in splits.keys() - {file.stem for file in folder.glob("*.xml")} if any(folder.glob("*.xml")) else ():
        reading.wrong(folder / f"{stem}.xml", "file", "path", f"no such file, but {splits[stem]}.txt names it")
    places = ["JPEGImages", "images", *dict.fromkeys([folder.relative_to(reading.root).as_posix(), "."])]
    objects = partial(_objects, one_based=one_based)
    yield from _files(reading, folder, places, splits, expected="*.xml or Annotations/*.xml", objects=objects, sized=True)


def read_bccd(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """BCCD, blood cells under a microscope: a Pascal VOC folder in `BCCD/`.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>RBC</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>
    ... </object></annotation>'''
    >>> name = "BloodImage_00000"
    >>> with example({f"BCCD/Annotations/{name}.xml": text, f"BCCD/JPEGImages/{name}.jpg": (8, 6)}) as root:
    ...     [record] = read_bccd(root)
    >>> record.categories, record.boxes.tolist()
    (('RBC',), [[0.0, 1.0, 3.0, 4.0]])
    """
    reading = Reading("bccd", root, on_problem)
    splits = _splits(reading, "BCCD/ImageSets/Main/{}.txt")
    folder, places = reading.root / "BCCD" / "Annotations", ["BCCD/JPEGImages"]
    yield from _files(reading, folder, places, splits, expected="BCCD/Annotations/*.xml")


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
    folder = reading.first("Annotations/[Hh]orizontal*", "[Hh]orizontal*", "Annotations/trainval", "Annotations")
    folder = folder or reading.root / "Annotations"
    places = ["JPEGImages-trainval", "JPEGImages-test", "JPEGImages", "Images/trainval", "Images/test"]
    names = {_letters(name): name for name in DIOR_CATEGORIES}

    def objects(reading: Reading, file: Path, tree: ET.Element) -> Iterator[Found]:
        for found in _objects(reading, file, tree):
            if (name := names.get(_letters(found.category))) is not None:
                yield Found(found.where, name, found.box, found.ignore)
            else:
                reading.wrong(file, found.where, "name", f"expected one of {', '.join(DIOR_CATEGORIES)}, got {found.category!r}")

    expected = "Annotations/Horizontal Bounding Boxes/*.xml"
    splits = {**_splits(reading, "Main/{}.txt"), **_splits(reading, "ImageSets/Main/{}.txt")}
    yield from _files(reading, folder, places, splits, expected=expected, objects=objects)
    images = reading.images(*(reading.root / place for place in places))
    if unlabelled := len(images.keys() - {file.stem for file in folder.glob("*.xml")}):
        reading.known(folder, "file", "images", f"{unlabelled} images have no XML file and are left out")


def read_sirst(root: str | Path, *, version: str = "1", on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SIRST: `images/*.png`, `masks/*.xml` (the boxes), `idx_427/{train,val,test}.txt`; or SIRST-v2:
    `annotations/bboxes/*.xml`, `images/{targets,backgrounds}` or `mixed/`, `splits/{train,val,test}_full.txt`.

    Corners are 1-based and inclusive: 71..73 is 3 px. An object without `bndbox` says that its image is a background: an image
    without objects. Choice: of several families of splits the full one. Frames of a sequence (`S20210527_S4_114`,
    `20210725-S4-1001`) are one group; collections such as `Misc_1`, which come from many sequences, are not.

    Args:
        version: 1 or 2, which contains it.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''<annotation><object><name>Target</name><bndbox><xmin>71</xmin><ymin>75</ymin><xmax>73</xmax><ymax>75</ymax>
    ... </bndbox></object></annotation>'''
    >>> with example({"masks/Misc_1.xml": text, "images/Misc_1.png": (100, 90), "idx_427/val.txt": "Misc_1"}) as root:
    ...     [record] = read_sirst(root)
    >>> record.split, record.boxes.tolist()
    ('val', [[70.0, 74.0, 73.0, 75.0]])
    """
    if version not in ("1", "2"):
        raise ValueError(f"version: expected 1 or 2, got {version!r}")
    reading = Reading("sirst" if version == "1" else "sirst-v2", root, on_problem)
    inner, lists = ("masks", "idx_427/{}.txt") if version == "1" else ("annotations/bboxes", "splits/{}_full.txt")
    places = ["images"] if version == "1" else ["images/targets", "images/backgrounds", "images", "mixed"]
    objects, sequence = partial(_objects, without_box=True), r"((?:S?\d{8}[-_])?S\d+|211_HD|TH0517)[-_]\d+"
    splits = _splits(reading, lists)
    yield from _files(reading, reading.root / inner, places, splits, expected=f"{inner}/*.xml", objects=objects, group=sequence)


def _files(
    reading: Reading,
    folder: Path,
    places: list[str],
    splits: Mapping[str, str],
    *,
    expected: str,
    objects: Callable[[Reading, Path, ET.Element], Iterable[Found]] | None = None,
    sized: bool = False,
    group: str = "",
) -> Iterator[ImageRecord]:
    """Records of the XML files of a folder, whose images of the same name lie in `places`; `sized`: as large as they say."""
    images = reading.images(*(reading.root / place for place in places))
    files = sorted(folder.glob("*.xml"))
    if not files:
        reading.wrong(folder, "file", "path", f"expected {expected}")
    for file in files:
        if (tree := reading.xml(file)) is not None:
            path = images.get(file.stem, reading.root / places[0] / f"{file.stem}.jpg")
            size, split = _size(tree) if sized else None, splits.get(file.stem, "")
            found = (objects or _objects)(reading, file, tree)
            yield from reading.record(path, found, file=file, size=size, group=named_part(group, file.name), split=split)


def _objects(
    reading: Reading, file: Path, tree: ET.Element, *, one_based: bool = True, without_box: bool = False
) -> Iterator[Found]:
    """Objects of a VOC file; `without_box` says that one without `bndbox` is no object, else it is a defect."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    for i, item in enumerate(tree.findall("object"), 1):
        where, name, shape = f"object {i}", (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name:
            reading.wrong(file, where, "name", "missing")
        elif shape is None and not without_box:
            reading.defect(file, where, "bndbox", "missing")
        elif shape is not None:
            words = [shape.findtext(key) or "" for key in corners]
            if (box := reading.numbers(file, where, words, f"the numbers {', '.join(corners)}", field="bndbox")) is not None:
                box = [box[0] - one_based, box[1] - one_based, *box[2:]]
                yield Found(where, name, box, ignore=(item.findtext("difficult") or "0").strip() == "1")


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Width and height as stated; None where they are missing or 0, as some tools write."""
    words = [(tree.findtext(f"size/{key}") or "").strip() for key in ("width", "height")]
    return (int(words[0]), int(words[1])) if all(word.isdigit() and int(word) > 0 for word in words) else None


def _splits(reading: Reading, lists: str) -> dict[str, str]:
    """Split by image name, from the lists of train, val and test; those that are not there are passed over."""
    splits: dict[str, str] = {}
    for split in SPLIT_NAMES:
        file = reading.root / lists.format(split)
        for _, line in reading.lines(file) if file.is_file() else ():
            splits.setdefault(Path(line.split()[0]).name.removesuffix(".jpg").removesuffix(".png"), split)
    return splits


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())
