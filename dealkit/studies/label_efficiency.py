"""How much labelling does a detector of small objects need: all boxes, noisy or few boxes, few images, points, or one click?

All rows of the table start from the same ImageNet weights, are trained on the same images for the same steps, and scored
class-agnostic on the same val files. Only the labels differ, and the method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from dealkit.baselines.detector import Detector, load_detector
from dealkit.baselines.methods import label_quality
from dealkit.baselines.scoring import found_agnostic, one_class, pooled_results, reference_rows
from dealkit.baselines.templates import estimate_box, match_box
from dealkit.clicks import make_clicks
from dealkit.config import Budget
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.objects import load_domains
from dealkit.data.subsets import first_images
from dealkit.evaluate.benchmark import row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import PROJECT_ROOT, Json, Results, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.studies.label_rows import ROWS, Row, applies, learned_from, row_run
from dealkit.studies.runs import folder_of, trained
from dealkit.train.loop import read_log


def label_efficiency(
    files: Sequence[Path],
    out: Path,
    *,
    rows: Sequence[Row] = ROWS,
    seeds: int = 1,
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    rates: Mapping[str, float] | None = None,
    results: Path | None = None,
) -> Results:
    """Train and score rows of the table with seeds 0 to `seeds` - 1, seed by seed; those that are finished are kept.

    Args:
        files: `train.json` of every source; `val.json` and `images` lie beside each.
        out: folder of labels and trainings.
        checkpoint: of the row `deal published`; None leaves that row out.
        rates: peak learning rates by model, of `rate_check`; others have that of `TrainConfig`.
        results: JSON of the table, see `files.Results`; None: `results.json` in `out`.

    Returns:
        A row per row of the table and seed: its name as `row`, the fields of `Row`, `seed`, and the numbers of `score_row`.

    Raises:
        ValueError: no files, or a source without `val.json`; names it.
    """
    if not files:
        raise ValueError("files: expected the train.json of at least one source")
    missing = [file.with_name("val.json") for file in files if not file.with_name("val.json").is_file()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file; every train.json needs a val.json beside it")
    rates = dict(rates or {})
    sources = {file.parent.name: [sha_of(file), sha_of(file.with_name("val.json"))] for file in files}
    request = {"sources": sources, **asdict(budget)} | ({"rates": rates} if rates else {})
    made = Results(results or out / "results.json", request)
    chosen = {row.name: row for row in rows if applies(row, files, checkpoint)}
    published = {"checkpoint": sha_of(checkpoint)} if checkpoint else {}
    keys = [{"row": name, "seed": seed} for seed in range(seeds) for name in chosen]
    for key in made.todo([key | (published if "published" in key["row"] else {}) for key in keys], "label efficiency"):
        row = chosen[key["row"]]
        scores = score_row(row, files, out, seed=key["seed"], budget=budget, checkpoint=checkpoint, rate=rates.get(row.model))
        made.rows = [old for old in made.rows if (old["row"], old["seed"]) != (row.name, key["seed"])]  # of another checkpoint
        made.add(key | asdict(row), scores)
    return made


def rate_check(
    files: Sequence[Path],
    out: Path,
    *,
    models: Sequence[str] = ("fcos", "retinanet", "faster_rcnn", "rtdetr", "deal"),
    rates: Sequence[float] = (1e-4, 4e-4, 1e-3),
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    results: Path | None = None,
) -> Results:
    """AP of every model with full labels at several learning rates, on the val files: a row per `model` and `rate`.

    Choice: a detector has the rate that its own recipe needs, RT-DETR above all; others than the best would be a straw man.
    """
    sources = {file.parent.name: sha_of(file) for file in files}
    made = Results(results or out / "rates.json", {"sources": sources, **asdict(budget)})
    for key in made.todo([{"model": model, "rate": rate} for model in models for rate in rates], "learning rates"):
        row = Row("full", key["model"])
        made.add(key, score_row(row, files, out, seed=0, budget=budget, rate=key["rate"]))
    return made


def best_rates(checked: Sequence[Json]) -> dict[str, float]:
    """The learning rate of the highest AP50 for each model, of the rows of `rate_check`.

    >>> best_rates([{"model": "fcos", "rate": 0.1, "ap50": 0.2}, {"model": "fcos", "rate": 0.2, "ap50": 0.3}])
    {'fcos': 0.2}
    """
    best = sorted(checked, key=lambda row: row["ap50"] or 0.0)
    return {row["model"]: row["rate"] for row in best}


def val_parts(files: Sequence[Path], out: Path, budget: Budget, seed: int) -> list[tuple[Json, CocoFolder, Json]]:
    """Ground truth, images and click list of the val file beside every train file: its first `budget.images` images."""
    parts = []
    for val in (train.with_name("val.json") for train in files):
        truth = first_images(read_coco(val), budget.images or None)
        part = out / f"val-{budget.images}" / val.parent.name / "val.json"
        write_json(part, truth)
        clicks = make_clicks(truth, setting="1/category", seed=seed)
        parts.append((truth, CocoFolder(part, val.parent / "images"), clicks))
    return parts


def score_row(
    row: Row,
    files: Sequence[Path],
    out: Path,
    *,
    seed: int,
    budget: Budget,
    checkpoint: Path | None = None,
    rate: float | None = None,
) -> Json:
    """Train a row, or read its finished training, and score it. All rows are scored with the same click list, so that *clicked
    ignored* and *hit* mean the same for those that take no click.

    Returns:
        The numbers of `row_of` for all val files as one data set of one class. `ap50 in <domain>`: the mean over its sources.
        `labels` and `labelled_images` that there are. `drawn_from`: images that crops come from, of a method also those without
        labels. `steps`, `crops` drawn, `passes` over the images, `minutes`: zeros where nothing is trained. `curve`: steps and
        mean AP50 of the sources at every point of the training, if there are any; of a method also `label_curve`: steps,
        precision and recall of the labels that it makes (`methods.label_quality`).
    """
    file, training, crops = checkpoint, {"steps": 0, "minutes": 0.0}, 0
    cost = {"labels": 0, "labelled_images": 0, "drawn_from": 0}
    vals = val_parts(files, out, budget, seed)

    def validate(model: DEAL | Detector) -> dict[str, float]:
        scores = [evaluate(t, found_agnostic(model, d, c, oracle=row.oracle), c, class_agnostic=True)["all"] for t, d, c in vals]
        quality = label_quality(run.method, model, learned) if learned else {}
        return {"val_ap50": mean(each["ap50"] or 0.0 for each in scores)} | quality

    if row.regime != "zero" and row.model != "deal published":
        run, cost = row_run(row, files, out, seed, budget, rate)
        learned = learned_from(run, files, budget.images or 8) if row.method != "plain" and budget.points else []
        folder = folder_of(run, None, out / "runs")
        training, file = trained(run, folder, validate=validate if budget.points else None), folder / "model.safetensors"
        crops = training["steps"] * run.train.batch_size
        points = [line for line in read_log(folder) if "val_ap50" in line]
        if points:
            cost["curve"] = [[line["step"], line["val_ap50"]] for line in points]
        if learned:
            cost["label_curve"] = [[line["step"], line["label_precision"], line["label_recall"]] for line in points]
    model = None if row.model.startswith("template") else (load_model if row.model.startswith("deal") else load_detector)(file)
    scored = []
    for truth, data, clicks in vals:
        if model is None:
            guess = estimate_box if row.model == "template click" else None
            found = one_class(reference_rows(lambda image, boxes, _: match_box(image, boxes), data, clicks, guess=guess))
        else:
            found = found_agnostic(model, data, clicks, oracle=row.oracle)
        scored.append((truth, found, clicks))
    titles = load_domains(PROJECT_ROOT / "data" / "domains.json")
    domains: dict[str, list[float]] = {}
    for file, (truth, found, clicks) in zip(files, scored, strict=True):
        ap50 = evaluate(truth, found, clicks, class_agnostic=True)["all"]["ap50"]
        domains.setdefault(titles.get(file.parent.name, file.parent.name), []).extend([] if ap50 is None else [ap50])
    by_domain = {f"ap50 in {name}": mean(values) if values else None for name, values in sorted(domains.items())}
    cost |= {"steps": training["steps"], "crops": crops, "passes": round(crops / max(cost["drawn_from"], 1), 2)}
    return row_of(pooled_results(scored)) | by_domain | cost | {"minutes": training["minutes"]}
