"""A checkpoint's failures on several data sets: kinds of mistakes per source, causes over all of them, and what observation and
controlled scenes each call the strongest causes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from dealkit.clicks import make_clicks, save_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.coco import CocoFolder
from dealkit.data.objects import image_folder
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import mean_row, per_cent
from dealkit.evaluate.errors import errors_json, find_errors
from dealkit.evaluate.factors import FACTORS, cases, drop, observed, pooled
from dealkit.files import PROJECT_ROOT, Json, provenance, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.predict.predictor import predict_coco


def predictions_of(model: DEAL, file: Path, folder: Path, *, images: int | None = None, seed: int = 0) -> tuple[Path, Path, Path]:
    """Ground truth, predictions and click list of a COCO file, kept in `folder` as `<source>.truth.json`, `<source>.json` and
    `<source>.clicks.json`; what is there is not made again.

    Args:
        file: COCO JSON; images as in `dealkit.data.objects.image_folder`.
        images: at most its first so many. seed: of the clicks, 1/category and centre.

    Returns:
        The three paths.
    """
    paths = tuple(folder / f"{file.parent.name}{end}" for end in (".truth.json", ".json", ".clicks.json"))
    if not all(path.is_file() for path in paths):
        truth = first_images(read_json(file), images)
        clicks = make_clicks(truth, setting="1/category", seed=seed)
        data = CocoFolder(file, image_folder(file), source=file.parent.name)
        found = predict_coco(model, data, [clicks])[0]
        write_json(paths[0], truth)
        save_clicks(clicks, paths[2])
        write_json(paths[1], found)
    return paths  # type: ignore[return-value]


def failure_report(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path,
    *,
    images: int | None = None,
    seed: int = 0,
    folder: Path = PROJECT_ROOT / "data" / "runs" / "failures",
) -> Json:
    """Kinds of mistakes of every source and causes over all; writes and returns the results.

    Args:
        checkpoint: model weights. files: annotation files; images in `images` beside each, the folder's name is the source's.
        out: JSON to write. images: at most so many of each file, None all. seed: of the click lists.
        folder: predictions are kept in a folder of this checkpoint and request below it; a stopped run goes on from there.

    Returns:
        `sources`: name -> `evaluate.errors.errors_json` without its columns, over the objects that were not clicked; `mean`: of
        `ap50`, `without` and `gain` over sources; `observed`: of `factors.observed` over all objects, sources alike.
    """
    sha = sha_of(checkpoint)
    request: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha, "images": images, "seed": seed}
    request |= {"threshold": DEFAULT_THRESHOLD, "setting": "1/category", "kind": "centre", "clicked": "ignored"}
    model: Any = None
    kept = Path(folder) / f"{sha}-{images or 'all'}-{seed}"
    results: Json = {"request": request, "sources": {}}
    parts = []
    for file in tqdm(files, desc="sources", unit="source"):
        model = model or load_model(checkpoint)
        truth, found, clicks = (read_json(path) for path in predictions_of(model, Path(file), kept, images=images, seed=seed))
        errors = find_errors(truth, found, clicks, ignore_clicked=True)
        made = errors_json(errors)
        results["sources"][file.parent.name] = {k: v for k, v in made.items() if k not in ("objects", "detections", "request")}
        parts.append(cases(file, found, clicks, source=file.parent.name, errors=errors))
    rows = list(results["sources"].values())
    results["mean"] = {key: mean_row([row[key] for row in rows]) for key in ("without", "gain")}
    results["mean"] |= mean_row([{"ap50": row["ap50"]} for row in rows])
    results["observed"] = observed(*pooled(parts))
    write_json(out, {**results, "made_by": provenance()})
    return results


def compare(found: Json, set_: Json) -> Json:
    """The strongest causes by observation and by controlled scenes, and whether they agree.

    By observation: the importance of a factor in the model of misses. By controlled scenes: the drop in recall between the
    best and the worst value within the factor's observed range (10 to 90 %), on the axis of the same measurement; over all levels
    where a level is no value of the factor (`truncated`, `click_offset`, and a measurement that does not move).

    Args:
        found: `observed` of `failure_report`. set_: of `dealkit.studies.controlled.controlled`.

    Returns:
        `rows`: factor -> `label`, `importance`, `observed_drop`, `controlled_drop` (None: not known); `observed` and
        `controlled`: the three strongest, strongest first, among the factors that both know; `shared`: in both;
        `rank_correlation`: Spearman's over these factors, None for fewer than three.
    """
    importance = (found["model"] or {"importance": {}})["importance"]
    rows = {}
    for name, label in FACTORS.items():
        of, levels = found["factors"].get(name), set_["factors"].get(name, {"levels": []})["levels"]
        if of is None:
            continue
        measured = [row for row in levels if row["measured"] is not None]
        moves = len({round(row["measured"], 6) for row in measured}) == len(levels) > 1
        if moves and of["range"] is not None and of["range"][0] < of["range"][1] and name != "truncated":
            controlled_drop = drop(measured, of["range"], x="measured")
        else:
            controlled_drop = drop(levels, x="level")
        row = {"label": label, "importance": importance.get(name, {"mean": None})["mean"], "observed_drop": of["drop"]}
        rows[name] = row | {"controlled_drop": controlled_drop}
    both = [n for n, row in rows.items() if row["importance"] is not None and row["controlled_drop"] is not None]
    first = sorted(both, key=lambda n: -rows[n]["importance"])[:3]
    second = sorted(both, key=lambda n: -rows[n]["controlled_drop"])[:3]
    rank = None
    if len(both) > 2:
        values = [[rows[n][key] for n in both] for key in ("importance", "controlled_drop")]
        rank = float(spearmanr(*values).statistic)
    shared = [name for name in first if name in second]
    return {
        "rows": rows,
        "observed": first,
        "controlled": second,
        "shared": shared,
        "rank_correlation": None if rank is None or np.isnan(rank) else rank,
    }


def cause_table(compared: Json) -> str:
    """Markdown of `compare`: a row per factor, the most important first."""

    def cell(value: float | None, scale: float = 100, digits: int = 1) -> str:
        return "–" if value is None else f"{scale * value:.{digits}f}"

    lines = [
        "| factor | importance (AUC) | recall, observed: best − worst bin | recall, controlled: best − worst |",
        "|---" * 4 + "|",
    ]
    rows = sorted(compared["rows"].items(), key=lambda item: -(item[1]["importance"] or 0.0))
    for name, row in rows:
        marks = "".join(f" {mark}" for mark, key in (("◦", "observed"), ("•", "controlled")) if name in compared[key])
        drops = " | ".join(cell(row[key]) for key in ("observed_drop", "controlled_drop"))
        lines.append(f"| {row['label']}{marks} | {cell(row['importance'], 1, 3)} | {drops} |")
    return "\n".join([*lines, "", "◦ one of the three strongest by observation, • by controlled scenes."])


def failure_text(results: Json) -> str:
    """What to print of `failure_report`: mean cost of each kind of mistake, and the factors by importance."""
    mean = results["mean"]
    lines = [f"AP50 {per_cent(mean['ap50'])}, clicked ignored, mean of {len(results['sources'])} sources"]
    lines += [f"without {kind:20} {per_cent(value)}  +{per_cent(mean['gain'][kind])}" for kind, value in mean["without"].items()]
    model = results["observed"]["model"]
    if model is None:
        return "\n".join([*lines, "too few objects or images for a model of misses"])
    share, auc = per_cent(model["missed"]), f"{model['auc']:.3f} ± {model['auc_spread']:.3f}"
    lines.append(f"{share} % of {model['objects']} objects missed; held-out AUC {auc}; importance of")
    factors = results["observed"]["factors"]
    for name, row in model["importance"].items():
        drop_ = "-" if factors[name]["drop"] is None else per_cent(factors[name]["drop"])
        lines.append(f"  {FACTORS[name]:50} {row['mean']:.3f}, recall by bin differs by {drop_}")
    return "\n".join(lines)
