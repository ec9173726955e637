"""What a model makes of a data set, in FiftyOne: predictions, clicks, the kind of every mistake, and saved views of each.

It adds to the data set of `build_dataset`. The kinds of mistakes are those of `evaluate.errors`; nothing is measured here.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dealkit.browse.dataset import HIDDEN, OBJECTS, by_path, fingerprint_of, import_fiftyone, lay_out_app, slices
from dealkit.browse.outcomes import SHOWN_FACTORS, ImageOutcome, click_labels, find_outcomes, image_labels, measure_factors
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.objects import ObjectTable
from dealkit.evaluate.errors import BACKGROUND, BOTH, DUPLICATE, FOUND, IGNORED, LOCALISATION, MISSED, OTHER, TRUE
from dealkit.files import Json

CLICKS = "clicks"
"""Sample field that holds the clicks."""

CONFIDENT = 0.5
"""Score from which a false detection counts as confident. Choice: twice the score from which detections are shown."""

WORST = 50
"""Images in the view of the worst ones."""

ERROR_VIEWS: dict[str, str] = {
    "missed very tiny": "objects under 8 px that were not found",
    "confident false positives": f"false detections with a score of at least {CONFIDENT:g}",
    "duplicates": "detections of an object that a stronger one has found",
    "confused categories": "detections that lie on an object of another category",
    "worst images": f"the {WORST} images with the highest loss, worst first",
    "mistakes": "a patch for every object that was not found and every false detection",
}
"""Saved view -> what it keeps; each is saved for every set of predictions, as `<name>: <view>`."""

ERROR_COLOURS: dict[str, str] = {
    FOUND: "#009E73",
    TRUE: "#56B4E9",
    MISSED: "#F0E442",
    LOCALISATION: "#E69F00",
    OTHER: "#CC79A7",
    BOTH: "#000000",
    DUPLICATE: "#0072B2",
    BACKGROUND: "#D55E00",
    IGNORED: "#555555",
}
"""Colour of a box in the App by what became of it; of Okabe and Ito: any colour vision tells them apart."""

CLICK_COLOURS: dict[str, str] = {"this": "#FFFFFF", "not this": "#000000"}
"""Colour of a click by its meaning."""

_RESERVED = (OBJECTS, CLICKS, "id", "filepath", "tags", "metadata", "source", "domain", "split", "annotations", "image_id")


@dataclass(frozen=True, kw_only=True)
class ErrorBuild:
    """Predictions that were brought up to date in a data set: their fields, and numbers of each."""

    names: list[str]
    written: dict[str, int]
    """Images that were written."""
    detections: dict[str, int]
    """Detections shown."""
    mistakes: dict[str, dict[str, int]]
    """By kind."""
    seconds: float

    def __str__(self) -> str:
        lines = []
        for name in self.names:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.mistakes[name].items() if count) or "no mistakes"
            lines.append(f"{name}: {self.detections[name]} detections; {kinds} ({self.written[name]} images written)")
        return "\n".join([*lines, f"predictions in {self.seconds:.1f} s"])


def field_name(pattern: str | Path) -> str:
    """Field for predictions: the name of their file, or of its folder where the file is named after the source.

    >>> field_name("runs/nano.json"), field_name("runs/nano/{source}.json"), field_name("runs/9 epochs.json")
    ('nano', 'nano', 'p9_epochs')
    """
    path = Path(pattern)
    name = path.parent.name if "{source}" in path.name else path.stem
    name = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "predictions"
    name = name if name[0].isalpha() else f"p{name}"
    return f"{name}_predictions" if name in _RESERVED else name


def add_predictions(
    dataset: Any,
    table: ObjectTable,
    predictions: Sequence[str | Path],
    clicks: str | Path | None = None,
    *,
    score: float = DEFAULT_THRESHOLD,
    batch: int = 200,
) -> ErrorBuild:
    """Bring the predictions of a data set in line with files; images where nothing has changed are not written.

    Every set of predictions has a field of its own (`field_name`), whose detections have, besides label, box and confidence:
    `<name>_error` (key of `DETECTION_TYPES`), `<name>_error_iou` and `annotation_id` (the object it concerns). Objects get
    `<name>_error` (key of `OBJECT_STATES`), `<name>_error_iou`, `<name>_score` and `<name>_loss` (`object_loss`), images
    `<name>_loss`: the sum of the losses of their objects and the scores of their false detections. `clicks` are keypoints.
    FiftyOne knows `<name>_error` as an evaluation, so that its evaluation patches work. Views: `save_error_views`. Tags stay,
    except on detections of images whose predictions, objects or clicks have changed.

    Args:
        dataset: of `dealkit.browse.dataset.build_dataset`, made from the files of `table`.
        predictions: COCO results of one or two models; `{source}` stands for the folder of the COCO file.
        clicks: click list they were made from; `{source}` as above.
        score: lowest score shown; the mistakes are those of the detections shown.
        batch: images written at once.

    Raises:
        ValueError: more than two sets, two of one name, a set without `{source}` for several COCO files, an earlier set that is
            tagged and would be removed, or a row that is broken (see `find_errors`); says which.
    """
    started = time.monotonic()
    names = [field_name(pattern) for pattern in predictions]
    if not 1 <= len(names) <= 2:
        raise ValueError(f"predictions: expected one or two sets, got {len(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"predictions: {' and '.join(map(str, predictions))} are both shown as {names[0]!r}: rename one")
    files = list(dict.fromkeys(table.images["file"].tolist()))
    for pattern in (*predictions, *([clicks] if clicks else [])):
        if len(files) > 1 and "{source}" not in str(pattern):
            raise ValueError(f"{pattern}: expected {{source}} in the name, since there are {len(files)} COCO files")
    patterns = dict(zip(names, predictions, strict=True))
    outcomes = {name: find_outcomes(table, files, pattern, clicks, score) for name, pattern in patterns.items()}
    of_first = outcomes[names[0]]
    fo = import_fiftyone()
    _remove_others(dataset, names)
    for name in names:
        _declare(fo, dataset, name)
    _style(fo, dataset, names, of_first.categories)
    known = by_path(dataset, ["id", "fingerprint", "factors_fingerprint", *(f"{name}_fingerprint" for name in names)])
    _add_factors(dataset, table, of_first.records, known, batch)
    work: dict[str, list[ImageOutcome]] = {name: [] for name in names}
    for name in names:
        for r in outcomes[name].records:
            mark = fingerprint_of(known[r.path]["fingerprint"], r.size_wh, r.objects, r.detections, r.prompts)
            if known[r.path][f"{name}_fingerprint"] != mark:
                work[name].append(replace(r, sample_id=known[r.path]["id"], fingerprint=mark))
    changed = [name for name in names if work[name] or dataset.info.get("views_of") != names]
    if changed:  # whatever stops this build, the next one saves the views
        dataset.info["views_of"] = []
        dataset.save()
    with tqdm(total=sum(map(len, work.values())), desc="predictions", unit="image", delay=3, leave=False) as bar:
        for name, records in work.items():
            for part in slices(records, batch):
                _write(dataset, name, part)
                bar.update(len(part))
    if changed:
        save_error_views(dataset, names, changed)
    return ErrorBuild(
        names=names,
        written={name: len(work[name]) for name in names},
        detections={name: sum(len(r.detections) for r in outcomes[name].records) for name in names},
        mistakes={name: outcomes[name].mistakes for name in names},
        seconds=time.monotonic() - started,
    )


def save_error_views(dataset: Any, names: Sequence[str], changed: Sequence[str] | None = None) -> None:
    """Save the views of `ERROR_VIEWS` for every set of predictions, and what only one of two has found.

    FiftyOne works out patches when their view is saved, so it has to be saved again after a change.

    Args:
        names: all sets of predictions. changed: those whose views are to be saved; default: all.
    """
    from fiftyone import ViewField as F

    for name in names if changed is None else changed:
        error = F(f"{name}_error")
        false = ~error.is_in([TRUE, IGNORED])
        views = {
            "missed very tiny": dataset.filter_labels(OBJECTS, ~error.is_in([FOUND, IGNORED]) & (F("size_bin") == "vt")),
            "confident false positives": dataset.filter_labels(name, false & (F("confidence") >= CONFIDENT)),
            "duplicates": dataset.filter_labels(name, error == DUPLICATE),
            "confused categories": dataset.filter_labels(name, error.is_in([OTHER, BOTH])),
            "worst images": dataset.match(F(f"{name}_loss") > 0).sort_by(f"{name}_loss", reverse=True).limit(WORST),
            "mistakes": dataset.to_evaluation_patches(f"{name}_error").match(~F("type").is_in([FOUND, TRUE, IGNORED])),
        }
        for view, description in ERROR_VIEWS.items():
            dataset.save_view(f"{name}: {view}", views[view], description=description, overwrite=True)
    for name, other in (names, names[::-1]) if len(names) == 2 else ():
        only = (F(f"{name}_error") == FOUND) & ~F(f"{other}_error").is_in([FOUND, IGNORED])
        description = f"objects that {name} has found and {other} has not"
        dataset.save_view(f"only {name}", dataset.filter_labels(OBJECTS, only), description=description, overwrite=True)
    dataset.info["views_of"] = list(names)
    dataset.save()


def _remove_others(dataset: Any, names: Sequence[str]) -> None:
    """Take predictions of earlier builds that are not among `names` out of the data set, with their views."""
    for name in [name for name in dataset.info.get("predictions", []) if name not in names]:
        if dataset.count_label_tags(name):
            raise ValueError(
                f"{dataset.name}: {name}: has tagged detections and is not among the predictions given: "
                "export the corrections and give the new ones another --name, or take the tags away"
            )
        for view in dataset.list_saved_views():
            if view.startswith(f"{name}: ") or view.startswith("only "):
                dataset.delete_saved_view(view)
        dataset.delete_evaluation(f"{name}_error")
        dataset.delete_sample_fields([name, f"{name}_loss", f"{name}_fingerprint"])
        dataset.delete_sample_fields([f"{OBJECTS}.detections.{name}_{part}" for part in ("score", "loss")])
    dataset.info["predictions"] = list(names)
    dataset.save()


def _declare(fo: Any, dataset: Any, name: str) -> None:
    """The fields of a set of predictions, so that writing need not look for new ones, and its evaluation."""
    from fiftyone.utils.eval.coco import COCOEvaluationConfig

    if f"{name}_error" in dataset.list_evaluations():
        return
    if dataset.has_field(name):
        raise ValueError(f"{name}: the data set {dataset.name} has a field of that name: rename the file of predictions")
    text, whole, real = fo.StringField, fo.IntField, fo.FloatField
    dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    if not dataset.has_field(CLICKS):
        dataset.add_sample_field(CLICKS, fo.EmbeddedDocumentField, embedded_doc_type=fo.Keypoints)
        dataset.add_sample_field("factors_fingerprint", text)
        attributes = {f"{OBJECTS}.detections.{factor}": real() for factor in SHOWN_FACTORS}
        dataset.add_dynamic_sample_fields(attributes | {f"{CLICKS}.keypoints.meaning": text()})
    dataset.add_sample_field(f"{name}_loss", real)
    dataset.add_sample_field(f"{name}_fingerprint", text)
    shared = {f"{name}_error": text, f"{name}_error_id": text, f"{name}_error_iou": real}
    of_objects = shared | {f"{name}_score": real, f"{name}_loss": real}
    attributes = {f"{OBJECTS}.detections.{field}": kind() for field, kind in of_objects.items()}
    attributes |= {f"{name}.detections.{field}": kind() for field, kind in (shared | {"annotation_id": whole}).items()}
    dataset.add_dynamic_sample_fields(attributes)
    COCOEvaluationConfig(name, OBJECTS, iou=0.5, classwise=True).build().register_run(dataset, f"{name}_error")


def _style(fo: Any, dataset: Any, names: Sequence[str], categories: list[str]) -> None:
    """Colours by kind of mistake; the sidebar: the first predictions, objects and clicks are shown; and what objects may be drawn
    as in the App."""
    colours = {OBJECTS: (f"{names[0]}_error", ERROR_COLOURS)} | {name: (f"{name}_error", ERROR_COLOURS) for name in names}
    data = ["domain", "source", "split", *(f"{name}_loss" for name in names)]
    hidden = [*HIDDEN, "factors_fingerprint", *(f"{name}_fingerprint" for name in names)]
    lay_out_app(fo, dataset, colours | {CLICKS: ("meaning", CLICK_COLOURS)}, data, hidden)
    schema = {"type": "detections", "component": "dropdown", "classes": categories, "attributes": []}
    dataset.set_label_schemas(dataset.label_schemas | {OBJECTS: schema})
    dataset.activate_label_schemas(OBJECTS)
    dataset.app_config.active_fields = fo.ActiveFields(paths=[OBJECTS, names[0], CLICKS])
    dataset.save()


def _add_factors(dataset: Any, table: ObjectTable, records: list[ImageOutcome], known: Mapping[str, Json], batch: int) -> None:
    """Measure and write the factors of the objects of images whose pixels, objects or clicks have changed."""
    rows = {path: i for i, path in enumerate(table.images["path"].tolist())}
    marks = {r.path: fingerprint_of(known[r.path]["fingerprint"], r.prompts) for r in records}
    changed = [r for r in records if known[r.path]["factors_fingerprint"] != marks[r.path]]
    with tqdm(total=len(changed), desc="factors", unit="image", delay=3, leave=False) as bar:
        for part in slices(changed, batch):
            ids = [known[r.path]["id"] for r in part]
            _set_objects(dataset, ids, [measure_factors(table, rows[r.path], r.prompts or []) for r in part])
            marked = dataset.select(ids, ordered=True)
            marked.set_values("factors_fingerprint", [marks[r.path] for r in part], expand_schema=False)
            bar.update(len(part))


def _set_objects(dataset: Any, ids: Sequence[str], values: Sequence[Mapping[int, Json]]) -> None:
    """Set fields of the objects of samples: for each sample, annotation id -> fields. Objects drawn in the App stay as they are.

    Choice: one update per image; FiftyOne's own writing takes one per object and field.
    """
    from bson import ObjectId
    from pymongo import UpdateOne

    updates = []
    known = dataset.select(list(ids), ordered=True).values(f"{OBJECTS}.detections.annotation_id")
    for sample_id, annotation_ids, of_image in zip(ids, known, values, strict=True):
        fields = {
            f"{OBJECTS}.detections.{k}.{field}": value
            for k, annotation_id in enumerate(annotation_ids or [])
            for field, value in of_image.get(annotation_id, {}).items()
        }
        if fields:
            updates.append(UpdateOne({"_id": ObjectId(sample_id)}, {"$set": fields}))
    if updates:
        dataset._bulk_write(updates, ids=list(ids))


def _write(dataset: Any, name: str, records: Sequence[ImageOutcome]) -> None:
    """Write predictions, clicks and what became of the objects, then the fingerprints that say they are there."""
    ids = [record.sample_id for record in records]
    view = dataset.select(ids, ordered=True)
    labels, annotation_ids = view.values([f"{OBJECTS}.detections.id", f"{OBJECTS}.detections.annotation_id"])
    images = [
        image_labels(name, record, dict(zip(of_image or [], label_ids or [], strict=True)))
        for record, label_ids, of_image in zip(records, labels, annotation_ids, strict=True)
    ]
    options = {"validate": False, "expand_schema": False}
    view.set_values(name, [detections for detections, _ in images], **options)
    _set_objects(dataset, ids, [fates for _, fates in images])
    view.set_values(CLICKS, [click_labels(record) for record in records], **options)
    view.set_values(f"{name}_loss", [round(record.loss, 4) for record in records], **options)
    view.set_values(f"{name}_fingerprint", [record.fingerprint for record in records], **options)
