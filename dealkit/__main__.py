"""`python -m dealkit COMMAND`: names mapped to library functions, help taken from their docstrings. `--help` after any
command."""

import contextlib
import glob
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dealkit.config import (
    DEFAULT_THRESHOLD,
    DETECTORS,
    HELD_OUT,
    MODELS,
    PROJECT_ROOT,
    Budget,
    BuildConfig,
    DataConfig,
    DetectorConfig,
    DetectorRun,
    LossConfig,
    MethodConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
    load_config,
)

Flat = tyro.conf.OmitArgPrefixes
NANO = PROJECT_ROOT / "data" / "checkpoints" / "nano.safetensors"


def demo(out: Path = PROJECT_ROOT / "data" / "runs" / "demo", checkpoint: Path = NANO) -> None:
    """Click one coin of a photograph and get all coins; then the galaxies of the Hubble deep field.

    Args:
        out: folder of the pictures.
        checkpoint: model to show.
    """
    from dealkit.report import demo as run_demo

    run_demo(out, checkpoint)


def data_check(file: tyro.conf.Positional[Path], images: Path) -> None:
    """List everything that is wrong with a COCO file and its images; exit code 1 if there is anything.

    Args:
        file: COCO JSON.
        images: folder that its file names are relative to.
    """
    from dealkit.data.coco import check_report

    text, code = check_report(file, images)
    print(text)
    sys.exit(code)


def data_synth(out: Path, count: int = 500, size: int = 256, seed: int | None = None) -> None:
    """Write procedural scenes as PNG images and `annotations.json` (COCO).

    Args:
        out: folder to write.
        count: number of scenes.
        size: width and height in pixels.
        seed: family of scenes; the default is the one kept for evaluation, never trained on.
    """
    from dealkit.data.synthetic import EVAL_SEED, write_coco

    print(write_coco(out, count, size=size, seed=EVAL_SEED if seed is None else seed))


def data_domains(
    out: Path = PROJECT_ROOT / "data" / "processed" / "domains", train: int = 100, val: int = 40, size: int = 256
) -> None:
    """Write the procedural data set of six domains: a folder each with `train.json`, `val.json` and `images`; once, the same
    everywhere.

    Args:
        out: folder to write.
        train: scenes of each domain to train on.
        val: scenes of each domain to score on.
        size: width and height in pixels.
    """
    from dealkit.data.domains import write_domains

    print(*write_domains(out, train=train, val=val, size=size), sep="\n")


def data_sources(write: bool = False) -> None:
    """List the public data sets that can be read: domain, licence, how to get each, size, what it is known for.

    Args:
        write: also write the table of the data card, `data/README.md`.
    """
    from dealkit.data.sources import sources_text, update_data_card

    if write:
        update_data_card()
    print(sources_text())


def data_get(name: tyro.conf.Positional[str], root: Path) -> None:
    """Fetch a source into ROOT/NAME and check it, or say how to get it by hand; exit code 2 if it is not there, 1 if nothing in
    it can be read. Run again after an interruption: it goes on where it was.

    Args:
        name: key of `data sources`.
        root: folder that holds one folder per source.
    """
    from dealkit.data.download import get

    text, code = get(name, root)
    print(text)
    sys.exit(code)


def data_build(
    root: Path,
    out: Path = PROJECT_ROOT / "data" / "processed" / "tinyset",
    build: Flat[BuildConfig] = BuildConfig(),  # noqa: B008 (frozen)
    workers: int = os.cpu_count() or 1,
    engine: Literal["processes", "ray"] = "processes",
) -> None:
    """Merge the sources under a folder into a TinySet: tiles, copies left out, splits, COCO files and a Parquet index.

    Goes on where it was stopped. What was left out, and why, is in `report.json`.

    Args:
        root: folder with one folder per source.
        out: folder to write.
        build: settings.
        workers: processes.
        engine: `ray` for Ray Data, on this machine or the cluster named by the variable RAY_ADDRESS.
    """
    from dealkit.data.sources import SOURCES
    from dealkit.data.tinyset import build as run_build
    from dealkit.data.tinyset import report_text
    from dealkit.prompts import read_json

    public = {name: source for name, source in SOURCES.items() if source.domain}
    readers, domains = ({name: getattr(source, part) for name, source in public.items()} for part in ("read", "domain"))
    domains |= read_json(PROJECT_ROOT / "data" / "domains.json")
    print(report_text(run_build(root, out, readers=readers, domains=domains, config=build, workers=workers, engine=engine)))
    print(f"{out}: train.json, val.json, test.json, index.parquet, report.json")


def train(
    out: Path,
    model: Literal["nano", "small", "fcos", "retinanet", "faster_rcnn", "rtdetr"] = "nano",
    data: Flat[DataConfig] = DataConfig(),  # noqa: B008 (frozen)
    schedule: Flat[TrainConfig] = TrainConfig(),  # noqa: B008
    loss: Flat[LossConfig] = LossConfig(),  # noqa: B008
    prompt: Flat[PromptConfig] = PromptConfig(),  # noqa: B008
    detector: Flat[DetectorConfig] = DetectorConfig(),  # noqa: B008
    method: Flat[MethodConfig] = MethodConfig(),  # noqa: B008
    per_category: bool = False,
    config: Path | None = None,
    resume: bool = False,
    init: Path | None = None,
) -> None:
    """Train a DEAL, or a detector without prompts, on procedural scenes and COCO folders.

    Args:
        out: folder of the run: config, log, state to resume, model.
        model: published configuration of a DEAL, or a detector without prompts.
        detector: settings of a detector.
        method: how a detector learns from incomplete labels.
        per_category: a detector tells the categories of the COCO files apart, by name; else all are one class.
        config: JSON of a whole run (as `config.json` of another), instead of the options above.
        resume: continue the run in `out` with its own config.
        init: checkpoint to start the weights from.
    """
    from dealkit.report import validate_on_scenes
    from dealkit.train import fit

    if resume:
        config = out / "config.json"
    if config:
        run = load_config(config)
    elif model in DETECTORS:
        from dealkit.baselines import category_names

        names = category_names(data) if per_category else detector.categories
        detector = replace(detector, detector=model, categories=names)
        run = DetectorRun(detector=detector, data=data, train=schedule, method=method)
    else:
        run = RunConfig(model=MODELS[model], data=data, train=schedule, loss=loss, prompt=prompt)
    if isinstance(run, DetectorRun):
        from dealkit.compare import validate_detector
        from dealkit.methods import train_with

        train_with(run, out, resume=resume, init=init, validate=validate_detector)
    else:
        fit(run, out, resume=resume, init=init, validate=validate_on_scenes)


def race(
    out: Path,
    minutes: float,
    models: list[Literal["deal", "fcos", "retinanet", "faster_rcnn", "rtdetr"]] = ["deal", "fcos", "rtdetr"],  # noqa: B006
    data: Flat[DataConfig] = DataConfig(),  # noqa: B008
    schedule: Flat[TrainConfig] = TrainConfig(),  # noqa: B008
    detector: Flat[DetectorConfig] = DetectorConfig(),  # noqa: B008
    val: list[str] = [],  # noqa: B006
    scenes: int = 60,
    points: int = 12,
    results: Path | None = None,
) -> None:
    """Train DEAL and detectors without prompts for the same minutes on the same images: AP over time; goes on where it was
    stopped.

    Args:
        out: folder of the runs.
        minutes: of training, each model; steps and minutes of the schedule are not used.
        models: what takes part.
        data: what all are trained on.
        schedule: of all.
        detector: settings of the detectors.
        val: COCO files to score on, glob patterns allowed; images in `images` beside each.
        scenes: how many procedural scenes are scored where there are no files.
        points: of each curve.
        results: JSON to write besides `race.json` in the folder.
    """
    from dealkit.race import race as run_race
    from dealkit.tables import per_cent

    files = find_files(val, "--val") if val else []
    options = {"data": data, "detector": detector, "schedule": schedule, "val": files, "scenes": scenes, "points": points}
    for name, row in run_race(out, minutes=minutes, models=models, results=results, **options)["models"].items():
        last = row["curve"][-1]
        print(f"{name:12} {last['minutes']:.1f} minutes: AP50 {per_cent(last['ap50'])}, AP75 {per_cent(last['ap75'])}")


def clicks(
    coco: tyro.conf.Positional[Path],
    out: Path,
    setting: Literal["1/category", "3/category", "5/category", "1/instance"] = "1/category",
    seed: int = 0,
    kind: Literal["centre", "jitter"] = "centre",
) -> None:
    """Draw a click list for a COCO file and write it; prints its hash.

    Args:
        coco: COCO JSON.
        out: click list to write.
        setting: clicks per category of an image, or one on every instance.
        seed: which instances are clicked.
        kind: at the box centre, or anywhere in the middle half of the box.
    """
    from dealkit.prompts import clicks_hash, make_clicks, save_clicks

    made = make_clicks(coco, setting=setting, seed=seed, kind=kind)
    save_clicks(made, out)
    print(f"{out}: {len(made['prompts'])} prompts, {setting}, {kind}, seed {seed}, hash {clicks_hash(made)}")


def regime(
    name: tyro.conf.Positional[str], coco: tyro.conf.Positional[Path], out: Path, seed: int = 0, training: bool = False
) -> None:
    """Write a COCO file with fewer or poorer labels: noise20 noise40 semi1 semi5 semi10 sparse1 sparse3 sparse5 point zero.

    Args:
        name: which, see `dealkit.regimes`.
        coco: COCO JSON with all labels.
        out: COCO JSON to write; its images are those of the file it is made from.
        seed: which labels.
        training: as detectors and their methods learn from it: points as boxes of one size, unlabelled images under a crowd box.
    """
    from dealkit.prompts import read_json
    from dealkit.regimes import apply_regime, for_training
    from dealkit.train import write_json

    made = apply_regime(read_json(coco), name, seed=seed)
    write_json(out, for_training(made) if training else made)
    unlabelled = f", {len(made['unlabelled'])} images without" if "unlabelled" in made else ""
    print(f"{out}: {len(made['annotations'])} labels in {len(made['images'])} images{unlabelled}, {name}, seed {seed}")


def predict(
    image: tyro.conf.Positional[Path | None] = None,
    checkpoint: Path = NANO,
    point: Annotated[list[tuple[float, float]], tyro.conf.arg(metavar="X Y"), tyro.conf.UseAppendAction] = [],  # noqa: B006
    not_point: Annotated[list[tuple[float, float]], tyro.conf.arg(metavar="X Y"), tyro.conf.UseAppendAction] = [],  # noqa: B006
    threshold: float | Literal["adaptive"] | None = None,
    coco: Path | None = None,
    images: Path | None = None,
    clicks: Path | None = None,
    out: Path | None = None,
    figure: Path | None = None,
    embedding: Path | None = None,
    save_embedding: Path | None = None,
    tile: int = 0,
    overlap: int = BuildConfig.overlap,
) -> None:
    """Detect everything of the clicked kind: in IMAGE at each --point or of an --embedding clicked in another image, or in a
    COCO data set from a click list.

    Args:
        image: one image file.
        checkpoint: model weights.
        point: pixel of an object; repeat for several objects of one kind.
        not_point: pixel of something that is not meant; repeatable.
        threshold: lowest score written for one image, or `adaptive`: a cut of its own; a fixed default if not given.
        coco: COCO JSON of a data set.
        images: folder of its images.
        clicks: click list of `python -m dealkit clicks`.
        out: JSON to write: boxes and scores of one image, or COCO results of a data set.
        figure: picture to write, for one image.
        embedding: file of --save-embedding, instead of points: finds the kind that was clicked in another image.
        save_embedding: file to keep what the points mean in, for other images.
        tile: read one image in tiles of this side in pixels, for images too large for the memory; 0: in one piece.
        overlap: pixels that tiles share.
    """
    from dealkit.data.coco import CocoFolder
    from dealkit.embedding import load_embedding
    from dealkit.predict import Predictor, predict_coco
    from dealkit.prompts import load_clicks
    from dealkit.tiling import predict_large
    from dealkit.train import load_model, write_json

    if (image is None) == (coco is None):
        raise ValueError("predict: expected either IMAGE with --point X Y, or --coco, --images and --clicks")
    if coco is not None:
        if images is None or clicks is None or out is None:
            raise ValueError("predict --coco: expected --images, --clicks and --out, too")
        found = predict_coco(load_model(checkpoint), CocoFolder(coco, images), [load_clicks(clicks, coco)])[0]
        write_json(out, found)
        print(f"{out}: {len(found)} detections")
        return
    if not point and embedding is None:
        raise ValueError("predict IMAGE: expected at least one --point X Y, or --embedding")
    if embedding is not None and (point or not_point or save_embedding):
        raise ValueError("predict --embedding: expected no --point, --not-point or --save-embedding")
    predictor = Predictor(checkpoint, threshold=DEFAULT_THRESHOLD if threshold is None else threshold)
    points, labels = point + not_point, [1] * len(point) + [0] * len(not_point)
    kind = load_embedding(embedding) if embedding else None
    if tile:
        if save_embedding is not None:
            raise ValueError("predict --tile: expected no --save-embedding; embed in an image that is read in one piece")
        asked = [] if kind else [(points, labels)]
        detections = predict_large(predictor, image, asked, embedding=kind, tile=tile, overlap=overlap)[0]
    else:
        predictor.set_image(image)
        detections = predictor.predict_embedding(kind) if kind else predictor.predict(points, labels)
    if save_embedding is not None:
        predictor.embed(None, points, labels).save(save_embedding)
    print(f"{len(detections)} objects")
    if out is not None:
        write_json(out, detections.to_dict())
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        detections.save_figure(figure)


def evaluate(
    coco: Path, predictions: Path, out: Path, clicks: Path | None = None, class_agnostic: bool = False, max_dets: int = 1500
) -> None:
    """Score predictions: AP, size bins, recall, hit, count error; all objects, and with the clicked ones ignored.

    Args:
        coco: COCO JSON of the ground truth.
        predictions: standard COCO results.
        out: JSON of results to write.
        clicks: the click list the predictions were made from.
        class_agnostic: one foreground class, as in the paper's table.
        max_dets: most detections per image and category.
    """
    from dealkit.evaluate import evaluate as score
    from dealkit.evaluate import summary_line
    from dealkit.prompts import load_clicks
    from dealkit.train import write_json

    click_list = load_clicks(clicks, coco) if clicks else None
    results = score(coco, predictions, click_list, max_dets=max_dets, class_agnostic=class_agnostic)
    write_json(out, results)
    print(summary_line(results))


def errors(
    coco: Path,
    predictions: Path,
    out: Path,
    clicks: Path | None = None,
    max_dets: int = 1500,
    min_score: float = 0.0,
    foreground: float = 0.5,
    background: float = 0.1,
    ignore_clicked: bool = False,
) -> None:
    """Kind of every mistake: missed, localisation, duplicate, background, other category, both; what AP50 would be without each,
    and which categories are confused.

    Args:
        coco: COCO JSON of the ground truth.
        predictions: standard COCO results.
        out: JSON to write, with the state of every object and the type of every detection.
        clicks: the click list the predictions were made from.
        max_dets: most detections per image and category.
        min_score: detections under this score do not count at all.
        foreground: IoU from which a detection matches an object.
        background: IoU from which a detection concerns an object.
        ignore_clicked: the clicked objects are neither found nor missed.
    """
    from dealkit.errors import find_errors
    from dealkit.oracle import errors_json, errors_text
    from dealkit.prompts import load_clicks
    from dealkit.train import write_json

    thresholds = {"max_dets": max_dets, "min_score": min_score, "foreground": foreground, "background": background}
    click_list = load_clicks(clicks, coco) if clicks else None
    made = errors_json(find_errors(coco, predictions, click_list, **thresholds, ignore_clicked=ignore_clicked))
    write_json(out, made)
    print(errors_text(made))


def benchmark(
    out: Path,
    coco: list[str] = [],  # noqa: B006
    checkpoint: Path = NANO,
    settings: list[str] = ["1/category"],  # noqa: B006
    kinds: list[str] = ["centre"],  # noqa: B006
    seeds: int = 5,
    clicks: Path | None = None,
    scenes: int = 0,
) -> None:
    """Predict and evaluate a checkpoint on several COCO sources, settings, kinds and seeds; one JSON with mean and spread. A
    detector without prompts is scored once, class-agnostic and per category.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        settings: click settings.
        kinds: click kinds.
        seeds: click lists per setting and kind.
        clicks: folder to write the click lists to.
        scenes: a detector without prompts is scored on so many procedural scenes, too.
    """
    from dealkit.baselines import is_detector
    from dealkit.compare import benchmark_detector
    from dealkit.report import benchmark as run_benchmark

    if is_detector(checkpoint):
        benchmark_detector(checkpoint, find_files(coco) if coco else [], out, scenes=scenes)
        return
    run_benchmark(checkpoint, find_files(coco), out, settings=settings, kinds=kinds, seeds=seeds, clicks_folder=clicks)


def failures(
    coco: list[str],
    out: Path,
    checkpoint: Path = NANO,
    images: int | None = None,
    seed: int = 0,
    folder: Path = PROJECT_ROOT / "data" / "runs" / "failures",
) -> None:
    """Errors of a checkpoint on several sources, and what they come from: kinds of mistakes, recall and AP by factor, and a
    model of what predicts a miss; goes on where it was stopped.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        images: at most so many images of each file.
        seed: of the click lists, 1/category and centre.
        folder: keeps predictions and click lists of every source, for `errors` and `browse`.
    """
    from dealkit.failures import failure_report, failure_text

    print(failure_text(failure_report(checkpoint, find_files(coco), out, images=images, seed=seed, folder=folder)))


def controlled(
    out: Path,
    checkpoint: Path = NANO,
    scenes: int = 40,
    large: int = 40,
    factors: list[str] | None = None,
    attributes: list[str] | None = None,
) -> None:
    """Procedural scenes with one factor set at a time, kinds that differ by one step, and objects of all sizes: recall and AP
    against each; goes on where it was stopped.

    Args:
        out: JSON of results.
        checkpoint: model weights.
        scenes: of each level of a factor and each step of an attribute.
        large: 512 px scenes of the evaluation across sizes; 0 leaves it out.
        factors: only these, see `dealkit.controlled.EXPERIMENTS`.
        attributes: only these, see `dealkit.controlled.STEPS`.
    """
    from dealkit.controlled import controlled as run_controlled
    from dealkit.tables import per_cent

    made = run_controlled(checkpoint, out, scenes=scenes, large=large, factors=factors, attributes=attributes)
    for part, key in (("factors", "level"), ("fine_grained", "step")):
        for name, rows in made[part].items():
            print(f"{name:14}", "  ".join(f"{row[key]:g}: {per_cent(row['ap50'])}" for row in rows["levels"]))


def calibrate(coco: list[str], out: Path, checkpoint: Path = NANO, images: int = 24) -> None:
    """Find the score threshold and duplicate IoU that are best on training images; the defaults of `predict` come from here.

    Args:
        coco: training COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        images: how many images of each file.
    """
    from dealkit.calibrate import calibrate as run_calibrate

    print(run_calibrate(checkpoint, find_files(coco), out, images=images)["best"])


def thresholds(coco: list[str], out: Path, checkpoint: Path = NANO, images: int = 24) -> None:
    """Compare the adaptive threshold with fixed ones and with the best cut of every prompt: F1 and counting error.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        images: how many images of each file.
    """
    from dealkit.calibrate import compare_thresholds

    print(json.dumps(compare_thresholds(checkpoint, find_files(coco), out, images=images)["mean"], indent=1))


def transfer(coco: list[str], out: Path, checkpoint: Path = NANO, clicked: int = 5, targets: int = 24, seeds: int = 1) -> None:
    """Click in some images of a source, detect in its others: AP beside that of a click in each image itself.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        clicked: how many images the averaged prompt is made from.
        targets: how many other images each category is looked for in, at most.
        seeds: how many draws of clicks and images.
    """
    from dealkit.transfer import transfer as run_transfer

    made = run_transfer(checkpoint, find_files(coco), out, clicked=clicked, targets=targets, seeds=seeds)
    print(json.dumps(made["mean"], indent=1))


def templates(
    coco: list[str],
    out: Path = PROJECT_ROOT / "data" / "results" / "template_realsmall.json",
    variants: list[str] = ["box", "click"],  # noqa: B006
    seeds: int = 1,
) -> None:
    """Score template matching, which knows nothing but the clicked example, as `benchmark` scores a checkpoint; goes on where it
    was stopped.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        variants: what it is shown: `box`, `click`, `box, scaled and turned`.
        seeds: click lists.
    """
    from dealkit.references import VARIANTS, benchmark_templates
    from dealkit.tables import per_cent

    if not set(variants) <= set(VARIANTS):
        raise ValueError(f"--variants: expected some of {'; '.join(VARIANTS)}, got {'; '.join(variants)}")
    for variant, row in benchmark_templates(find_files(coco), out, variants=variants, seeds=seeds)["mean"].items():
        print(f"{variant:24} AP50 {per_cent(row['ap50'])}, clicked ignored {per_cent(row['ap50_ignored'])}")


def find_files(patterns: list[str], option: str = "--coco") -> list[Path]:
    """Files that match the patterns, each pattern's sorted; an error names the option and patterns that match nothing."""
    files = [Path(f) for pattern in patterns for f in sorted(glob.glob(pattern))]
    if not files:
        raise ValueError(f"{option}: no file matches {', '.join(patterns)}")
    return files


def publish(run: tyro.conf.Positional[Path], out: Path = NANO, after: tuple[Path, ...] = ()) -> None:
    """Make a finished run a checkpoint: averaged weights in half precision, with config and log beside it.

    Args:
        run: folder of the run.
        out: checkpoint to write; `<name>.config.json` and `<name>.log.jsonl` go beside it.
        after: folders of the earlier parts of this training, in order.
    """
    from dealkit.report import publish as publish_run

    publish_run(run, out, after=after, training=PROJECT_ROOT / "data" / "results" / f"training_{out.stem}.json")
    print(out)


def rounds(
    coco: list[str],
    out: Path,
    checkpoint: Path = NANO,
    clicks: int = 20,
    kinds: list[Literal["positive", "negative"]] = ["positive", "negative"],  # noqa: B006
    images: int | None = None,
    seeds: int = 1,
) -> None:
    """AP against the number of clicks of a simulated user, who adds the worst object, or "not this" on the worst mistake; goes on
    where it was stopped.

    Args:
        coco: COCO files or patterns; images in `images` beside each.
        out: JSON to write.
        checkpoint: model weights.
        clicks: most clicks of a prompt.
        kinds: what is clicked after the first object.
        images: at most so many images of each file.
        seeds: how many first clicks each prompt gets, one curve for each.
    """
    from dealkit.rounds import click_curves
    from dealkit.tables import per_cent

    results = click_curves(checkpoint, find_files(coco), out, clicks=clicks, kinds=kinds, images=images, seeds=seeds)
    for kind, curve in results["mean"].items():
        print(f"{kind:10}", "  ".join(f"{p['clicks']}: {per_cent(p['ap50'])}" for p in curve))


def positions(
    coco: list[str],
    out: Path,
    checkpoint: Path = NANO,
    offsets: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.95),
    images: int | None = None,
    seeds: int = 1,
) -> None:
    """AP against where in the object the click is, from its centre (0) to its border (1); goes on where it was stopped.

    Args:
        coco: COCO files or patterns; images in `images` beside each.
        out: JSON to write.
        checkpoint: model weights.
        offsets: distances from the centre in half widths and heights of the box, 0 to 1.
        images: at most so many images of each file.
        seeds: how many objects of each prompt are clicked, one curve for each; every one at all offsets.
    """
    from dealkit.positions import position_curves
    from dealkit.tables import per_cent

    results = position_curves(checkpoint, find_files(coco), out, offsets=offsets, images=images, seeds=seeds)
    for point in results["mean"]:
        print(f"{point['offset']:.2f}  AP50 {per_cent(point['ap50'])}, clicked ignored {per_cent(point['ap50_ignored'])}")


def ablate(
    grid: tyro.conf.Positional[Literal["components", "strategies", "cycles", "scales"]],
    out: Path = PROJECT_ROOT / "data" / "runs" / "ablation",
    seeds: int = 3,
    steps: int = 400,
    size: int = 128,
    start_steps: int = 0,
    coco: tuple[str, ...] = (),
    results: Path | None = None,
) -> None:
    """Train a grid of ablations, several seeds each with the same number of steps; goes on where it was stopped.

    Args:
        grid: which cells, see `dealkit.ablate.GRIDS`.
        out: folder of the runs.
        seeds: trainings per cell.
        steps: steps of each training.
        size: side of training crops and evaluation scenes in pixels.
        start_steps: if not 0, all cells of a seed go on from one training with one cycle and so many steps.
        coco: COCO files to train on besides procedural scenes.
        results: JSON of all cells; those that it already holds are not run again.
    """
    from dealkit.ablate import base_run, sweep
    from dealkit.tables import paired_gains

    base = base_run(steps=steps, size=size, coco=coco)
    for row in paired_gains(sweep(base, grid, out, seeds=seeds, start_steps=start_steps, results=results)["rows"]):
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
        print(f"{row['cell']:28} AP50 {100 * row['mean']:5.1f}{spread}   to the first {100 * row['gain']:+5.1f}")


def label_efficiency(
    files: tyro.conf.Positional[list[str]],
    results: Path,
    out: Path = PROJECT_ROOT / "data" / "runs" / "label_efficiency",
    rows: list[str] = [],  # noqa: B006
    seeds: int = 1,
    budget: Flat[Budget] = Budget(),  # noqa: B008 (frozen)
    checkpoint: Path | None = NANO,
) -> None:
    """The label-efficient benchmark: detectors under every regime, template matching, and DEAL with one click; goes on where it
    was stopped, skips what is finished.

    Args:
        files: `train.json` of every source, glob patterns allowed; `val.json` and `images` lie beside each.
        results: JSON of the whole table.
        out: folder of the runs.
        rows: names of rows, or parts of them such as `noise40`; all if none is given.
        seeds: runs of each row.
        budget: what every trained row gets.
        checkpoint: published DEAL, for a row of its own.
    """
    from dealkit.efficiency import efficiency_table
    from dealkit.label_efficiency import ROWS, sweep

    chosen = [row for row in ROWS if not rows or any(part in row.name for part in rows)]
    if not chosen:
        raise ValueError(f"--rows: no row is called like {', '.join(rows)}; there are {'; '.join(row.name for row in ROWS)}")
    found, folder = find_files(files, "FILES"), out / results.stem
    made = sweep(found, folder, rows=chosen, seeds=seeds, budget=budget, checkpoint=checkpoint, results=results)
    print(efficiency_table(made))


def protocols(
    name: tyro.conf.Positional[Literal["heldout", "domains", "categories", "real"]],
    root: Path,
    out: Path = PROJECT_ROOT / "data" / "runs" / "protocols",
    results: Path | None = None,
    init: Path | None = None,
    minutes: float = 60.0,
    steps: int = 25_000,
    size: int = 192,
    cycles: int = 1,
    model: Literal["nano", "small"] = "nano",
    held: tuple[str, ...] = HELD_OUT,
    seeds: int = 3,
) -> None:
    """Train without some sources, domains or categories and test on them; goes on where it was stopped.

    Args:
        name: `heldout` leaves fixed sources out; `domains` each domain in turn; `categories` every second category of each
            source; `real` compares scenes only, real images only, and both.
        root: folder with one folder per source: train.json, val.json, images.
        out: folder of the runs; trainings that two protocols share are made once.
        results: JSON of all rows.
        init: checkpoint trained on procedural scenes only, where every training starts; none: random weights.
        minutes: of each training.
        steps: of each training, at most.
        size: side of training crops in pixels.
        cycles: PG-CPP cycles of a training step.
        model: configuration of the network.
        held: sources that `heldout` leaves out.
        seeds: click lists of every test.
    """
    from dealkit.cross_tables import protocol_table
    from dealkit.data.statistics import load_domains
    from dealkit.protocols import base_run, run_protocol

    base = base_run(model=MODELS[model], minutes=minutes, steps=steps, size=size, cycles=cycles)
    domains = load_domains(PROJECT_ROOT / "data" / "domains.json")
    made = run_protocol(name, root, out, base=base, domains=domains, init=init, held=held, seeds=seeds, results=results)
    print(protocol_table(made))


def adapt(
    root: Path,
    checkpoint: Path,
    out: Path = PROJECT_ROOT / "data" / "runs" / "adapt",
    results: Path | None = None,
    sources: tuple[str, ...] = HELD_OUT,
    shots: tuple[int, ...] = (1, 5, 20),
    seeds: int = 3,
    steps: int = 60,
    size: int = 192,
    detector: Path | None = None,
) -> None:
    """Fine-tune on a few labelled images of a new source: AP against their number, beside clicks alone; goes on where it was
    stopped.

    Args:
        root: folder with one folder per source: train.json, val.json, images.
        checkpoint: a model that has not seen the sources, as one of `protocols heldout`.
        out: folder of the runs.
        results: JSON of all rows.
        sources: new sources.
        shots: numbers of labelled images.
        seeds: draws of images, and click lists of every test.
        steps: of each fine-tuning.
        size: side of training crops in pixels.
        detector: checkpoint of a detector without prompts (FCOS or another of `dealkit.baselines`) trained on what `checkpoint`
            was trained on; it is fine-tuned on the same images.
    """
    from dealkit.adapt import adapt as run_adapt
    from dealkit.adapt import adapting_run, tuned_detector
    from dealkit.baselines import load_detector
    from dealkit.cross_tables import shot_table

    run = adapting_run(checkpoint, steps=steps, size=size)
    others = {}
    if detector is not None:
        others[load_detector(detector).config.detector] = tuned_detector(run, init=detector, clicks=seeds)
    options = {"sources": sources, "shots": shots, "seeds": seeds, "detectors": others, "results": results}
    print(shot_table(run_adapt(checkpoint, root, out, run=run, **options)))


def matrix(
    kind: tyro.conf.Positional[Literal["prompts", "adapted"]],
    root: Path,
    checkpoint: Path = NANO,
    out: Path = PROJECT_ROOT / "data" / "runs" / "matrix",
    results: Path | None = None,
    sources: tuple[str, ...] = (),
    images: int = 12,
    steps: int = 60,
    size: int = 192,
) -> None:
    """Every source against every other, and how far apart they are to the encoder.

    Args:
        kind: `prompts` asks for each source's kind with a prompt from every other, without training; `adapted` fine-tunes on
            each source and tests on every other, and goes on where it was stopped.
        root: folder with one folder per source: train.json, val.json, images.
        checkpoint: model weights.
        out: folder of the runs of `adapted`.
        results: JSON of the matrix.
        sources: default: all there are.
        images: validation images of each source, at most.
        steps: of each fine-tuning.
        size: side of training crops in pixels.
    """
    from dealkit.adapt import adapting_run
    from dealkit.cross import adapted_matrix, losses, prompt_matrix, rank_correlation
    from dealkit.data.subsets import find_sources

    names = sources or find_sources(root)
    if kind == "prompts":
        made = prompt_matrix(checkpoint, root, names, images=images, results=results)
    else:
        run = adapting_run(checkpoint, steps=steps, size=size)
        made = adapted_matrix(checkpoint, root, out, names, run=run, tested=images, results=results)
    print(f"{len(names)} sources; rank correlation of distance and loss of AP50: {rank_correlation(losses(made))}")


def public(
    name: tyro.conf.Positional[Literal["dior", "dota-v2.0"]],
    root: Path,
    checkpoint: Path = NANO,
    out: Path | None = None,
    work: Path = PROJECT_ROOT / "data" / "runs" / "public",
    seeds: int = 3,
    images: int | None = None,
    seen: tuple[str, ...] | None = None,
    tile: int = BuildConfig.tile,
    overlap: int = BuildConfig.overlap,
) -> None:
    """Test on DIOR or DOTA-v2.0 as the paper does, without training: one click per category, in tiles; goes on where it was
    stopped.

    Args:
        name: of the data set.
        root: its folder, in the official layout (`data sources`).
        checkpoint: model weights.
        out: JSON of results; default: `data/results/public_<name>_<checkpoint>.json`.
        work: folder of the detections.
        seeds: click lists.
        images: at most so many images, drawn by a hash.
        seen: categories with a like in the training of the checkpoint; default: those of the published model.
        tile: side of a tile in pixels.
        overlap: pixels that tiles share.
    """
    from dealkit.cross_tables import public_table
    from dealkit.public import evaluate_public

    out = out or PROJECT_ROOT / "data" / "results" / f"public_{name}_{checkpoint.stem}.json"
    options = {"seeds": seeds, "images": images, "seen": seen, "tile": tile, "overlap": overlap}
    print(public_table([evaluate_public(name, root, checkpoint, out, work, **options)]))


def report(checkpoint: Path = NANO, tables_only: bool = False) -> None:
    """Results on photographs and procedural scenes, the README's picture, and its tables from `data/results`.

    Args:
        checkpoint: model weights.
        tables_only: only rewrite the README's tables from the results there are.
    """
    from dealkit.report import photo_results, update_readme

    if not tables_only:
        photo_results(checkpoint, PROJECT_ROOT / "data" / "results" / f"photos_{checkpoint.stem}.json")
        demo(PROJECT_ROOT / "figures", checkpoint)
    update_readme()


def history(name: str = "nano", out: Path = PROJECT_ROOT / "data" / "results" / "history_nano.json") -> None:
    """All published checkpoints of a name with their scores, and what each part of the training changed, from the git history.

    Args:
        name: of the checkpoint.
        out: JSON to write; what is not committed is not in it.
    """
    from dealkit.history import checkpoint_history
    from dealkit.tables import history_table
    from dealkit.train import write_json

    found = checkpoint_history(name)
    write_json(out, found)
    print(history_table(found))


def run(
    notebook: tyro.conf.Positional[str],
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    force: bool = False,
) -> None:
    """Execute a notebook with papermill; the executed copy goes to `data/runs/`.

    Args:
        notebook: its name, as `02_train_deal`.
        params: YAML file of parameters; one that the notebook does not have is an error.
        force: run it again although this run is finished.
    """
    from dealkit.notebooks import run_notebook

    print(run_notebook(notebook, params, force=force))


def browse(
    files: tyro.conf.Positional[list[str]],
    name: str | None = None,
    domains: Path | None = PROJECT_ROOT / "data" / "domains.json",
    predictions: list[str] = [],  # noqa: B006
    clicks: str | None = None,
    score: float = DEFAULT_THRESHOLD,
    map_with: Path | None = None,
    export: Path | None = None,
    view: str | None = None,
    port: int = 5151,
    app: bool = True,
    remote: bool = False,
) -> None:
    """Look at COCO data sets in FiftyOne's App, and at the mistakes of one or two models; only images that have changed since
    the last time are read.

    Args:
        files: COCO files, glob patterns allowed; images in `images` beside each.
        name: of the FiftyOne data set; default: of the folder that holds all files.
        domains: JSON of source -> domain, for files that do not say it.
        predictions: COCO results of one or two models; "{source}" stands for the folder of each COCO file.
        clicks: click list that they were made from; "{source}" as above.
        score: lowest score shown; the mistakes are those of the detections shown.
        map_with: checkpoint that lays out the missed objects of the first predictions on a map, panel Embeddings.
        export: COCO file to write, with what was tagged (wrong, missing, fix) and edited in the App; nothing else is done then.
        view: saved view to start with, such as "very tiny".
        port: of the App.
        app: --no-app brings the data set up to date and ends.
        remote: serve the App without opening a browser.
    """
    from dealkit.browse import build, default_name, open_app
    from dealkit.data.statistics import load_domains, read_table

    found = find_files(files, "FILES")
    if export is not None:
        from dealkit.corrections import export_corrections

        if len(found) != 1 or predictions:
            raise ValueError("--export: expected one COCO file, --name if it is one of several, and no --predictions")
        print(f"{export}: {export_corrections(name or default_name(found), found[0], export)}")
        return
    if (clicks or map_with) and not predictions:
        raise ValueError("--clicks, --map-with: expected --predictions, too")
    made = build(found, name=name, domains=load_domains(domains) if domains else None)
    print(made, flush=True)
    if predictions:
        from dealkit.browse_errors import add_predictions

        table = read_table(found)
        added = add_predictions(made.dataset, table, predictions, clicks, score=score)
        print(added, flush=True)
        if map_with:
            from dealkit.browse_map import add_map

            print(f"{added.names[0]}_map: {add_map(made.dataset, table, added.names[0], map_with)} objects", flush=True)
    if app:
        session = open_app(made.dataset, port=port, view=view, remote=remote)
        print(f"http://localhost:{port}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            session.wait(-1)


def bench(json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None, checkpoint: Path = NANO, size: int = 512) -> None:
    """Speed of encode, click, training and evaluation, as ratios to RT-DETRv2-R18 in the same process.

    Args:
        json_file: write the figures to this file.
        checkpoint: model to time.
        size: side of the timed image.
    """
    from dealkit.bench import run_bench

    figures = run_bench(checkpoint, size=size)
    text = json.dumps(figures, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


def bench_index(
    boxes: int = 9_000_000,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    coco_boxes: int = 1_000_000,
    reads: int = 20_000,
) -> None:
    """Time and memory to open the index of a TinySet and to read it at random, beside COCO JSON, plain and by pycocotools.

    Args:
        boxes: size of the largest synthetic index.
        json_file: write the figures to this file.
        coco_boxes: size of the largest COCO JSON; it takes about 1 GB of memory per million boxes.
        reads: random records read.
    """
    from dealkit.bench_index import bench_index as run_bench_index
    from dealkit.bench_index import index_table

    figures = run_bench_index(boxes, coco_boxes, reads)
    print(index_table(figures))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def bench_browse(objects: int = 10_000, json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None) -> None:
    """Time to bring a data set with the predictions of two models into FiftyOne, and to bring it up to date.

    Args:
        objects: about how many annotated objects.
        json_file: write the figures to this file.
    """
    from dealkit.bench_browse import bench_browse as run_bench_browse
    from dealkit.train import write_json

    figures = run_bench_browse(objects)
    print(json.dumps(figures, indent=1))
    if json_file is not None:
        write_json(json_file, figures)


def main() -> None:
    app = tyro.extras.SubcommandApp()
    analyses = (benchmark, templates, failures, controlled, calibrate, thresholds, transfer, rounds, positions, ablate, race)
    across = (label_efficiency, protocols, adapt, matrix, public)
    own = (demo, train, regime, clicks, predict, evaluate, errors, *analyses, *across)
    for function in (*own, publish, history, report, run, browse, bench):
        app.command(function)
    data = tyro.extras.SubcommandApp()
    data.command(data_check, name="check")
    data.command(data_synth, name="synth")
    data.command(data_domains, name="domains")
    data.command(data_sources, name="sources")
    data.command(data_get, name="get")
    data.command(data_build, name="build")
    started = time.monotonic()
    try:
        if sys.argv[1:2] == ["data"]:
            data.cli(prog="python -m dealkit data", description="Check, make and build data.", args=sys.argv[2:])
        elif sys.argv[1:3] == ["bench", "index"]:
            tyro.cli(bench_index, prog="python -m dealkit bench index", args=sys.argv[3:])
        elif sys.argv[1:3] == ["bench", "browse"]:
            tyro.cli(bench_browse, prog="python -m dealkit bench browse", args=sys.argv[3:])
        else:
            app.cli(
                prog="python -m dealkit",
                description=f"{__doc__} Also: `data check|synth|domains|sources|get|build`, `bench index|browse`.",
            )
    except (ValueError, FloatingPointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if time.monotonic() - started > 5:
        print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
