"""Find all like this: an object that is selected in FiftyOne, looked for in its image, a view or the whole data set.

What is found goes into a field of its own. `accept_found` makes ground truth of what was checked.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

from dealkit.boxes import size_bin
from dealkit.browse.corrections import SAME_OBJECT
from dealkit.browse.dataset import OBJECTS, fingerprint_of
from dealkit.data.images import read_image
from dealkit.predict.detections import Detections
from dealkit.predict.embedding import PromptEmbedding, mean_embedding
from dealkit.predict.predictor import Predictor

FOUND_IN = "found"
"""Field that gets what is found, unless another is named; also the key of `dataset.info` that tells of all such fields."""

ACCEPT = "accept"
"""Tag of a detection that `accept_found` makes ground truth of."""

SCOPES: dict[str, str] = {"sample": "this image", "view": "all images of the current view", "dataset": "the whole data set"}
"""Where to look -> how the App says it."""

AS_CLICKED, AS_FOUND, AS_ACCEPTED = "clicked", "found", "accepted"
FOUND_COLOURS: dict[str, str] = {AS_CLICKED: "#D55E00", AS_FOUND: "#009E73", AS_ACCEPTED: "#0072B2"}
"""Colour of a found box in the App by its state; of Okabe and Ito, and none of the colours of size bins."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Objects of one kind that were selected."""

    label: str
    """What they are called; "object" if they have no name."""
    points: Mapping[str, Sequence[tuple[float, float, int]]]
    """Sample id -> clicks: x and y as shares of the image, and 1 for this, 0 for not this."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How far a search is."""

    run: str
    """Changes with clicks, label, model and threshold."""
    total: int
    """Images to be searched."""
    done: int = 0
    skipped: int = 0
    """Images that had their result already."""
    boxes: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Images that could not be read, and why; they are tried again by the next search."""
    pace: str = ""
    """Images per second and the time left, in words."""

    def __str__(self) -> str:
        skipped = f", {self.skipped} searched before" if self.skipped else ""
        unreadable = f"; {len(self.unreadable)} not read: {self.unreadable[0]}" if self.unreadable else ""
        return f"{self.boxes} found in {self.done} of {self.total} images{skipped}{unreadable}"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of the detections that were accepted."""

    added: int
    known: int
    """Not added, since the ground truth has a box of the same label there (IoU of at least `SAME_OBJECT`)."""

    def __str__(self) -> str:
        return f"{self.added} added, {self.known} were annotated already"


def read_example(dataset: Any, selected: Sequence[Mapping[str, Any]]) -> Example:
    """Clicks on selected labels: the centre of a box, the points of a keypoint.

    Keypoints that mean "not this" are negative clicks; they count in images in which an object is selected, too.

    Args:
        dataset: FiftyOne data set.
        selected: `{"label_id", "field"}` of each, as `session.selected_labels` gives them.

    Raises:
        ValueError: nothing is selected, it is neither box nor keypoint, or has several names; says which.
    """
    fields = list(dict.fromkeys(row["field"] for row in selected))
    names, points = set(), {}
    for sample in dataset.select_labels(ids=[row["label_id"] for row in selected], fields=fields) if selected else []:
        for label in (label for name in fields for label in _labels(sample[name])):
            points.setdefault(sample.id, []).extend(_clicks_on(label))
            names.add(label.label)
    points = {sample_id: clicks for sample_id, clicks in points.items() if any(positive for *_, positive in clicks)}
    if not points:
        raise ValueError("selection: expected one or more objects: open an image and click the box of an object in it")
    if len(names - {None}) > 1:
        raise ValueError(f"selection: expected objects of one label, got {', '.join(sorted(names - {None}))}")
    return Example(label=next(iter(names - {None}), "object"), points=points)


def scope_ids(scope: str, example: Example, view: Any) -> list[str]:
    """Ids of the samples to search, those with selected objects first.

    Args:
        scope: key of `SCOPES`.
        view: what "view" or "dataset" stands for: FiftyOne view, also of patches, or data set.

    Raises:
        ValueError: another scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(SCOPES)}; got {scope!r}")
    others = [] if scope == "sample" else view.values("sample_id" if view.has_field("sample_id") else "id")
    return list(dict.fromkeys([*example.points, *others]))


@functools.lru_cache(maxsize=1)
def load_predictor(checkpoint: str, threshold: float) -> Predictor:
    """The model of a checkpoint, kept for the next search."""
    return Predictor(checkpoint, threshold=threshold)


def find_alike(
    dataset: Any, example: Example, ids: Sequence[str], predictor: Predictor, *, into: str = FOUND_IN
) -> Iterator[Search]:
    """Search samples for all of the kind of the example; yields how far it is, first of all and after every image.

    The image of the example is asked with the clicks on it, as `Predictor.predict` is; all others with the embedding of these
    clicks, or with their mean if there are several such images. Detections have label, box, `confidence` and `state` (key of
    `FOUND_COLOURS`). Samples get `<into>_count`, the number that the density map sums to, and `<into>_run`.

    Samples that have the result of the same run are skipped: a search that was stopped goes on, and one of an image may be
    widened to the data set. `dataset.info["found"]` tells of the run in each field.

    Choice: a field holds one run. Another example empties it, so that no box is taken for a result of the other.

    Args:
        dataset: FiftyOne data set.
        example: of `read_example`.
        ids: of samples, see `scope_ids`.
        predictor: model that searches.
        into: field to write.

    Raises:
        ValueError: `into` cannot be the name of a field, is a field of something else, or holds tagged detections of another
            example; says which.
    """
    clicks = sorted((sample_id, [tuple(click) for click in clicks]) for sample_id, clicks in example.points.items())
    run = fingerprint_of(predictor.model_hash, predictor.threshold, example.label, clicks)
    _prepare(dataset, into, run, example, predictor)
    searched = dict(zip(*dataset.select(ids).values(["id", f"{into}_run"]), strict=True))
    todo = [i for i in ids if searched.get(i) != run]
    state = Search(run=run, total=len(todo), skipped=len(ids) - len(todo))
    yield state
    embedding = None
    with tqdm(todo, desc="find", unit="image", delay=3, leave=False) as bar:
        for sample in map(dataset.__getitem__, bar):
            try:
                predictor.set_image(read_image(sample.filepath))
                if sample.id in example.points:
                    found = predictor.predict(*_clicks(example.points[sample.id], predictor.image))
                else:
                    embedding = embedding or _embed(dataset, example, predictor)
                    found = predictor.predict_embedding(embedding)
            except (ValueError, OSError) as error:
                state = replace(state, unreadable=[*state.unreadable, str(error)])
            else:
                _write(sample, into, run, example.label, found)
                state = replace(state, boxes=state.boxes + len(found))
            rate = {key: bar.format_dict[key] for key in ("n", "total", "elapsed", "unit")}
            pace = tqdm.format_meter(**rate | {"n": state.done + 1}, bar_format="{rate_fmt}, {remaining} left")
            state = replace(state, done=state.done + 1, pace=pace)
            yield state


def accept_found(dataset: Any, selected: Sequence[Mapping[str, Any]] = (), *, into: str = OBJECTS) -> Accepted:
    """Append found detections to the ground truth: the selected ones, or without any all that are tagged `ACCEPT`.

    A copy goes to `into`, with `found_by`, the run (`dataset.info["found"]` tells of it), `found_score` and its size; so
    `export_corrections` adds it to the COCO file. The detection itself stays, in the state `AS_ACCEPTED` and without the tag.

    Args:
        dataset: FiftyOne data set in which `find_alike` has searched.
        selected: `{"label_id", "field"}` of each; those in other fields do not matter.
        into: field of ground truth.

    Raises:
        ValueError: nothing was found yet, nothing of it is selected or tagged, or `into` is no field of boxes; says which.
    """
    import fiftyone as fo

    fields = [name for name, run in dataset.info.get(FOUND_IN, {}).items() if run and dataset.has_field(name)]
    if not fields:
        raise ValueError(f"{dataset.name}: nothing was found in it yet: run 'Find all like this' first")
    if into in fields or into not in dataset.get_field_schema(embedded_doc_type=fo.Detections):
        raise ValueError(f"field {into!r}: expected a field of annotated boxes, such as {OBJECTS!r}")
    ids = [row["label_id"] for row in selected if row["field"] in fields]
    view = dataset.select_labels(fields=fields, **({"ids": ids} if ids else {"tags": ACCEPT}))
    chosen = {name: ids for name in fields for ids in [set(view.values(f"{name}.detections.id", unwind=True))]}
    if not any(chosen.values()):
        raise ValueError(f"expected detections of {', '.join(fields)} that are selected, or tagged {ACCEPT!r}")
    kinds = {"found_by": fo.StringField, "found_score": fo.FloatField, "size_px": fo.FloatField, "size_bin": fo.StringField}
    dataset.add_dynamic_sample_fields({f"{into}.detections.{name}": kind() for name, kind in kinds.items()})
    counts = {True: 0, False: 0}
    for sample in dataset.select(view.values("id")).iter_samples(autosave=True):
        sample[into] = sample[into] or fo.Detections()
        for name, label in ((n, label) for n in fields for label in _labels(sample[n]) if label.id in chosen[n]):
            known = _is_known(label, sample[into].detections)
            counts[known] += 1
            if not known:
                sample[into].detections.append(_as_object(fo, label, sample, sample[f"{name}_run"]))
            label.state = AS_ACCEPTED
            label.tags = [tag for tag in label.tags if tag != ACCEPT]
    return Accepted(added=counts[False], known=counts[True])


def declare_found(dataset: Any, into: str = FOUND_IN) -> None:
    """Add the fields of a search, with their colours and their place in the App; nothing is done if they are there.

    An App that runs shows a new field in an image only when the image is opened anew, and its colours after a reload.

    Raises:
        ValueError: `into` cannot be the name of a field, or is a field of something else.
    """
    import fiftyone as fo

    runs = dict(dataset.info.get(FOUND_IN, {}))
    if into in runs and dataset.has_field(into):
        return
    if not into.isidentifier() or dataset.has_field(into):
        raise ValueError(
            f"field {into!r}: expected a name of letters, digits and _ that no other field has, such as {FOUND_IN!r}"
        )
    dataset.add_sample_field(into, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.add_dynamic_sample_fields({f"{into}.detections.state": fo.StringField()})
    dataset.add_sample_field(f"{into}_count", fo.FloatField)
    dataset.add_sample_field(f"{into}_run", fo.StringField)
    dataset.info[FOUND_IN] = runs | {into: {}}
    config = dataset.app_config
    colours = config.color_scheme or fo.ColorScheme(color_by="value")
    values = [{"value": state, "color": colour} for state, colour in FOUND_COLOURS.items()]
    others = [field for field in colours.fields or [] if field["path"] != into]
    colours.fields = [*others, {"path": into, "colorByAttribute": "state", "valueColors": values}]
    config.color_scheme = colours
    groups = {group.name: group.paths for group in config.sidebar_groups or []}
    for name, path in (("labels", into), ("data", f"{into}_count"), ("files", f"{into}_run")):
        if path not in groups.get(name, [path]):
            groups[name].append(path)
    dataset.save()


def _labels(value: Any) -> list[Any]:
    """The labels of a field's value, be it a list of labels, one, or none."""
    lists = [getattr(value, name) for name in ("detections", "keypoints") if hasattr(value, name)]
    return lists[0] if lists else [] if value is None else [value]


def _clicks_on(label: Any) -> list[tuple[float, float, int]]:
    if label._cls == "Detection":
        x, y, w, h = label.bounding_box
        return [(x + w / 2, y + h / 2, 1)]
    if label._cls != "Keypoint":
        raise ValueError(f"selection: expected boxes or keypoints, got a {label._cls}")
    negative = label.has_field("meaning") and label.meaning == "not this"
    return [(x, y, int(not negative)) for x, y in label.points]


def _clicks(clicks: Sequence[tuple[float, float, int]], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (P, 2) in pixels of an image (3, H, W), and labels (P,)."""
    rows = torch.tensor(clicks, dtype=torch.float64)
    points = rows[:, :2] * torch.tensor([image.shape[2], image.shape[1]])
    return points.float(), rows[:, 2].long()


def _embed(dataset: Any, example: Example, predictor: Predictor) -> PromptEmbedding:
    parts = []
    for sample_id, clicks in example.points.items():
        image = read_image(dataset[sample_id].filepath)
        parts.append(predictor.embed(image, *_clicks(clicks, image)))
    return mean_embedding(parts)


def _prepare(dataset: Any, into: str, run: str, example: Example, predictor: Predictor) -> None:
    """Declare the fields of a run, empty them of another, and note the run in `dataset.info`."""
    declare_found(dataset, into)
    runs = dataset.info[FOUND_IN]
    if runs[into].get("run", run) != run:
        if tags := dataset.count_label_tags(into):
            tags = ", ".join(sorted(tags))
            raise ValueError(f"field {into!r}: another search left detections tagged {tags} in it: choose another name")
        for name in (into, f"{into}_count", f"{into}_run"):
            dataset.clear_sample_field(name)
    about = {"run": run, "label": example.label, "model": predictor.model_hash, "threshold": predictor.threshold}
    clicks = {dataset[i].filepath: [list(click) for click in clicks] for i, clicks in example.points.items()}
    dataset.info[FOUND_IN] = runs | {into: about | {"clicks": clicks}}
    dataset.save()


def _write(sample: Any, into: str, run: str, label: str, found: Detections) -> None:
    """Boxes, count and run of one sample, in one move."""
    import fiftyone as fo

    height, width = found.image.shape[1:]
    boxes = box_convert(found.boxes.double(), "xyxy", "xywh") / torch.tensor([width, height] * 2)
    clicked = [False] * len(found) if found.clicked is None else found.clicked.tolist()
    sample[into] = fo.Detections(
        detections=[
            fo.Detection(label=label, bounding_box=box, confidence=score, state=AS_CLICKED if own else AS_FOUND)
            for box, score, own in zip(boxes.tolist(), found.scores.tolist(), clicked, strict=True)
        ]
    )
    sample[f"{into}_count"] = found.count
    sample[f"{into}_run"] = run
    sample.save()


def _is_known(label: Any, objects: Sequence[Any]) -> bool:
    same = [other.bounding_box for other in objects if other.label == label.label]
    boxes = box_convert(torch.tensor([label.bounding_box, *same], dtype=torch.float64), "xywh", "xyxy")
    return bool(same) and box_iou(boxes[:1], boxes[1:]).max().item() >= SAME_OBJECT


def _as_object(fo: Any, label: Any, sample: Any, run: str) -> Any:
    """A found detection as an annotated object."""
    about = {"found_by": run, "found_score": label.confidence, "iscrowd": 0}
    about |= {name: sample[name] for name in ("source", "domain") if sample.has_field(name)}
    if sample.metadata is not None:
        area = label.bounding_box[2] * sample.metadata.width * label.bounding_box[3] * sample.metadata.height
        about |= {"size_px": round(area**0.5, 2), "size_bin": size_bin(torch.tensor([area]))[0]}
    return fo.Detection(label=label.label, bounding_box=label.bounding_box, **about)
