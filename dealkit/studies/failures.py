"""Why does the model miss what it misses? Kinds of mistakes per source, causes over all sources, and whether scenes in which
one factor is set at a time (`dealkit.studies.controlled`) name the same causes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from dealkit.clicks import make_clicks, save_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import first_images
from dealkit.evaluate.errors import FOUND, IGNORED, MISSED, OTHER, Errors, errors_json, find_errors
from dealkit.evaluate.factors import FACTORS, cases, drop, observed, pooled
from dealkit.files import PROJECT_ROOT, Json, Results, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.predict.predictor import predict_coco
from dealkit.studies.controlled import flat_row


def predictions_of(model: DEAL, file: Path, folder: Path, *, images: int | None = None, seed: int = 0) -> tuple[Path, Path, Path]:
    """Ground truth, predictions and click list of a COCO file, kept in `folder` as `<source>.truth.json`, `<source>.json` and
    `<source>.clicks.json`; what is there is not made again.

    Args:
        file: COCO JSON; images as in `dealkit.data.annotations.image_folder`.
        images: at most its first so many. seed: of the clicks, 1/category and centre.
    """
    truth_file, found_file, clicks_file = (folder / f"{file.parent.name}{end}.json" for end in (".truth", "", ".clicks"))
    if not all(path.is_file() for path in (truth_file, found_file, clicks_file)):
        truth = first_images(read_coco(file), images)
        clicks = make_clicks(truth, setting="1/category", seed=seed)
        data = CocoFolder(file, source=file.parent.name)
        write_json(truth_file, truth)
        save_clicks(clicks, clicks_file)
        write_json(found_file, predict_coco(model, data, [clicks])[0])
    return truth_file, found_file, clicks_file


def failure_report(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path | None,
    *,
    images: int | None = None,
    seed: int = 0,
    bins: int = 5,
    folder: Path = PROJECT_ROOT / "data" / "runs" / "failures",
) -> Results:
    """Kinds of mistakes of every source, and recall against every factor over all of them, sources alike.

    Args:
        checkpoint: model weights. files: annotation files; the folder's name is the source's.
        out: JSON to write. A finished one of the same request is returned as it is.
        images: at most so many of each file, None all. seed: of the click lists. bins: of each factor.
        folder: predictions are kept in a folder of this checkpoint and request below it; a stopped run goes on from there.

    Returns:
        Rows by their `part`, over the objects that were not clicked. `source`: `ap50` and, nested, `gain` of mending each kind of
        mistake, `counts`, `counts_shown` (at the default score), `states` of objects, `confusion`. `bin`: of a factor, as in
        `evaluate.factors.by_factor`. `factor`: `range_low` and `range_high` (10 and 90 % of the objects), `importance` and
        `importance_std` (None where no model of misses could be fitted). `all`: every object together, `missed` and `auc`.
    """
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "images": images, "seed": seed, "bins": bins}
    request |= {"threshold": DEFAULT_THRESHOLD, "setting": "1/category", "kind": "centre", "clicked": "ignored"}
    results = Results(out, request | {"sources": [Path(file).parent.name for file in files]})
    if results.rows:
        return results
    model, parts, rows = load_model(checkpoint), [], []
    kept = Path(folder) / f"{request['sha256']}-{images or 'all'}-{seed}"
    for file in tqdm([Path(file) for file in files], desc="sources", unit="source"):
        truth, found, clicks = (read_json(path) for path in predictions_of(model, file, kept, images=images, seed=seed))
        errors = find_errors(truth, found, clicks, ignore_clicked=True)
        made = errors_json(errors)
        shown = {kind: count for kind, count in made["shown"].items() if kind != "min_score"}
        row = {"part": "source", "source": file.parent.name} | {key: made[key] for key in ("ap50", "gain", "counts")}
        rows.append(row | {"counts_shown": shown, "states": made["states"], "confusion": made["confusion"]})
        parts.append(cases(file, found, clicks, source=file.parent.name, errors=errors))
    results.add({}, *rows, *factor_rows(observed(*pooled(parts), bins)))
    return results


def factor_rows(made: Json) -> list[Json]:
    """Rows of `evaluate.factors.observed`: of each factor its bins and itself, then of all objects together."""
    model = made["model"] or {"importance": {}}
    rows: list[Json] = []
    for name, of in made["factors"].items():
        rows += [{"part": "bin", "factor": name, **flat_row(row)} for row in of["bins"]]
        low, high = of["range"] or (None, None)
        weight = model["importance"].get(name, {})
        row = {"part": "factor", "factor": name, "range_low": low, "range_high": high, "importance": weight.get("mean")}
        rows.append(row | {"importance_std": weight.get("spread")})
    numbers = {"auc_std": model.get("auc_spread")} | {key: model.get(key) for key in ("auc", "missed", "folds")}
    return [*rows, {"part": "all", **flat_row(made["all"]), **numbers}]


def worst_cases(errors: Errors, truth: Json, found: list[Json], clicks: Json, kind: str, *, most: int = 6) -> list[Json]:
    """The worst cases of a kind of mistake, one of each image and category, for `dealkit.figures.draw_cases`.

    Args:
        errors: of `find_errors` with `truth`, `found` and `clicks`.
        kind: `missed` for objects that are not shown, the largest first, or a type of shown detections, the strongest first.

    Returns:
        per case `file_name`, `wanted` (clicked category), `point` (the click), `box` (the object or detection), its `score`,
        `objects` of the category and `shown` detections (all xywh), and `got`, the category that the detection lies on, or None.
    """
    boxes, files = ({row["id"]: row[key] for row in truth[of]} for of, key in (("annotations", "bbox"), ("images", "file_name")))
    names = {row["id"]: row["name"] for row in errors.categories}
    prompts, made = {(p["image_id"], p["category_id"]): p["points"][0] for p in clicks["prompts"]}, []
    table = pd.DataFrame(errors.objects if kind == MISSED else errors.detections)
    if kind == MISSED:
        table["box"] = table["annotation_id"].map(boxes)
        table["badness"] = [w * h for _, _, w, h in table["box"]]
        table = table[(table["state"] != IGNORED) & ((table["state"] != FOUND) | (table["score"] < DEFAULT_THRESHOLD))]
    else:
        table["box"], table["badness"] = [row["bbox"] for row in found], table["score"]
        table = table[(table["type"] == kind) & (table["score"] >= DEFAULT_THRESHOLD)]
    table = table.sort_values("badness", ascending=False, kind="stable").drop_duplicates(["image_id", "category_id"])
    for row in table.to_dict("records"):
        pair = row["image_id"], row["category_id"]
        if pair in prompts and len(made) < most:
            case = {"file_name": files[pair[0]], "wanted": names[pair[1]], "point": prompts[pair], "box": row["box"]}
            of, theirs = (
                [r for r in rows if (r["image_id"], r["category_id"]) == pair] for rows in (truth["annotations"], found)
            )
            case |= {"objects": [r["bbox"] for r in of], "score": None if kind == MISSED else row["score"]}
            case["got"] = names[errors.objects["category_id"][row["object"]].item()] if kind == OTHER else None
            made.append(case | {"shown": [r["bbox"] for r in theirs if r["score"] >= DEFAULT_THRESHOLD]})
    return made


def compare_causes(observed: Sequence[Json], controlled: Sequence[Json]) -> pd.DataFrame:
    """What each factor costs by observation and by controlled scenes.

    Args:
        observed: rows of `failure_report`. controlled: rows of `dealkit.studies.controlled.controlled_scenes`.

    Returns:
        A row per factor, the most important first: `factor`, `label`, `importance` in the model of misses, `observed_drop` in
        recall between the best and the worst bin, `controlled_drop` between the best and the worst level; NaN where not known.
        The latter within the range that objects have, on the axis of the same measurement; over all levels where the
        measurement does not move with them, where the objects have one value, and of `truncated`, which is yes or no.
    """
    rows = []
    for of in (row for row in observed if row["part"] == "factor"):
        name, span = of["factor"], (of["range_low"], of["range_high"])
        bins = [row for row in observed if row["part"] == "bin" and row["factor"] == name]
        levels = [row for row in controlled if row["part"] == "level" and row["factor"] == name]
        measured = [row for row in levels if row["measured"] is not None]
        moves = len({round(row["measured"], 6) for row in measured}) == len(levels) > 1
        within = moves and span[0] is not None and span[0] < span[1] and name != "truncated"
        made = drop(measured, span, x="measured") if within else drop(levels, x="level")
        row = {"factor": name, "label": FACTORS[name], "importance": of["importance"], "observed_drop": drop(bins)}
        rows.append(row | {"controlled_drop": made})
    numbers = dict.fromkeys(("importance", "observed_drop", "controlled_drop"), float)
    return pd.DataFrame(rows).astype(numbers).sort_values("importance", ascending=False, kind="stable", ignore_index=True)
