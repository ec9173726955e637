"""The label-efficient benchmark: detectors under every regime, template matching, and DEAL with one click, on equal terms.

One sweep is one data set: a folder with one run per row and seed, and one results file for the whole table. What is finished is
not run again, what was cut off goes on. All rows are trained on the same images for the same steps and minutes, by the same loop,
and scored class-agnostic by the same evaluator on the same val files; only the labels differ, and the method.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dealkit.baselines.detector import Detector, load_detector
from dealkit.baselines.methods import train_with
from dealkit.baselines.scoring import agnostic_rows, category_rows, detect_coco, one_class, reference_rows
from dealkit.baselines.templates import match_box
from dealkit.clicks import make_clicks
from dealkit.config import (
    DETECTORS,
    MODELS,
    Budget,
    DataConfig,
    DetectorConfig,
    DetectorRun,
    MethodConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
)
from dealkit.data.coco import CocoFolder
from dealkit.data.objects import load_domains
from dealkit.data.regimes import apply_regime, for_training
from dealkit.data.scenes.domains import DOMAINS
from dealkit.evaluate.benchmark import mean_row, row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import PROJECT_ROOT, Json, provenance, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import predict_coco
from dealkit.train.deal import fit

Scored = tuple[Json, list[Json], Json]
"""Ground truth, predictions and click list of one source."""

STRIDE = 10**7
"""Ids of source k are moved by k times this, so that many sources are one data set."""


@dataclass(frozen=True)
class Row:
    """One row of the table: what is trained, on which labels."""

    regime: str
    """A key of `regimes.REGIMES`."""
    model: str
    """A detector of `config.DETECTORS`; `deal`: trained here with the same budget, then one click per category; in the regime
    `zero` both are what training starts from; `deal published`: the checkpoint, with one click per category; `template box`,
    `template click`: not trained."""
    method: str = "plain"
    """A method of `config.METHODS`."""
    oracle: bool = False
    """The detector tells categories apart, and detections of those an image lacks are dropped: what a click tells it, too."""

    @property
    def name(self) -> str:
        """
        >>> Row("noise40", "fcos", "label_correction").name
        'noise40 fcos label_correction'
        """
        return " ".join([self.regime, self.model, *([] if self.method == "plain" else [self.method]), *["oracle"] * self.oracle])

    @property
    def trained(self) -> bool:
        """Whether there is anything to train: a network and labels."""
        return self.regime != "zero" and (self.model in DETECTORS or self.model == "deal")


ROWS: tuple[Row, ...] = (
    *(Row("full", detector) for detector in ("retinanet", "faster_rcnn", "fcos", "rtdetr")),
    Row("full", "fcos", oracle=True),
    *(Row(f"noise{n}", "fcos", method) for n in (20, 40) for method in ("plain", "label_correction")),
    *(Row(f"semi{n}", "fcos", method) for n in (1, 5, 10) for method in ("plain", "mean_teacher")),
    *(Row(f"sparse{n}", "fcos", method) for n in (1, 3, 5) for method in ("plain", "mining")),
    *(Row("point", "fcos", method) for method in ("plain", "point_teacher")),
    Row("zero", "template box"),
    Row("zero", "template click"),
    *(Row("zero", model) for model in ("fcos", "rtdetr", "deal")),
    Row("full", "deal"),
    Row("full", "deal published"),
)
"""The table from full labels to one click, in the order of the paper's; DEAL last."""


def run_rows(
    files: Sequence[Path],
    out: Path,
    *,
    rows: Sequence[Row] = ROWS,
    seeds: int = 1,
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    init: Mapping[str, Path] | None = None,
    results: Path | None = None,
) -> Json:
    """Run rows of the table with seeds 0 to `seeds` - 1, seed by seed; returns and writes all rows that are finished.

    Args:
        files: `train.json` of every source; `val.json` and `images` lie beside each.
        out: folder of the runs.
        checkpoint: of the row `deal published`; None leaves that row out.
        init: checkpoints by model that its rows start from, trained on none of the labels; a model without one starts from random
            weights. Choice: where the budget is small, a teacher that starts from nothing has nothing to teach. May be left out
            when no row takes any, as for a new `checkpoint` in a finished table.
        results: JSON to write after every row: `request`, `rows`, `made_by`. Rows that it holds of other runs with the same
            request are kept, so a table can be made in pieces.

    Raises:
        ValueError: no files, a source without `val.json`, or `results` of another request; names it.
    """
    if not files:
        raise ValueError("files: expected the train.json of at least one source")
    missing = [file.with_name("val.json") for file in files if not file.with_name("val.json").is_file()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file; every train.json needs a val.json beside it")
    init = dict(init or {})
    request = {"sources": data_of(files), **asdict(budget)}
    if init:
        request["init"] = {model: sha_of(path) for model, path in sorted(init.items())}
    summary: Json = {"request": request, "rows": []}
    if results is not None and results.is_file():
        summary = read_json(results)
        if not init and not any(takes_start(row) for row in rows):
            request |= {key: value for key, value in summary["request"].items() if key == "init"}
        if summary["request"] != request:
            raise ValueError(f"{results}: made with other sources or another budget; choose another file")
    names = [row.name for row in (*ROWS, *(row for row in rows if row not in ROWS))]
    for seed, row in tqdm([(seed, row) for seed in range(seeds) for row in rows], desc="label efficiency", unit="row"):
        if not applies(row, files, checkpoint, init):
            continue
        made = {
            "row": row.name,
            **asdict(row),
            "seed": seed,
            **run_row(row, files, out, seed=seed, budget=budget, checkpoint=checkpoint, init=init.get(row.model)),
        }
        others = [r for r in summary["rows"] if (r["row"], r["seed"]) != (row.name, seed)]
        summary["rows"] = sorted([*others, made], key=lambda r: (names.index(r["row"]) if r["row"] in names else 99, r["seed"]))
        summary["made_by"] = provenance()
        if results is not None:
            write_json(results, summary)
    return summary


def takes_start(row: Row) -> bool:
    """Whether a row may begin from weights that are given: what is trained, and the start itself."""
    return row.trained or (row.regime == "zero" and not row.model.startswith("template"))


def applies(row: Row, files: Sequence[Path], checkpoint: Path | None, init: Collection[str] = ()) -> bool:
    """Whether a row can be run: a published checkpoint needs a file, and a network without any label one that it starts from;
    categories that are told apart must be those of the val files, which procedural scenes, each with categories of its own,
    cannot give."""
    if row.model == "deal published":
        return checkpoint is not None
    if row.regime == "zero" and takes_start(row):
        return row.model in init
    if not row.oracle:
        return True
    train, val = ({c["name"] for f in files for c in read_json(f.with_name(f"{s}.json"))["categories"]} for s in ("train", "val"))
    return val <= train


def run_row(
    row: Row,
    files: Sequence[Path],
    out: Path,
    *,
    seed: int,
    budget: Budget,
    checkpoint: Path | None = None,
    init: Path | None = None,
) -> Json:
    """Train and score one row, or read what it left.

    Returns:
        `metrics`, of `report.row_of` for all val files as one data set, one class; `domains`, the mean AP50 over the sources of
        each; `cost`: `labels` and `labelled_images` that there are, images that crops are `drawn_from` (of a method also those
        without labels), `images` drawn, `passes` over them, `minutes`, and `steps`; zeros where nothing is trained.
    """
    entries, cost, run = (), {"labels": 0, "labelled_images": 0, "drawn_from": 0}, None
    if row.trained:
        entries, cost = write_regime(row, files, out, seed)
        run = make_run(row, entries, files, seed, budget)
    key = {"row": asdict(row), "seed": seed, "budget": asdict(budget), "files": data_of(files)}
    if row.model == "deal published":
        key["checkpoint"] = sha_of(checkpoint)
    if init is not None:
        key["init"] = sha_of(init)
    folder = out / "runs" / f"{row.name.replace(' ', '-')}-{seed}-{digest(key)}"
    if (folder / "results.json").is_file():
        return read_json(folder / "results.json")
    log: list[Json] = []
    if isinstance(run, RunConfig):
        log = fit(run, folder, resume=(folder / "state.pt").is_file(), init=init)
    elif run is not None:
        log = train_with(run, folder, resume=(folder / "state.pt").is_file(), init=init)
    start = checkpoint if row.model == "deal published" else init
    model = load_row(row, folder / "model.safetensors" if row.trained else start)
    scored = [score_source(row, model, val_file(file, out, budget.images), file.parent / "images", seed) for file in files]
    steps = max((line["step"] for line in log), default=0)
    drawn = steps * budget.batch_size
    cost |= {"steps": steps, "images": drawn, "passes": round(drawn / max(cost["drawn_from"], 1), 2)}
    cost["minutes"] = max((line["minutes"] for line in log), default=0.0)
    made = {"metrics": row_of(pooled(scored)), "domains": by_domain(files, scored), "cost": cost}
    write_json(folder / "results.json", made)
    (folder / "state.pt").unlink(missing_ok=True)  # much that nothing needs any more
    return made


def write_regime(row: Row, files: Sequence[Path], out: Path, seed: int) -> tuple[tuple[str, ...], Json]:
    """The labels of a regime as files, once; gives them as entries of `DataConfig.coco`, and how many labels and images they are.

    A plain detector is shown the labelled images only; a method also the unlabelled, covered by a crowd box. Choice: those are
    entries of their own, so that half of the crops show labels however few there are, as Soft Teacher mixes its batches.
    """
    entries, labels, images, drawn_from = [], 0, 0, 0
    for file in files:
        made = apply_regime(read_json(file), row.regime, seed=seed)
        labels += sum(not (r.get("iscrowd") or r.get("ignore")) for r in made["annotations"])
        images += len(made["images"])
        parts = {"": {key: value for key, value in made.items() if key != "unlabelled"}}
        if row.method != "plain" and made.get("unlabelled"):
            parts["-unlabelled"] = made | {"images": [], "annotations": []}
        for name, part in parts.items():
            part = for_training(part)
            drawn_from += len(part["images"])
            path = out / "labels" / f"{row.regime}-{seed}{name}-{sha_of(file)}" / file.parent.name / "train.json"
            if not path.is_file():
                write_json(path, part)
            entries.append(f"{path}:{file.parent / 'images'}")
    return tuple(entries), {"labels": labels, "labelled_images": images, "drawn_from": drawn_from}


def data_of(files: Sequence[Path]) -> dict[str, list[str]]:
    """Per source the hashes of its `train.json` and `val.json`: what results belong to, wherever the files lie."""
    return {file.parent.name: [sha_of(file), sha_of(file.with_name("val.json"))] for file in files}


def make_run(row: Row, entries: tuple[str, ...], files: Sequence[Path], seed: int, budget: Budget) -> RunConfig | DetectorRun:
    """The training of a row; all get the same data and schedule, and no procedural scenes besides."""
    data = DataConfig(coco=entries, synthetic=0.0, size=budget.size)
    steps = budget.steps
    train = TrainConfig(
        steps=steps,
        max_minutes=budget.minutes,
        batch_size=budget.batch_size,
        warmup=min(100, max(steps // 5, 1)),
        checkpoint_every=200,
        seed=seed,
    )
    if row.model == "deal":
        return RunConfig(model=MODELS["nano"], data=data, train=train, prompt=PromptConfig(cycles=2))
    categories = sorted({c["name"] for file in files for c in read_json(file)["categories"]}) if row.oracle else ()
    detector = DetectorConfig(
        detector=row.model, backbone=budget.backbone, hidden_dim=budget.hidden_dim, categories=tuple(categories)
    )
    return DetectorRun(detector=detector, data=data, train=train, method=MethodConfig(method=row.method))


def load_row(row: Row, file: Path | None) -> Any:
    """What the row detects with: a detector or a DEAL of a checkpoint, or None where none is needed."""
    if row.model in DETECTORS:
        return load_detector(file)
    return load_model(file) if row.model.startswith("deal") else None


def val_file(file: Path, out: Path, images: int) -> Path:
    """`val.json` beside a `train.json`; where only so many images are scored, a copy with the first, in the order of ids."""
    whole = file.with_name("val.json")
    truth = read_json(whole)
    kept = set(sorted(row["id"] for row in truth["images"])[: images or None])
    if len(kept) == len(truth["images"]):
        return whole
    truth["images"] = [row for row in truth["images"] if row["id"] in kept]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in kept]
    path = out / f"val-{images}" / file.parent.name / "val.json"
    write_json(path, truth)
    return path


def score_source(row: Row, model: Any, file: Path, images: Path, seed: int) -> Scored:
    """Ground truth, predictions and click list of one val file, whose images lie in `images`.

    All rows are given the same click list, so that *clicked ignored* and *hit* mean the same for those that take no click. Where
    boxes come by category (DEAL, templates, the oracle), those that overlap by `compare.MERGE` are one: the strongest.
    """
    truth, data = read_json(file), CocoFolder(file, images)
    clicks = make_clicks(truth, setting="1/category", seed=seed)
    if isinstance(model, Detector):
        found = detect_coco(model, data)
        if not row.oracle:
            return truth, agnostic_rows(found, data), clicks
        rows = category_rows(found, data, model.config.categories)
    elif model is not None:
        rows = predict_coco(model, data, [clicks])[0]
    else:
        given = row.model.removeprefix("template ")
        rows = reference_rows(lambda image, boxes, _: match_box(image, boxes), data, clicks, given=given)
    return truth, one_class(rows), clicks


def pooled(scored: Sequence[Scored]) -> Json:
    """Class-agnostic results of several sources as one data set; ids are moved apart first."""
    truth: Json = {"images": [], "annotations": [], "categories": []}
    found: list[Json] = []
    prompts: list[Json] = []

    def moved(row: Json, by: int, *keys: str) -> Json:
        return row | {key: row[key] + by for key in keys}

    for k, (of_source, rows, clicks) in enumerate(scored):
        by = k * STRIDE
        for name, keys in (("images", ("id",)), ("categories", ("id",)), ("annotations", ("id", "image_id", "category_id"))):
            truth[name] += [moved(row, by, *keys) for row in of_source[name]]
        found += [moved(row, by, "image_id", "category_id") for row in rows]
        for prompt in clicks["prompts"]:
            ids = [i + by for i in prompt["annotation_ids"]]
            prompts.append(moved(prompt, by, "image_id", "category_id") | {"annotation_ids": ids})
    return evaluate(truth, found, scored[0][2] | {"prompts": prompts}, class_agnostic=True)


def by_domain(files: Sequence[Path], scored: Sequence[Scored]) -> dict[str, float | None]:
    """AP50 of each domain, the mean over its sources; of a source that no list of domains has, under its own name."""
    titles = load_domains(PROJECT_ROOT / "data" / "domains.json") | {name: domain.title for name, domain in DOMAINS.items()}
    parts: dict[str, list[Json]] = {}
    for file, (truth, rows, clicks) in zip(files, scored, strict=True):
        ap50 = evaluate(truth, rows, clicks, class_agnostic=True)["all"]["ap50"]
        parts.setdefault(titles.get(file.parent.name, file.parent.name), []).append({"ap50": ap50})
    return {name: mean_row(values)["ap50"] for name, values in sorted(parts.items())}


def digest(values: Any) -> str:
    """Ten hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
