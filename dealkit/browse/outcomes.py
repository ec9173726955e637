"""What became of every object and detection of a data set, image by image, as FiftyOne is to show it. Imports no fiftyone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dealkit.clicks import load_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.objects import ObjectTable
from dealkit.evaluate.errors import ERROR_TYPES, FOUND, IGNORED, TRUE, UNCOUNTED, Errors, find_errors
from dealkit.evaluate.factors import FACTORS, object_factors
from dealkit.files import Json, read_json

SHOWN_FACTORS: tuple[str, ...] = tuple(name for name in FACTORS if name not in ("size", "contrast"))
"""Factors that objects get besides `size_px` and `contrast`, which they have."""


def object_loss(state: str, score: float, iou: float) -> float:
    """What is wrong with an object: 1 - score x IoU of the detection that has found it, 1 if none has.

    >>> object_loss("found", 0.5, 0.8), object_loss("localisation", 0.9, 0.4)
    (0.6, 1.0)
    """
    return 1.0 - score * iou if state == FOUND else 1.0


def file_of(pattern: str | Path, source: str) -> Path:
    """The file of a source: `{source}` in a pattern stands for its name.

    >>> file_of("runs/nano/{source}.json", "bolts").as_posix()
    'runs/nano/bolts.json'
    """
    return Path(str(pattern).replace("{source}", source))


@dataclass(frozen=True, kw_only=True)
class ImageOutcome:
    """What became of the objects and detections of one image, of one set of predictions."""

    path: str
    size_wh: tuple[int, int]
    objects: dict[int, tuple[str, float, float, int]]
    """Annotation id -> state, score and IoU of the detection that it rests on, place of the one that has found it, or -1."""
    detections: list[tuple[str, list[float], float, str, int | None, float]]
    """Label, xywh pixels, score, type, annotation id of the object that it concerns, IoU with it."""
    prompts: list[Json] | None
    """Of the click list, each with the `label` of its category; None without a click list."""
    sample_id: str = ""
    fingerprint: str = ""

    @property
    def loss(self) -> float:
        of_objects = sum(object_loss(state, score, iou) for state, score, iou, _ in self.objects.values() if state != IGNORED)
        return of_objects + sum(score for _, _, score, kind, _, _ in self.detections if kind not in (TRUE, IGNORED))


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """One set of predictions on all images."""

    records: list[ImageOutcome]
    mistakes: dict[str, int]
    """Number of each kind."""
    categories: list[str]
    """Names, sorted."""


def find_outcomes(
    table: ObjectTable, files: Sequence[str], pattern: str | Path, clicks: str | Path | None, score: float
) -> Outcomes:
    """Match the predictions of every file with its objects; `{source}` in a pattern stands for the folder of the file.

    Raises:
        ValueError: no such file of predictions, or a broken row; names file and row.
    """
    records, mistakes, categories = [], dict.fromkeys(ERROR_TYPES, 0), set()
    for file in files:
        source = Path(file).parent.name
        coco, path = read_coco(Path(file)), file_of(pattern, source)
        if not path.is_file():
            raise ValueError(f"{path}: no such file of predictions; `python -m dealkit predict --coco` writes one")
        rows = read_json(path)
        click_list = load_clicks(file_of(clicks, source), coco) if clicks else None
        try:
            errors = find_errors(coco, rows, click_list, min_score=score)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for kind, count in errors.counts(score).items():
            mistakes[kind] += count
        labels = {row["id"]: str(row["name"]) for row in coco["categories"]}
        categories |= set(labels.values())
        objects, detections = _by_image(errors, rows, labels)
        prompts: dict[int, list[Json]] = {}
        for prompt in click_list["prompts"] if click_list else []:
            prompts.setdefault(prompt["image_id"], []).append(prompt | {"label": labels[prompt["category_id"]]})
        for i in np.flatnonzero(table.images["file"] == file).tolist():
            image_id = int(table.images["image_id"][i])
            image, size_wh = str(table.images["path"][i]), (int(table.images["width"][i]), int(table.images["height"][i]))
            found = {"objects": objects.get(image_id, {}), "detections": detections.get(image_id, [])}
            of_image = prompts.get(image_id, []) if click_list else None
            records.append(ImageOutcome(path=image, size_wh=size_wh, prompts=of_image, **found))
    return Outcomes(records=records, mistakes=mistakes, categories=sorted(categories))


def _by_image(errors: Errors, rows: list[Json], labels: Mapping[int, str]) -> tuple[dict[int, dict], dict[int, list]]:
    """`objects` and `detections` of the records of every image, weakest detection first, so that strong ones are on top."""
    columns = errors.detections
    counted = np.flatnonzero(columns["type"] != UNCOUNTED)
    annotation_ids = [*errors.objects["annotation_id"].tolist(), None]
    detections: dict[int, list] = {}
    place: dict[int, int] = {}
    for row in counted[np.argsort(columns["score"][counted], kind="stable")].tolist():
        of_image = detections.setdefault(rows[row]["image_id"], [])
        place[row] = len(of_image)
        concerned = annotation_ids[columns["object"][row]]
        kind, iou = str(columns["type"][row]), float(columns["iou"][row])
        label = labels[rows[row]["category_id"]]
        of_image.append((label, list(rows[row]["bbox"]), float(rows[row]["score"]), kind, concerned, iou))
    objects: dict[int, dict] = {}
    names = ("image_id", "annotation_id", "state", "score", "iou", "detection")
    for image_id, annotation_id, state, score, iou, row in zip(*(errors.objects[n].tolist() for n in names), strict=True):
        found = place[row] if state == FOUND else -1
        objects.setdefault(image_id, {})[annotation_id] = (state, score, iou, found)
    return objects, detections


def measure_factors(table: ObjectTable, image: int, prompts: Sequence[Json]) -> dict[int, Json]:
    """The `SHOWN_FACTORS` of the objects of one image by annotation id; None where there is nothing to measure.

    Args:
        image: row of `table.images`.
        prompts: of the click list, in this image.
    """
    rows = table.rows(image)
    objects = {name: column[rows] for name, column in table.objects.items()} | {"image": np.zeros(rows.stop - rows.start, int)}
    alone = ObjectTable(images={name: column[image : image + 1] for name, column in table.images.items()}, objects=objects)
    columns = object_factors(alone, {"prompts": list(prompts)})
    return {
        annotation_id: {f: None if np.isnan(columns[f][k]) else round(float(columns[f][k]), 4) for f in SHOWN_FACTORS}
        for k, annotation_id in enumerate(objects["annotation_id"].tolist())
    }


def image_labels(name: str, record: ImageOutcome, label_ids: Mapping[int, str]) -> tuple[Json, dict[int, Json]]:
    """`fiftyone.Detections` of one image as its database keeps them, and the fields of its objects by annotation id."""
    from bson import ObjectId

    width, height = record.size_wh
    detections = []
    for label, (x, y, w, h), score, kind, concerned, iou in record.detections:
        mate = label_ids.get(concerned, "") if kind == TRUE else ""
        detections.append(
            {"_id": ObjectId(), "_cls": "Detection", "attributes": {}, "tags": [], "label": label, "confidence": score}
            | {"bounding_box": [x / width, y / height, w / width, h / height], "annotation_id": concerned}
            | {f"{name}_error": kind, f"{name}_error_iou": round(iou, 4), f"{name}_error_id": mate}
        )
    fates = {}
    for annotation_id, (state, score, iou, place) in record.objects.items():
        mate = str(detections[place]["_id"]) if place >= 0 else ""
        loss = None if state == IGNORED else round(object_loss(state, score, iou), 4)
        fate = {"error": state, "error_id": mate, "error_iou": round(iou, 4), "score": score, "loss": loss}
        fates[annotation_id] = {f"{name}_{field}": value for field, value in fate.items()}
    return {"_cls": "Detections", "detections": detections}, fates


def click_labels(record: ImageOutcome) -> Json:
    """`fiftyone.Keypoints` of one image as its database keeps them, a keypoint for every click."""
    from bson import ObjectId

    width, height = record.size_wh
    points = [
        {"_id": ObjectId(), "_cls": "Keypoint", "attributes": {}, "tags": [], "label": prompt["label"]}
        | {"points": [[x / width, y / height]], "meaning": "this" if positive else "not this"}
        for prompt in record.prompts or []
        for (x, y), positive in zip(prompt["points"], prompt["labels"], strict=True)
    ]
    return {"_cls": "Keypoints", "keypoints": points}
