"""Why objects are missed: the factors of every object, recall and AP by factor, and a model of what predicts a miss.

`N` objects, one row each; `F` false detections. An object counts as *shown* if a detection of at least the default score has
found it at IoU 0.5, and as missed otherwise. The objects that were clicked are left out: the user has pointed at them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from tqdm import tqdm

from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.measures import edge_width, mean_colours, ring_spread
from dealkit.data.objects import ObjectTable, image_contrast, read_table
from dealkit.evaluate.errors import FOUND, IGNORED, TRUE, UNCOUNTED, Errors, find_errors, mean_precision
from dealkit.evaluate.matching import Array
from dealkit.files import Json

FACTORS: dict[str, str] = {
    "size": "size, px",
    "contrast": "contrast to the ring around it",
    "nearest": "distance to the nearest of its kind, own sizes",
    "blur": "width of its edges, px",
    "clutter": "spread of grey levels around it",
    "truncated": "touches the border of the image",
    "instances": "objects of its kind in the image",
    "kinds": "kinds in the image",
    "click_offset": "offset of the click in its object, half sides",
    "click_distance": "distance to the nearest click, px",
    "size_step": "size against the clicked object, octaves",
    "colour_step": "colour against the clicked object, 0 to 1",
}
"""Factor of an object -> what it is and its unit, as an axis says it."""


def object_factors(table: ObjectTable, clicks: Json) -> dict[str, Array]:
    """The factors of every object of a table of one COCO file: a column (N,) for each of `FACTORS`, in the table's order.

    Nothing to measure is NaN: `nearest` of an only object, what refers to a click where the kind has none in the image, and
    everything but the size where the image has no click. `clicks`: on the same file; the pixels of the images are read.

    Raises:
        ValueError: an image cannot be read, or a click is on an annotation that the table lacks; names it.
    """
    objects = table.objects
    n = len(objects["image"])
    factors = {name: np.full(n, np.nan) for name in FACTORS}
    place = {int(i): row for row, i in enumerate(objects["annotation_id"].tolist())}
    prompts: dict[tuple[int, str], Json] = {}
    for prompt in clicks["prompts"]:
        clicked = prompt["annotation_ids"][0]
        if clicked not in place:
            raise ValueError(f"clicks: annotation {clicked} is not among the objects of {table.images['file'][0]}")
        prompts[int(objects["image"][place[clicked]]), str(objects["category"][place[clicked]])] = prompt
    for i in tqdm(range(len(table.images["path"])), desc="factors", unit="image", delay=5, leave=False):
        rows = table.rows(i)
        boxes, kinds = objects["box"][rows].astype(np.float64), objects["category"][rows].astype(str)
        if not any((i, kind) in prompts for kind in kinds):
            continue
        factors["contrast"][rows], image = image_contrast(table, i)
        factors["clutter"][rows], factors["blur"][rows] = ring_spread(image, boxes), edge_width(image, boxes)
        colours = mean_colours(image, boxes)
        edge = np.array([table.images["width"][i], table.images["height"][i]])
        factors["truncated"][rows] = (boxes[:, :2] < 1).any(1) | (boxes[:, 2:] > edge - 1).any(1)
        factors["kinds"][rows] = len(set(kinds))
        for kind in sorted(set(kinds)):
            mine = rows.start + np.flatnonzero(kinds == kind)
            asked, here = prompts.get((i, kind)), mine - rows.start
            own = np.searchsorted(mine, [place[a] for a in asked["annotation_ids"]]) if asked else None
            for name, values in _of_kind(boxes[here], objects["size"][mine], colours[here], asked, own).items():
                factors[name][mine] = values
    factors["size"] = objects["size"].astype(np.float64)
    return factors


def _of_kind(boxes: Array, size: Array, colours: Array, asked: Json | None, own: Array | None) -> dict[str, Array]:
    """Factors among the objects of one kind in one image; `own` are the rows that the prompt `asked` points at."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    factors = {"instances": np.full(len(boxes), float(len(boxes)))}
    if len(boxes) > 1:
        factors["nearest"] = cKDTree(centres).query(centres, k=2)[0][:, 1] / np.maximum(size, 1e-6)
    if asked is None:
        return factors
    points = np.array([p for p, label in zip(asked["points"], asked["labels"], strict=True) if label == 1])
    distance, which = cKDTree(points).query(centres)
    which = np.minimum(which, len(own) - 1)
    model = own[which]
    half = np.maximum((boxes[own, 2:] - boxes[own, :2]) / 2, 1e-6)
    offset = (np.abs(points[: len(own)] - centres[own]) / half).max(1)[which]
    factors["click_distance"] = distance
    factors["click_offset"] = np.where(offset < 0.02, 0.0, offset)  # points are rounded to 0.01 px
    factors["size_step"] = np.abs(np.log2(np.maximum(size, 1e-6) / np.maximum(size[model], 1e-6)))
    factors["colour_step"] = np.abs(colours - colours[model]).mean(1)
    return factors


def cases(
    coco: str | Path, predictions: list[Json], clicks: Json, *, source: str | None = None, errors: Errors | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every object that was not clicked, with its factors and what became of it, and every false detection.

    Args:
        coco: COCO file; images in the folder of `dealkit.data.annotations.image_folder`. predictions: made from `clicks`.
        source: default: the folder of the file. errors: of `find_errors` with `ignore_clicked`, where they are known already.

    Returns:
        objects: (N,) each of `FACTORS`, `annotation_id`, `image` ("source/image id"), `source`, `category_id`, `state` (of
        `dealkit.evaluate.errors`), `score` of the detection that has found it (0: none), `shown` (bool) and `weight`; false: (F,)
        `score`, `image`, `source` and `weight`. Weights are 1 / objects of the source, so that all sources count alike.
    """
    source = source or Path(coco).parent.name
    table = read_table([coco])
    errors = errors or find_errors(coco, predictions, clicks, ignore_clicked=True)
    factors = object_factors(table, clicks)
    at = pd.Index(table.objects["annotation_id"]).get_indexer(errors.objects["annotation_id"])
    rows = np.flatnonzero((at >= 0) & (errors.objects["state"] != IGNORED))
    wrong = np.flatnonzero(~np.isin(errors.detections["type"], [TRUE, IGNORED, UNCOUNTED]))

    def about(part: dict[str, Array], chosen: Array) -> dict[str, Array]:
        images = [f"{source}/{i}" for i in part["image_id"][chosen].tolist()]
        same = {"source": np.full(len(chosen), source, dtype=object), "weight": np.full(len(chosen), 1 / max(len(rows), 1))}
        return {"image": np.array(images, dtype=object), **same}

    objects = {name: values[at[rows]] for name, values in factors.items()} | about(errors.objects, rows)
    objects |= {key: errors.objects[key][rows] for key in ("annotation_id", "category_id", "state")}
    objects["score"] = np.where(objects["state"] == FOUND, errors.objects["score"][rows], 0.0)
    objects["shown"] = objects["score"] >= DEFAULT_THRESHOLD
    return objects, {"score": errors.detections["score"][wrong], **about(errors.detections, wrong)}


def pooled(parts: Sequence[tuple[dict[str, Array], dict[str, Array]]]) -> tuple[dict[str, Array], dict[str, Array]]:
    """`cases` of several sources as one."""
    return tuple({key: np.concatenate([part[k][key] for part in parts]) for key in parts[0][k]} for k in (0, 1))  # type: ignore


def normalised_ap(
    score: Array, weight: Array, false_score: Array, false_weight: Array, total: float | None = None
) -> float | None:
    """AP of a subset of the objects, comparable between subsets of any size.

    precision = recall x total / (recall x total + false). For all objects this is AP over the pool.

    Args:
        score: (N,) of the detection that has found each object of the subset; 0 is none. weight: (N,) of each object.
        false_score, false_weight: (F,) of all false detections. total: weight of all objects; None: that of the subset.

    Source: Hoiem, Chodpathumwan, Dai, "Diagnosing Error in Object Detectors", ECCV 2012, section 2.2.

    >>> normalised_ap(np.array([0.9, 0.0]), np.ones(2), np.zeros(0), np.zeros(0))  # recall 0.5 at precision 1
    0.504...
    """
    if not len(score):
        return None
    of_subset = float(weight.sum())
    total = of_subset if total is None else total
    values = np.concatenate([score[score > 0], false_score])
    found = np.concatenate([weight[score > 0], 0 * false_score])
    false = np.concatenate([0 * score[score > 0], false_weight])
    order = np.lexsort((false > 0, -values))
    recall, wrong = np.cumsum(found[order]) / of_subset, np.cumsum(false[order])
    precision = recall * total / np.maximum(recall * total + wrong, 1e-12)
    return mean_precision(recall + 1e-9, precision)


def bin_edges(values: Array, weight: Array | None = None, bins: int = 5) -> Array:
    """Edges of bins of equal weight, the last one included; six or fewer different values have a bin each.

    >>> bin_edges(np.arange(11.0), bins=2).tolist(), bin_edges(np.array([0.0, 0, 0, 1])).tolist()
    ([0.0, 5.0, 10.0], [0.0, 1.0, 1.0])
    """
    weight = np.ones(len(values)) if weight is None else weight
    finite = np.isfinite(values)
    different = np.unique(values[finite])
    if len(different) <= 6:
        return np.append(different, different[-1:])
    return np.unique(np.quantile(values[finite], np.linspace(0, 1, bins + 1), weights=weight[finite], method="inverted_cdf"))


def by_factor(objects: Mapping[str, Array], false: Mapping[str, Array], name: str, bins: int = 5) -> list[Json]:
    """Recall and AP of the objects in each bin of a factor: a row per bin, from low to high; [] where nothing can be measured.

    A row: `low`, `high`, `middle` (median), `objects`, `sources`, `recall` (found at any score), `shown` (at the default
    score), `interval` (95 % of `shown`, images drawn anew 200 times) and `ap50` (of `normalised_ap`).
    """
    values = objects[name].astype(np.float64)
    if not np.isfinite(values).any():
        return []
    edges = bin_edges(values, objects["weight"], bins)
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for k, (low, high) in enumerate(pairwise(edges.tolist())):
        chosen = np.isfinite(values) & (which == k)
        if chosen.any():
            row = {"low": low, "high": high, "middle": float(np.median(values[chosen]))}
            part = {key: column[chosen] for key, column in objects.items()}
            rows.append(row | found_row(part, false, float(objects["weight"].sum())))
    return rows


def found_row(objects: Mapping[str, Array], false: Mapping[str, Array], total: float | None = None) -> Json:
    """How many of these objects are found and shown, and their AP: the numbers of a row of `by_factor`."""
    weight, shown = objects["weight"], objects["shown"]
    shares = {"recall": objects["score"] > 0, "shown": shown}
    return {
        "objects": len(weight),
        "sources": len(set(objects["source"].tolist())),
        **{name: float(np.average(found, weights=weight)) if len(weight) else None for name, found in shares.items()},
        "interval": bootstrap(shown, weight, objects["image"]),
        "ap50": normalised_ap(objects["score"], weight, false["score"], false["weight"], total),
    }


def bootstrap(found: Array, weight: Array, groups: Array, *, draws: int = 200, seed: int = 0) -> list[float] | None:
    """95 % interval of a weighted mean when whole groups (images) are drawn anew; None for fewer than two groups."""
    names, index = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    top, bottom = (np.bincount(index, values, minlength=len(names)) for values in (weight * found, weight))
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return np.quantile((times @ top) / np.maximum(times @ bottom, 1e-12), [0.025, 0.975]).tolist()


def drop(rows: Sequence[Json], at: Sequence[float] | None = None, x: str = "middle") -> float | None:
    """How much recall (`shown`) a factor takes away between its best and its worst place; None for fewer than two rows.

    Args:
        at: two values of the factor: only what lies between them counts, straight lines between the rows.

    >>> drop([{"middle": 1, "shown": 0.5}, {"middle": 3, "shown": 0.9}], at=(2, 3))
    0.2...
    """
    rows = sorted((row for row in rows if row["shown"] is not None), key=lambda row: row[x])
    if len(rows) < 2:
        return None
    places, shown = np.array([row[x] for row in rows]), np.array([row["shown"] for row in rows])
    if at is not None:
        inside = places[(places > at[0]) & (places < at[1])]
        shown = np.interp(np.concatenate([[at[0]], inside, [at[1]]]), places, shown)
    return float(shown.max() - shown.min())


def miss_model(objects: Mapping[str, Array], *, folds: int = 4, repeats: int = 3, seed: int = 0) -> Json | None:
    """What predicts a miss: gradient boosting on the factors, scored on images that it has not seen.

    The importance of a factor is the loss of held-out ROC AUC when its values are shuffled; factors that say the same share it.

    Returns:
        `objects`, `missed` (weighted share), `folds`, `auc` (mean over folds), `auc_spread`, and `importance`: factor ->
        `mean` and `spread` over folds, the most important first. None with fewer than 20 objects missed or shown, or fewer
        images than folds.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    missed, groups = ~objects["shown"], objects["image"].astype(str)
    if min(missed.sum(), (~missed).sum()) < 20 or len(set(groups)) < folds:
        return None
    names = [name for name in FACTORS if len(np.unique(objects[name][np.isfinite(objects[name].astype(float))])) > 1]
    table = np.stack([objects[name].astype(np.float64) for name in names], axis=1)
    weight = objects["weight"] * len(missed) / objects["weight"].sum()
    aucs, importances = [], []
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(table, missed, groups)
    for train, test in tqdm(splits, total=folds, desc="what predicts a miss", unit="fold", delay=5, leave=False):
        if len(set(missed[test])) < 2 or len(set(missed[train])) < 2:
            continue
        model = HistGradientBoostingClassifier(
            max_iter=80, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=30, l2_regularization=1.0, random_state=seed
        ).fit(table[train], missed[train], sample_weight=weight[train])
        aucs.append(roc_auc_score(missed[test], model.predict_proba(table[test])[:, 1], sample_weight=weight[test]))
        options: dict[str, Any] = {
            "scoring": "roc_auc",
            "n_repeats": repeats,
            "random_state": seed,
            "sample_weight": weight[test],
        }
        importances.append(permutation_importance(model, table[test], missed[test], **options).importances_mean)
    if not aucs:
        return None
    means, spreads = np.mean(importances, axis=0), np.std(importances, axis=0)
    order = np.argsort(-means)
    about = {"objects": len(missed), "missed": float(np.average(missed, weights=weight)), "folds": len(aucs)}
    return about | {
        "auc": float(np.mean(aucs)),
        "auc_spread": float(np.std(aucs)),
        "importance": {names[k]: {"mean": float(means[k]), "spread": float(spreads[k])} for k in order},
    }


def observed(objects: Mapping[str, Array], false: Mapping[str, Array], bins: int = 5) -> Json:
    """Bins, range and drop of every factor, and the model: the observed half of a failure analysis, ready for JSON.

    `factors`: name -> `label`, `range` (10 and 90 % quantile), `bins` (`by_factor`), `drop`; `model`: of `miss_model`.
    """
    factors = {}
    for name, label in FACTORS.items():
        values = objects[name].astype(np.float64)
        finite, rows = np.isfinite(values), by_factor(objects, false, name, bins)
        weights = {"weights": objects["weight"][finite], "method": "inverted_cdf"}
        span = np.quantile(values[finite], [0.1, 0.9], **weights).tolist() if rows else None
        factors[name] = {"label": label, "range": span, "bins": rows, "drop": drop(rows)}
    return {"all": found_row(objects, false), "factors": factors, "model": miss_model(objects)}
