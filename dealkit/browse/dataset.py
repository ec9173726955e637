"""A data set in FiftyOne: every object with its size, density and contrast, and saved views.

Only `dealkit/browse` uses fiftyone, and imports it only when a function is called: everything else works without it. FiftyOne is
for looking; no figure that is reported comes from it.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dealkit.boxes import SIZE_BINS
from dealkit.browse.mongod import ensure_mongod
from dealkit.data.images import read_image
from dealkit.data.objects import CROWDED, LOW_CONTRAST, ObjectTable, image_contrast, read_table
from dealkit.files import tell, write_atomically

OBJECTS = "objects"
"""Sample field that holds the boxes."""

VIEWS: dict[str, str] = {
    "very tiny": f"objects under {SIZE_BINS['vt'][1] ** 0.5:g} px",
    "crowded": f"objects with {CROWDED} or more others within 32 px",
    "low contrast": f"objects whose contrast to what is around them is under {LOW_CONTRAST}",
    "suspicious boxes": "boxes that should be looked at; the field `suspicious` says why",
}
"""Saved view -> what it keeps. Images without such an object are left out."""

COLOURS: dict[str, str] = dict(zip(SIZE_BINS, ("#F0E442", "#56B4E9", "#E69F00", "#CC79A7"), strict=True))
"""Colour of a box in the App by its size bin; of Okabe and Ito, which readers with any colour vision tell apart."""

MAX_OBJECTS = 30_000
"""Most objects of one image: a record of FiftyOne's database may not exceed 16 MB."""

SHOWN = "shown"
"""Sample field with the PNG copy of an image that browsers do not show."""

BROWSER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""What the names of images end in that browsers show; others, such as TIFF, are copied."""

HIDDEN = ["annotations", "image_id", "filepath", "fingerprint", "objects_fingerprint", "id", "created_at", "last_modified_at"]
"""Sample fields in a closed group of the App's sidebar."""

_VERSION = 3  # part of every fingerprint: a new number has all samples written again
_MADE_BY = "dealkit"


@dataclass(frozen=True, kw_only=True)
class Build:
    """A `fiftyone.Dataset` that was brought up to date, and what had to be done for it."""

    dataset: Any
    images: dict[str, int]
    """Images `added`, `updated` (file or boxes had changed), `removed` (in no file any more) and `unchanged`."""
    objects: int
    seconds: float

    def __str__(self) -> str:
        images = sum(self.images.values()) - self.images["removed"]
        counts = ", ".join(f"{count} {what}" for what, count in self.images.items())
        return f"{self.dataset.name}: {images} images, {self.objects} objects ({counts}) in {self.seconds:.1f} s"


def build_dataset(
    files: Sequence[str | Path], *, name: str | None = None, domains: Mapping[str, str] | None = None, batch: int = 200
) -> Build:
    """Bring a persistent FiftyOne data set in line with COCO files; images that have not changed are not even opened.

    Samples have `source`, `domain`, `split`, `image_id`, `annotations` (the file) and `objects`, whose detections have, besides
    label and box: `annotation_id`, `size_px`, `size_bin`, `density`, `contrast`, `suspicious` (see `ObjectTable`), `domain`,
    `source` and `iscrowd`. The views of `VIEWS` are saved with it. Tags and fields of your own stay, except on boxes of images
    that have changed. A build that was stopped goes on where it was. Of images that no browser shows the App shows PNG copies,
    as `read_image` reads them; they lie beside the database, and a line says where.

    Choice: boxes are written as plain records, not as `fiftyone.Detection` objects, which takes an eighth of the time.

    Args:
        files: COCO JSON; images lie in `images` beside each, or beside it.
        name: of the data set; default: of the folder that holds all files.
        domains: source -> domain, for files that do not say it.
        batch: images written at once; memory does not grow with their number.

    Raises:
        ValueError: fiftyone is missing, a file has a problem, an image is in two files, an image has more than `MAX_OBJECTS`
            boxes, or the name is taken by a data set that was not built here; says which.
    """
    started = time.monotonic()
    table = read_table(files, domains)
    paths = table.images["path"].tolist()
    _check_paths(table)
    fo = import_fiftyone()
    dataset = _dataset(fo, name or default_name(files))
    known = by_path(dataset, ["id", "fingerprint"])
    prints = [_fingerprint(table, i) for i in range(len(paths))]
    gone = [known[path]["id"] for path in known.keys() - set(paths)]
    dataset.delete_samples(gone)
    new = [i for i, path in enumerate(paths) if path not in known]
    copies = _copies(fo, dataset, paths)
    stale = {i for i, copy in copies.items() if not copy.is_file()}
    changed = [i for i, path in enumerate(paths) if path in known and (known[path]["fingerprint"] != prints[i] or i in stale)]
    with tqdm(total=len(new) + len(changed), desc="browse", unit="image", delay=3, leave=False) as bar:
        for rows in [*slices(new, batch), *slices(changed, batch)]:
            ids = [known[paths[i]]["id"] for i in rows if paths[i] in known]
            if ids:
                _update(dataset, ids, table, rows)
            else:
                ids = _add(fo, dataset, table, rows)
            if here := {id_: copies[i] for id_, i in zip(ids, rows, strict=True) if i in copies}:
                for i in stale.intersection(rows):
                    pixels = read_image(paths[i]).permute(1, 2, 0).numpy()
                    write_atomically(copies[i], lambda file, of=pixels: Image.fromarray(of).save(file, format="PNG"))
                dataset.select(list(here), ordered=True).set_values(SHOWN, [str(copy) for copy in here.values()])
            _write(dataset, ids, table, rows, [prints[i] for i in rows])
            bar.update(len(rows))
    save_views(dataset)
    images = {"added": len(new), "updated": len(changed), "removed": len(gone)}
    images["unchanged"] = len(paths) - len(new) - len(changed)
    return Build(dataset=dataset, images=images, objects=len(table.objects["image"]), seconds=time.monotonic() - started)


def _copies(fo: Any, dataset: Any, paths: Sequence[str]) -> dict[int, Path]:
    """Row of every image that browsers do not show -> its PNG copy; those of images that are gone or have changed are deleted."""
    odd = [i for i, path in enumerate(paths) if not path.lower().endswith(BROWSER_SUFFIXES)]
    folder = Path(fo.config.database_dir).parent / "dealkit_png" / dataset.slug
    stats = {i: os.stat(paths[i]) for i in odd}
    copies = {i: folder / f"{fingerprint_of(paths[i], s.st_size, s.st_mtime_ns)}.png" for i, s in stats.items()}
    for old in {*folder.glob("*.png")} - {*copies.values()}:
        old.unlink()
    if odd:
        tell(f"{dataset.name}: no browser shows {len(odd)} images such as {paths[odd[0]]}: the App shows PNG copies in {folder}")
        dataset.add_sample_field(SHOWN, fo.StringField)
        dataset.app_config.media_fields = ["filepath", SHOWN]
        dataset.app_config.grid_media_field = dataset.app_config.modal_media_field = SHOWN
        dataset.app_config.media_fallback = True  # the images that browsers do show
        dataset.save()
    return copies


def save_views(dataset: Any) -> None:
    """Save the views of `VIEWS` with a data set, in place of those of the same name."""
    from fiftyone import ViewField as F

    rules = {
        "very tiny": F("size_bin") == "vt",
        "crowded": F("density") >= CROWDED,
        "low contrast": F("contrast") < LOW_CONTRAST,
        "suspicious boxes": F("suspicious").exists(),
    }
    for view, description in VIEWS.items():
        dataset.save_view(view, dataset.filter_labels(OBJECTS, rules[view]), description=description, overwrite=True)


def import_fiftyone() -> Any:
    """The module fiftyone, with a database server that works and without usage statistics sent to anyone.

    Its banner and its advice are not printed, unless `FIFTYONE_LOGGING_LEVEL` says otherwise.

    Raises:
        ValueError: it is not installed, or has no database; says what to do.
    """
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    try:
        ensure_mongod()
        import fiftyone
    except ImportError:
        raise ValueError("FiftyOne is not installed: `pip install -e .[fiftyone]`") from None
    except Exception as error:  # its services have many kinds, and do not start on a machine that is too busy
        raise ValueError(f"FiftyOne has no database: {type(error).__name__}: {' '.join(str(error).split())}") from None
    return fiftyone


def default_name(files: Iterable[str | Path]) -> str:
    """Name of the folder that holds all `files`.

    >>> default_name(["data/tinyset/train.json", "data/tinyset/val.json"])
    'tinyset'
    """
    return Path(os.path.commonpath([Path(file).resolve().parent for file in files])).name or "dealkit"


def by_path(dataset: Any, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Path of an image -> these fields of its sample."""
    columns = dataset.values(["filepath", *fields])
    return {path: dict(zip(fields, values, strict=True)) for path, *values in zip(*columns, strict=True)}


def labels_by_path(dataset: Any, field: str, parts: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Path of an image -> these parts of each of its labels in a field."""
    known = by_path(dataset, [f"{field}.detections.{part}" for part in parts])
    return {path: list(zip(*(part or [] for part in of_image.values()), strict=True)) for path, of_image in known.items()}


def _check_paths(table: ObjectTable) -> None:
    of_path: dict[str, str] = {}
    for path, file in zip(table.images["path"], table.images["file"], strict=True):
        if path in of_path:
            raise ValueError(f"{file}: images: file_name: {path} is already an image of {of_path[path]}")
        of_path[path] = file
    of_image = np.bincount(table.objects["image"], minlength=len(of_path))
    if len(of_image) and of_image.max() > MAX_OBJECTS:
        path = table.images["path"][of_image.argmax()]
        raise ValueError(f"{path}: {of_image.max()} objects, expected at most {MAX_OBJECTS}: cut the image into tiles")


def _dataset(fo: Any, name: str) -> Any:
    """The data set of that name, with all fields declared, so that writing need not look for new ones."""
    if fo.dataset_exists(name):
        dataset = fo.load_dataset(name)
        if dataset.info.get("made_by") != _MADE_BY:
            raise ValueError(f"FiftyOne has a data set {name!r} that was not built here: choose another name")
        return dataset
    dataset = fo.Dataset(name, persistent=True)
    text, whole, real = fo.StringField, fo.IntField, fo.FloatField
    texts = ("source", "domain", "split", "annotations", "fingerprint", "objects_fingerprint")
    for field, kind in (dict.fromkeys(texts, text) | {"image_id": whole}).items():
        dataset.add_sample_field(field, kind)
    dataset.add_sample_field(OBJECTS, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    attributes = {"size_px": real, "size_bin": text, "density": whole, "contrast": real, "suspicious": text, "domain": text}
    attributes |= {"source": text, "annotation_id": whole, "iscrowd": whole}
    dataset.add_dynamic_sample_fields({f"{OBJECTS}.detections.{field}": kind() for field, kind in attributes.items()})
    dataset.info["made_by"] = _MADE_BY
    lay_out_app(fo, dataset, {OBJECTS: ("size_bin", COLOURS)}, ["domain", "source", "split"], HIDDEN)
    dataset.save()
    return dataset


def lay_out_app(
    fo: Any, dataset: Any, colours: Mapping[str, tuple[str, Mapping[str, str]]], data: list[str], hidden: list[str]
) -> None:
    """Colours and sidebar of a data set in the App; the caller saves.

    Args:
        colours: field of labels -> the attribute that its colours stand for, and the colour of each value.
        data: sample fields shown. hidden: those in a closed group.
    """
    fields = [
        {"path": path, "colorByAttribute": attribute, "valueColors": [{"value": v, "color": c} for v, c in values.items()]}
        for path, (attribute, values) in colours.items()
    ]
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="value", fields=fields)
    dataset.app_config.sidebar_groups = [
        fo.SidebarGroupDocument(name="labels", paths=list(colours)),
        fo.SidebarGroupDocument(name="data", paths=data),
        fo.SidebarGroupDocument(name="tags", paths=["tags", "_label_tags"]),
        fo.SidebarGroupDocument(name="files", paths=hidden, expanded=False),
        fo.SidebarGroupDocument(name="metadata", expanded=False),
    ]


def _add(fo: Any, dataset: Any, table: ObjectTable, rows: list[int]) -> list[str]:
    """Add samples without boxes; their ids. No sample object is kept: FiftyOne would load each again after every write."""
    columns = table.images
    samples = [
        fo.Sample(
            filepath=columns["path"][i],
            metadata=fo.ImageMetadata(width=int(columns["width"][i]), height=int(columns["height"][i])),
            **_sample_fields(table, i),
        )
        for i in rows
    ]
    return dataset.add_samples(samples, dynamic=False, expand_schema=False, validate=False, progress=False)


def _update(dataset: Any, ids: list[str], table: ObjectTable, rows: list[int]) -> None:
    view = dataset.select(ids, ordered=True)
    fields = [_sample_fields(table, i) for i in rows]
    for field in fields[0]:
        view.set_values(field, [of_sample[field] for of_sample in fields])
    for side in ("width", "height"):
        view.set_values(f"metadata.{side}", table.images[side][rows].tolist())


def _sample_fields(table: ObjectTable, i: int) -> dict[str, Any]:
    columns = table.images
    fields = {field: str(columns[field][i]) or None for field in ("source", "domain", "split")}
    return fields | {"annotations": str(columns["file"][i]), "image_id": int(columns["image_id"][i])}


def _write(dataset: Any, ids: list[str], table: ObjectTable, rows: list[int], prints: list[str]) -> None:
    """Write the boxes of samples, then the fingerprints that say they are there."""
    view = dataset.select(ids, ordered=True)
    view.set_values(OBJECTS, [_detections(table, i) for i in rows], validate=False, expand_schema=False)
    view.set_values("objects_fingerprint", [objects_fingerprint(table, i) for i in rows], expand_schema=False)
    view.set_values("fingerprint", prints, expand_schema=False)


def _detections(table: ObjectTable, i: int) -> dict[str, Any]:
    """`fiftyone.Detections` of one image as its database keeps them."""
    from bson import ObjectId

    rows = table.rows(i)
    columns = {name: values[rows] for name, values in table.objects.items()}
    size_wh = np.array([table.images["width"][i], table.images["height"][i]], dtype=np.float64)
    low, high = columns["box"][:, :2] / size_wh, columns["box"][:, 2:] / size_wh
    shown = {"label": columns["category"], "bounding_box": np.concatenate([low, high - low], axis=1)}  # xywh, shares of the image
    shown |= {name: columns[name] for name in ("annotation_id", "size_bin", "density")}
    shown["suspicious"] = np.where(columns["suspicious"] == "", None, columns["suspicious"])
    shown |= {"size_px": columns["size"].astype(float).round(2), "iscrowd": columns["crowd"].astype(int)}
    shown["contrast"] = image_contrast(table, i)[0].astype(float).round(4)
    same = {"_cls": "Detection", "attributes": {}, "source": str(table.images["source"][i])}
    same["domain"] = str(table.images["domain"][i])
    detections = [
        {"_id": ObjectId(), "tags": []} | same | dict(zip(shown, values, strict=True))
        for values in zip(*(column.tolist() for column in shown.values()), strict=True)
    ]
    return {"_cls": "Detections", "detections": detections}


def fingerprint_of(*content: Any) -> str:
    """Twelve bytes, in hex digits, that change with the content."""
    return hashlib.blake2b(repr((_VERSION, *content)).encode(), digest_size=12).hexdigest()


def objects_fingerprint(table: ObjectTable, i: int) -> str:
    """Changes with the boxes, labels or ids of the objects of an image."""
    rows = table.rows(i)
    return fingerprint_of(*(table.objects[name][rows].tolist() for name in ("annotation_id", "box", "category")))


def _fingerprint(table: ObjectTable, i: int) -> str:
    """Changes with the image file and with everything that is written of an image."""
    rows, stat = table.rows(i), os.stat(table.images["path"][i])
    about = [os.path.abspath(c[i]) if name == "file" else str(c[i]) for name, c in table.images.items()]
    parts = [values[rows] for name, values in table.objects.items() if name != "image"]
    content = [part.tolist() if part.dtype == object else part.tobytes() for part in parts]
    return fingerprint_of(stat.st_size, stat.st_mtime_ns, about, content)


def slices(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`rows` in parts of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
