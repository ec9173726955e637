"""What was found in a folder, in the files of other tools; and a table of counts.

A format is a function of what was found and the name of the kind; it gives the files to write, name -> text. Boxes are xyxy
pixels of the upright image, (0, 0) its top-left corner.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote
from xml.etree import ElementTree

from dealkit.files import Json, link_folder, write_text

Box = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one prompt found in one image of a folder."""

    image: str
    """Path of the file below the folder, with `/`."""
    width: int
    """Pixels of the upright image."""
    height: int
    boxes: list[list[float]]
    """N boxes, xyxy pixels, strongest first."""
    scores: list[float]
    """N scores, 0 to 1."""
    adaptive: int
    """How many boxes the adaptive threshold would keep."""


def in_coco(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """COCO: images, annotations with a score, one category; ids from 1.

    >>> one = Findings(image="a.png", width=8, height=6, boxes=[[1.0, 2.0, 4.0, 6.0]], scores=[0.5], adaptive=1)
    >>> json.loads(in_coco([one], "bolt")["coco.json"])["annotations"][0]["bbox"]
    [1.0, 2.0, 3.0, 4.0]
    """
    images, rows = [], []
    for image_id, each in enumerate(found, 1):
        images.append({"id": image_id, "file_name": each.image, "width": each.width, "height": each.height})
        for box, score in zip(each.boxes, each.scores, strict=True):
            x, y, width, height = _xywh(box)
            row = {"id": len(rows) + 1, "image_id": image_id, "category_id": 1, "bbox": [x, y, width, height]}
            rows.append(row | {"area": round(width * height, 4), "iscrowd": 0, "score": score})
    return {"coco.json": _json({"images": images, "annotations": rows, "categories": [{"id": 1, "name": kind}]})}


def in_yolo(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """YOLO: `data.yaml`, a list of the images, and a text file per image, `0 x y width height`: centre and size as shares of it.

    Choice: no sixth number for the score, which trainings take for a polygon. Choice: a list of images, not their folder, which
    readers would follow to where it really lies, without labels.
    """
    made = {"yolo/data.yaml": f"train: images.txt\nval: images.txt\nnames: {json.dumps([kind])}\n"}
    made["yolo/images.txt"] = "".join(f"./images/{each.image}\n" for each in found)
    for each in found:
        lines = []
        for x1, y1, x2, y2 in each.boxes:
            centre = (x1 + x2) / 2 / each.width, (y1 + y2) / 2 / each.height
            lines.append(" ".join(f"{v:.8g}" for v in (0, *centre, (x2 - x1) / each.width, (y2 - y1) / each.height)))
        made[f"yolo/labels/{_stem(each.image)}.txt"] = "".join(f"{line}\n" for line in lines)
    return made


def in_voc(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """Pascal VOC: an XML file per image.

    Choice: corners in whole pixels, since many readers fail at others, and from 0, as FiftyOne, CVAT and LabelImg have them;
    `read_voc(one_based=False)` reads them.
    """
    made = {}
    for each in found:
        root = ElementTree.Element("annotation")
        _add(root, folder="JPEGImages", filename=each.image)
        _add(ElementTree.SubElement(root, "size"), width=each.width, height=each.height, depth=3)
        for x1, y1, x2, y2 in ([round(v) for v in box] for box in each.boxes):
            item = ElementTree.SubElement(root, "object")
            _add(item, name=kind, pose="Unspecified", truncated=0, difficult=0)
            _add(ElementTree.SubElement(item, "bndbox"), xmin=x1, ymin=y1, xmax=max(x2, x1 + 1), ymax=max(y2, y1 + 1))
        made[f"voc/Annotations/{_stem(each.image)}.xml"] = _xml(root)
    return made


def in_cvat(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """CVAT for images 1.1: one XML file."""
    root = ElementTree.Element("annotations")
    _add(root, version="1.1")
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    _add(task, name=kind, size=len(found), mode="annotation")
    label = ElementTree.SubElement(ElementTree.SubElement(task, "labels"), "label")
    _add(label, name=kind, attributes="")
    for i, each in enumerate(found):
        size = {"width": str(each.width), "height": str(each.height)}
        image = ElementTree.SubElement(root, "image", id=str(i), name=each.image, **size)
        for box in each.boxes:
            corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box), strict=True))
            ElementTree.SubElement(image, "box", label=kind, source="auto", occluded="0", **corners, z_order="0")
    return {"cvat.xml": _xml(root)}


def in_labelstudio(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """Label Studio: tasks with predictions to accept or to mend, and the labelling interface that shows them.

    Images are local files: `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` is the folder that was predicted.
    """
    tasks = []
    for each in found:
        result = []
        for i, (box, score) in enumerate(zip(each.boxes, each.scores, strict=True)):
            x, y, width, height = _xywh(box)
            value: Json = {"x": 100 * x / each.width, "width": 100 * width / each.width, "rotation": 0}
            value |= {"y": 100 * y / each.height, "height": 100 * height / each.height, "rectanglelabels": [kind]}
            row = {"id": str(i), "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}
            row |= {"original_width": each.width, "original_height": each.height, "image_rotation": 0, "score": score}
            result.append(row)
        made = {"model_version": "dealkit", "score": _mean(each.scores), "result": result}
        tasks.append({"data": {"image": f"/data/local-files/?d={quote(each.image)}"}, "predictions": [made]})
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    ElementTree.SubElement(ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image"), "Label", value=kind)
    return {"labelstudio.json": _json(tasks), "labelstudio.xml": _xml(view)}


def in_csv(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """A table of one box per line: image, kind, score, corners in pixels."""
    rows = ([e.image, kind, score, *box] for e in found for box, score in zip(e.boxes, e.scores, strict=True))
    return {"boxes.csv": _csv(["image", "kind", "score", "x1", "y1", "x2", "y2"], rows)}


def in_geojson(found: Sequence[Findings], kind: str) -> dict[str, str]:
    """GeoJSON: a file per image, one polygon per box in pixels of the image; QuPath shows kind and boxes."""
    made = {}
    for each in found:
        features = []
        for (x1, y1, x2, y2), score in zip(each.boxes, each.scores, strict=True):
            ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
            about = {"objectType": "annotation", "classification": {"name": kind}, "score": score}
            features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": about})
        made[f"geojson/{each.image}.geojson"] = _json({"type": "FeatureCollection", "features": features})
    return made


FORMATS: dict[str, Callable[[Sequence[Findings], str], dict[str, str]]] = {
    **{"coco": in_coco, "yolo": in_yolo, "voc": in_voc, "labelstudio": in_labelstudio},
    **{"cvat": in_cvat, "csv": in_csv, "geojson": in_geojson},
}
"""Name of a format -> what makes its files."""

IMAGES_BESIDE = {"yolo": "yolo/images", "voc": "voc/JPEGImages"}
"""Formats whose readers look for images beside the labels, and where: there stands a link to the folder."""


def write_formats(found: Iterable[Findings], folder: Path, out: Path, kind: str, formats: Iterable[str]) -> list[Path]:
    """Write `counts.csv` and the formats into `out`; gives a path for each: its file, or the folder of its files.

    Args:
        found: a sequence for the formats; the counts go through it once.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp())
    >>> one = Findings(image="a.png", width=8, height=6, boxes=[[1.0, 2.0, 4.0, 6.0]], scores=[0.5], adaptive=1)
    >>> [path.name for path in write_formats([one], out, out, "bolt", ["coco", "yolo"])]
    ['counts.csv', 'coco.json', 'yolo']
    >>> print((out / "counts.csv").read_text().strip())
    image,kind,count,adaptive_count,mean_score
    a.png,bolt,1,1,0.5
    """
    counts = ([e.image, kind, len(e.boxes), e.adaptive, _mean(e.scores)] for e in found)
    header = ["image", "kind", "count", "adaptive_count", "mean_score"]
    written = []
    for files in ({"counts.csv": _csv(header, counts)}, *(FORMATS[name](found, kind) for name in dict.fromkeys(formats))):
        for name, text in files.items():
            write_text(out / name, text)
        written += sorted({out / PurePosixPath(name).parts[0] for name in files})
    for name in formats:
        if (link := out / IMAGES_BESIDE.get(name, "")) != out and not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link_folder(link, Path(folder))
    return written


def check_names(images: Iterable[str], formats: Iterable[str]) -> None:
    """Raise a ValueError for two images that differ in their suffix only, where a format would give both one file."""
    for name in set(formats) & set(IMAGES_BESIDE):
        first: dict[str, str] = {}
        for image in images:
            if first.setdefault(_stem(image), image) != image:
                raise ValueError(f"--format {name}: {first[_stem(image)]} and {image} would share one file; rename one of them")


def _stem(image: str) -> str:
    return str(PurePosixPath(image).with_suffix(""))


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]


def _mean(scores: Sequence[float]) -> float | None:
    return round(sum(scores) / len(scores), 4) if scores else None


def _json(values: object) -> str:
    return json.dumps(values) + "\n"


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)


def _xml(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
