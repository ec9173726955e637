"""What is in a data set, object by object: size, local density, contrast, suspicious boxes; and their sums by domain.

`M` images, `N` objects, one row each; `H`, `W` image height and width. Boxes are xyxy pixels of the image as stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dealkit.boxes import SIZE_BINS
from dealkit.data.coco import NOT_STATED, SPLIT_NAMES, CocoFolder
from dealkit.data.images import read_image
from dealkit.data.measures import SUSPICIOUS, THUMBNAIL, box_sizes, local_density, ring_contrast, suspicious_boxes
from dealkit.files import read_json

LOW_CONTRAST = 0.05
"""Contrast, of 0..1, under which an object hardly differs from what is around it."""
CROWDED = 5
"""Other objects within `DENSITY_RADIUS` from which an object counts as crowded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectTable:
    """Columns of M images and N objects; the pixels stay on disk."""

    images: dict[str, NDArray]
    """`file` (annotation file), `path` (image file), `image_id`, `source`, `domain`, `split` (train, val, test or empty),
    `width`, `height`; (M,) each."""
    objects: dict[str, NDArray]
    """`image` (row of `images`, ascending), `box` (N, 4) float32, `annotation_id`, `category` (name), `crowd` (bool), `size`
    (float32 pixels, square root of the area), `size_bin` (key of `SIZE_BINS`), `density`, `suspicious` (reasons joined by
    commas, or empty); (N,) each where not stated."""

    def rows(self, image: int) -> slice:
        """Rows of `objects` that belong to row `image` of `images`."""
        return slice(*np.searchsorted(self.objects["image"], [image, image + 1]).tolist())

    def of_image(self, column: str) -> NDArray:
        """A column of `images`, repeated for every object: (N,)."""
        return self.images[column][self.objects["image"]]


def load_domains(path: str | Path) -> dict[str, str]:
    """Source -> domain, from a JSON object.

    Raises:
        ValueError: no such file, not JSON, or something but text in it; names file and source.
    """
    try:
        domains = read_json(Path(path))
    except OSError:
        raise ValueError(f"{path}: no such file of domains") from None
    wrong = [name for name, domain in domains.items() if not isinstance(domain, str)] if isinstance(domains, dict) else ["file"]
    if wrong:
        raise ValueError(f'{path}: {wrong[0]}: expected an object {{"source": "domain"}} of texts')
    return domains


def read_table(files: Sequence[str | Path], domains: Mapping[str, str] | None = None) -> ObjectTable:
    """All images and objects of COCO files as columns; no image is opened.

    An image record may name its `source` and `domain`. Otherwise the source is the folder of the file and the domain that of
    the source in `domains`, or `NOT_STATED`.

    Args:
        files: COCO JSON; images as in `dealkit.data.annotations.image_folder`.
        domains: source -> domain.

    Raises:
        ValueError: a file has a problem (see `CocoFolder`); names it.

    >>> import tempfile
    >>> from dealkit.data.scenes.scene import write_coco
    >>> table = read_table([write_coco(Path(tempfile.mkdtemp(), "scenes"), 2, size=64)])
    >>> table.images["source"].tolist(), set(table.objects["size_bin"].tolist()) <= set(SIZE_BINS)
    (['scenes', 'scenes'], True)
    """
    if not files:
        raise ValueError("files: expected at least one COCO JSON")
    parts = [_read_file(Path(file), domains or {}) for file in files]
    starts = np.cumsum([0, *(len(images["path"]) for images, _ in parts)])
    for (_, objects), start in zip(parts, starts, strict=False):
        objects["image"] = objects["image"] + start
    images, objects = ({name: np.concatenate([part[k][name] for part in parts]) for name in parts[0][k]} for k in (0, 1))
    objects["size"] = box_sizes(objects["box"])
    edges = np.sqrt([high for _, high in SIZE_BINS.values()])
    objects["size_bin"] = np.array(list(SIZE_BINS))[np.searchsorted(edges[:-1], objects["size"])]
    clear = ~objects["crowd"]
    objects["density"] = local_density(objects["box"], objects["image"], counted=clear)
    table = ObjectTable(images=images, objects=objects)
    kinds = np.char.add(np.char.add(table.of_image("source").astype(str), "/"), objects["category"].astype(str))
    sizes_wh = np.stack([table.of_image("width"), table.of_image("height")], axis=1)
    objects["suspicious"] = suspicious_boxes(objects["box"], objects["image"], kinds, sizes_wh)
    return table


def _read_file(file: Path, domains: Mapping[str, str]) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    folder = CocoFolder(file)
    more = {record["id"]: record for record in read_json(file)["images"]}
    sources = [str(more[i].get("source") or folder.source) for i in folder.image_ids]
    places = [str(more[i].get("domain") or domains.get(s, NOT_STATED)) for i, s in zip(folder.image_ids, sources, strict=True)]
    split = file.stem if file.stem in SPLIT_NAMES else ""
    counts = [folder.rows(i).stop - folder.rows(i).start for i in range(len(folder))]
    images = {
        "file": np.array([str(file)] * len(folder), dtype=object),
        "path": np.array([str((folder.images / name).resolve()) for name in folder.file_names], dtype=object),
        "image_id": np.array(folder.image_ids, dtype=np.int64),
        "source": np.array(sources, dtype=object),
        "domain": np.array(places, dtype=object),
        "split": np.array([str(more[i].get("split") or split) for i in folder.image_ids], dtype=object),
        "width": np.array([w for _, w in folder.sizes_hw], dtype=np.int64),
        "height": np.array([h for h, _ in folder.sizes_hw], dtype=np.int64),
    }
    names = np.array([name for _, name in folder.categories] or [""], dtype=object)
    objects = {
        "image": np.repeat(np.arange(len(folder)), counts),
        "box": folder.boxes.numpy(),
        "annotation_id": folder.annotation_ids.numpy(),
        "category": names[folder.labels.numpy()],
        "crowd": folder.crowd.numpy(),
    }
    return images, objects


def read_pixels(table: ObjectTable) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Contrast of every object (N,), and a grey thumbnail of every image (M, 32, 32); each image is decoded once.

    Raises:
        ValueError: an image cannot be read, or has another size than its file says; names it.
    """
    contrast = np.zeros(len(table.objects["image"]), np.float32)
    thumbnails = np.zeros((len(table.images["path"]), THUMBNAIL, THUMBNAIL), np.uint8)
    for i in tqdm(range(len(thumbnails)), desc="contrast", unit="image", delay=3, leave=False):
        rows = table.rows(i)
        contrast[rows], image = image_contrast(table, i)
        grey = torch.from_numpy(image).float().mean(2)[None, None]
        thumbnails[i] = torch.nn.functional.interpolate(grey, (THUMBNAIL, THUMBNAIL), mode="area")[0, 0].byte().numpy()
    return contrast, thumbnails


def image_contrast(table: ObjectTable, i: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Contrast of the objects of image `i`, and its pixels (H, W, 3) uint8.

    Raises:
        ValueError: it cannot be read, or has another size than its file says; names it.
    """
    path, stated = table.images["path"][i], (table.images["height"][i], table.images["width"][i])
    image = np.ascontiguousarray(read_image(path).permute(1, 2, 0).numpy())
    if image.shape[:2] != stated:
        found, stated = (f"{w} x {h}" for h, w in (image.shape[:2], stated))
        raise ValueError(f"{path}: image {table.images['image_id'][i]}: width, height: stated {stated}, the file has {found}")
    return ring_contrast(image, table.objects["box"][table.rows(i)]), image


def summary(table: ObjectTable, contrast: NDArray) -> dict[str, Any]:
    """What is in a data set, ready for JSON: totals, and the same by domain and by source.

    Every part has `images`, `objects` (`crowd` ones apart, which enter no other figure), `categories`, `size_mean` and
    `size_quantiles` in pixels, `size_bins` (shares), `density_mean` and `density_quantiles` (others within 32 px),
    `contrast_quantiles` (0..1), `low_contrast` and `crowded` (shares), `suspicious` (reason -> boxes). Quantiles are those at
    5, 25, 50, 75 and 95 %. A domain has its `sources`; a source has its `domain`, `splits` and `objects_of` each category.

    Args:
        table: of `read_table`.
        contrast: (N,) of `read_pixels`.
    """
    domain, source = table.images["domain"], table.images["source"]
    parts: dict[str, Any] = {"total": _part(table, contrast, np.ones(len(domain), bool)), "domains": {}, "sources": {}}
    for name in sorted(set(domain)):
        chosen = domain == name
        parts["domains"][name] = {"sources": sorted(set(source[chosen]))} | _part(table, contrast, chosen)
    for name in sorted(set(source)):
        chosen = source == name
        names, counts = np.unique(table.images["split"][chosen].astype(str), return_counts=True)
        extra = {"domain": str(domain[chosen][0]), "splits": dict(zip(names.tolist(), counts.tolist(), strict=True))}
        rows = chosen[table.objects["image"]] & ~table.objects["crowd"]
        kinds, counts = np.unique(table.objects["category"][rows].astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        extra["objects_of"] = dict(zip(kinds[order].tolist(), counts[order].tolist(), strict=True))
        parts["sources"][name] = extra | _part(table, contrast, chosen)
    return parts


def _part(table: ObjectTable, contrast: NDArray, images: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of the chosen images, (M,) bool."""
    objects, here = table.objects, images[table.objects["image"]]
    rows = here & ~objects["crowd"]
    n = int(rows.sum())
    size, density, contrast = objects["size"][rows], objects["density"][rows], contrast[rows]
    reasons = [reason for text in objects["suspicious"][rows] if text for reason in text.split(", ")]
    kinds = np.char.add(np.char.add(table.of_image("source")[rows].astype(str), "/"), objects["category"][rows].astype(str))

    def quantiles(values: NDArray, digits: int) -> list[float] | None:
        return np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).round(digits).tolist() if n else None

    return {
        "images": int(images.sum()),
        "objects": n,
        "crowd": int(here.sum()) - n,
        "categories": len(np.unique(kinds)),
        "size_mean": round(float(size.mean()), 2) if n else None,
        "size_quantiles": quantiles(size.astype(np.float64), 2),
        "size_bins": {name: round(float((objects["size_bin"][rows] == name).mean()), 4) if n else None for name in SIZE_BINS},
        "density_mean": round(float(density.mean()), 2) if n else None,
        "density_quantiles": quantiles(density, 1),
        "contrast_quantiles": quantiles(contrast.astype(np.float64), 4),
        "low_contrast": round(float((contrast < LOW_CONTRAST).mean()), 4) if n else None,
        "crowded": round(float((density >= CROWDED).mean()), 4) if n else None,
        "suspicious": {reason: reasons.count(reason) for reason in SUSPICIOUS},
    }


def neighbour_shares(vectors: NDArray, values: Mapping[str, NDArray], image: NDArray) -> dict[str, dict[str, float | None]]:
    """How often the object most like each of K (largest cosine) has the same domain, source or kind.

    Args:
        vectors: (K, D), not zero.
        values: name -> value of each object, (K,). image: (K,), the image of each.

    Returns:
        name -> `same`, `chance` (two objects drawn at random) and `elsewhere`: the most similar one of another image, for values
        that several images have; None if there are none. All are shares, 0 to 1.

    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> neighbour_shares(vectors, {"kind": np.array(["a", "a", "b", "b"])}, np.array([0, 0, 1, 2]))
    {'kind': {'same': 1.0, 'elsewhere': 1.0, 'chance': 0.5}}
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T - 3 * np.eye(len(unit), dtype=unit.dtype)
    far = np.where(image[:, None] == image, -2, likeness).argmax(1)
    shares: dict[str, dict[str, float | None]] = {}
    for name, value in values.items():
        alike = value[:, None] == value
        several = (alike & (image[:, None] != image)).any(1)
        shares[name] = {
            "same": round(float((value[likeness.argmax(1)] == value).mean()), 3),
            "elsewhere": round(float((value[far] == value)[several].mean()), 3) if several.any() else None,
            "chance": round(float(alike.mean()), 3),
        }
    return shares
