"""Commands that train and use a model, look at what it finds, and publish it."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dealkit.cli.shared import Flat
from dealkit.config import (
    DEFAULT_THRESHOLD,
    DETECTORS,
    MODELS,
    NANO,
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
from dealkit.files import PROJECT_ROOT, find_files


def demo(out: Path = PROJECT_ROOT / "data" / "runs" / "demo", checkpoint: Path = NANO) -> None:
    """Click one coin of a photograph and get all coins; then the galaxies of the Hubble deep field.

    Args:
        out: folder of the pictures.
        checkpoint: model to show.
    """
    from dealkit.report.publish import demo as run_demo

    run_demo(out, checkpoint)


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
    teacher: Path | None = None,
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
        teacher: checkpoint of a `nano` that a `small` starts from and whose maps it imitates, instead of learning from labels.
    """
    from dealkit.evaluate.benchmark import validate_on_scenes
    from dealkit.train.deal import fit
    from dealkit.train.imitate import imitate

    if resume:
        config = out / "config.json"
    if config:
        run = load_config(config)
    elif model in DETECTORS:
        from dealkit.baselines.detector import detector_categories

        names = detector_categories(data) if per_category else detector.categories
        detector = replace(detector, detector=model, categories=names)
        run = DetectorRun(detector=detector, data=data, train=schedule, method=method)
    else:
        run = RunConfig(model=MODELS[model], data=data, train=schedule, loss=loss, prompt=prompt)
    if teacher and (init or isinstance(run, DetectorRun)):
        raise ValueError("--teacher: expected a DEAL and no --init, since the weights start from the teacher")
    if isinstance(run, DetectorRun):
        from dealkit.baselines.methods import train_with
        from dealkit.baselines.scoring import validate_detector

        train_with(run, out, resume=resume, init=init, validate=validate_detector)
    elif teacher:
        imitate(run, out, teacher, resume=resume, validate=validate_on_scenes)
    else:
        fit(run, out, resume=resume, init=init, validate=validate_on_scenes)


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
    from dealkit.clicks import load_clicks
    from dealkit.data.coco import CocoFolder
    from dealkit.files import write_json
    from dealkit.model.checkpoint import load_model
    from dealkit.predict.embedding import load_embedding
    from dealkit.predict.predictor import Predictor, predict_coco
    from dealkit.predict.tiles import predict_large

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


def average(
    earlier: tyro.conf.Positional[Path],
    later: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    shares: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0),
    scenes: int = 100,
    results: Path | None = None,
) -> None:
    """Average checkpoints of one training; the share of the later ones is chosen on held-out procedural scenes.

    Args:
        earlier: model weights.
        later: model weights of the same training, later on; of several that started from the same weights the mean counts.
        out: checkpoint to write.
        shares: shares of the later weights to try.
        scenes: held-out scenes.
        results: JSON of the scores.
    """
    from dealkit.files import write_json
    from dealkit.report.publish import choose_average

    made = choose_average(earlier, later, out, shares=shares, scenes=scenes)
    if results is not None:
        write_json(results, made)
    for row in made["shares"]:
        print(f"{row['share']:.2f} of the later: AP50 {100 * row['ap50']:.1f}, clicked ignored {100 * row['ap50_ignored']:.1f}")
    print(f"{out}: {made['best']:.2f}")


def publish(run: tyro.conf.Positional[Path], out: Path = NANO, after: tuple[Path, ...] = (), weights: Path | None = None) -> None:
    """Make a finished run a checkpoint: averaged weights in half precision, with config and log beside it.

    Args:
        run: folder of the run.
        out: checkpoint to write; `<name>.config.json` and `<name>.log.jsonl` go beside it.
        after: folders of the earlier parts of this training, in order.
        weights: what to publish instead of the run's own weights, as `average` writes them.
    """
    from dealkit.report.publish import publish as publish_run

    publish_run(run, out, after=after, weights=weights, training=PROJECT_ROOT / "data" / "results" / f"training_{out.stem}.json")
    print(out)


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
    from dealkit.cli.notebooks import run_notebook

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
    from dealkit.browse.dataset import build_dataset, default_name, open_app
    from dealkit.data.objects import load_domains, read_table

    found = find_files(files, "FILES")
    if export is not None:
        from dealkit.browse.corrections import export_corrections

        if len(found) != 1 or predictions:
            raise ValueError("--export: expected one COCO file, --name if it is one of several, and no --predictions")
        print(f"{export}: {export_corrections(name or default_name(found), found[0], export)}")
        return
    if (clicks or map_with) and not predictions:
        raise ValueError("--clicks, --map-with: expected --predictions, too")
    made = build_dataset(found, name=name, domains=load_domains(domains) if domains else None)
    print(made, flush=True)
    if predictions:
        from dealkit.browse.mistakes import add_predictions

        table = read_table(found)
        added = add_predictions(made.dataset, table, predictions, clicks, score=score)
        print(added, flush=True)
        if map_with:
            from dealkit.browse.map import add_map

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
    from dealkit.studies.speed import run_bench

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
    from dealkit.studies.bench_index import bench_index as run_bench_index
    from dealkit.studies.bench_index import index_table

    figures = run_bench_index(boxes, coco_boxes, reads)
    print(index_table(figures))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def report(checkpoint: Path = NANO, tables_only: bool = False) -> None:
    """Results on photographs and procedural scenes, for `nano` the README's picture, and the tables of the README and of
    `data/results`.

    Args:
        checkpoint: model weights.
        tables_only: only rewrite the tables from the results there are.
    """
    from dealkit.evaluate.benchmark import photo_results
    from dealkit.report.tables import update_tables

    if not tables_only:
        photo_results(checkpoint, PROJECT_ROOT / "data" / "results" / f"photos_{checkpoint.stem}.json")
        if checkpoint.resolve() == NANO:
            demo(PROJECT_ROOT / "figures", checkpoint)
    update_tables()
