"""Commands that train and use a model, time it, and publish it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dealkit.config import (
    DEFAULT_CHECKPOINT,
    DEFAULT_THRESHOLD,
    DETECTORS,
    MODELS,
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
    to_dict,
)
from dealkit.files import PROJECT_ROOT, write_json


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(DetectorConfig):
    """A `DetectorConfig` without the two fields that are no options: --model names the detector, checkpoints the architecture."""

    detector: Annotated[str, tyro.conf.Suppress] = DetectorConfig.detector
    architecture: Annotated[str, tyro.conf.Suppress] = DetectorConfig.architecture


def demo(out: Path = PROJECT_ROOT / "data" / "runs" / "demo", checkpoint: Path = DEFAULT_CHECKPOINT) -> None:
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
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
    schedule: TrainConfig = TrainConfig(),  # noqa: B008
    loss: LossConfig = LossConfig(),  # noqa: B008
    prompt: PromptConfig = PromptConfig(),  # noqa: B008
    detector: DetectorOptions = DetectorOptions(),  # noqa: B008
    method: MethodConfig = MethodConfig(),  # noqa: B008
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
        teacher: checkpoint of a `nano` that a `small` starts from and imitates, instead of learning from labels.
    """
    if resume:
        config = out / "config.json"
    if config:
        run = load_config(config)
    elif model in DETECTORS:
        from dealkit.baselines.detector import detector_categories

        names = detector_categories(data) if per_category else detector.categories
        chosen = DetectorConfig(**to_dict(detector) | {"detector": model, "categories": names})
        run = DetectorRun(detector=chosen, data=data, train=schedule, method=method)
    else:
        run = RunConfig(model=MODELS[model], data=data, train=schedule, loss=loss, prompt=prompt)
    if teacher and (init or isinstance(run, DetectorRun)):
        raise ValueError("--teacher: expected a DEAL and no --init, since the weights start from the teacher")
    from dealkit.baselines.methods import train_with
    from dealkit.baselines.scoring import validate_detector
    from dealkit.evaluate.benchmark import validate_on_scenes
    from dealkit.train.deal import fit
    from dealkit.train.imitate import imitate

    if isinstance(run, DetectorRun):
        train_with(run, out, resume=resume, init=init, validate=validate_detector)
    elif teacher:
        imitate(run, out, teacher, resume=resume, validate=validate_on_scenes)
    else:
        fit(run, out, resume=resume, init=init, validate=validate_on_scenes)


def predict(
    image: tyro.conf.Positional[Path | None] = None,
    checkpoint: Path = DEFAULT_CHECKPOINT,
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
    """Detect everything of the clicked kind in one image, or in a COCO data set from a click list.

    In IMAGE the kind is what lies at each --point, or the --embedding of a click in another image.

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
    if (image is None) == (coco is None):
        raise ValueError("predict: expected either IMAGE with --point X Y, or --coco, --images and --clicks")
    if coco is not None and (images is None or clicks is None or out is None):
        raise ValueError("predict --coco: expected --images, --clicks and --out, too")
    if image is not None and not point and embedding is None:
        raise ValueError("predict IMAGE: expected at least one --point X Y, or --embedding")
    if embedding is not None and (point or not_point or save_embedding):
        raise ValueError("predict --embedding: expected no --point, --not-point or --save-embedding")
    if tile and save_embedding is not None:
        raise ValueError("predict --tile: expected no --save-embedding; embed in an image that is read in one piece")
    from dealkit.clicks import load_clicks
    from dealkit.data.coco import CocoFolder
    from dealkit.model.checkpoint import load_model
    from dealkit.predict.embedding import load_embedding
    from dealkit.predict.predictor import Predictor, predict_coco
    from dealkit.predict.tiles import predict_large

    if coco is not None:
        found = predict_coco(load_model(checkpoint), CocoFolder(coco, images), [load_clicks(clicks, coco)])[0]
        write_json(out, found)
        print(f"{out}: {len(found)} detections")
        return
    predictor = Predictor(checkpoint, threshold=DEFAULT_THRESHOLD if threshold is None else threshold)
    points, labels = point + not_point, [1] * len(point) + [0] * len(not_point)
    kind = load_embedding(embedding) if embedding else None
    if tile:
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


def click(
    images: tyro.conf.Positional[Path],
    checkpoint: Path = DEFAULT_CHECKPOINT,
    threshold: float | Literal["adaptive"] = DEFAULT_THRESHOLD,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Click in a folder of images, or in one image, on a page in the browser; correct and export the boxes.

    The page is served to this machine only, at an address with a secret token.

    Args:
        images: folder of images, or one image file.
        checkpoint: model weights.
        threshold: lowest score shown at first, or `adaptive`: a cut of its own for every answer.
        port: where the page is served; 0: any port that is free.
        browser: open the page; else its address is printed only.
    """
    from dealkit.predict.predictor import Predictor
    from dealkit.widget.page import serve_page
    from dealkit.widget.session import Session

    serve_page(Session(images, Predictor(checkpoint, threshold=threshold)), port, browser=browser)


def bench(
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None, checkpoint: Path = DEFAULT_CHECKPOINT, size: int = 512
) -> None:
    """Time encode, click, training and evaluation, as ratios to RT-DETRv2-R18 in the same process.

    Args:
        json_file: write the figures to this file.
        checkpoint: model to time.
        size: side of the timed image.
    """
    from dealkit.studies.speed import run_bench

    figures = run_bench(checkpoint, size=size)
    print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
    if json_file is not None:
        write_json(json_file, figures)


def report(photos: bool = False, checkpoint: Path = DEFAULT_CHECKPOINT) -> None:
    """Write the tables of the README and of `data/results` from the results there are.

    Args:
        photos: first score the checkpoint on photographs and scenes, and draw the README's picture with the default one.
        checkpoint: model weights.
    """
    from dealkit.report.tables import update_tables

    if photos:
        from dealkit.evaluate.benchmark import photo_results

        photo_results(checkpoint, PROJECT_ROOT / "data" / "results" / f"photos_{checkpoint.stem}.json")
        if checkpoint.resolve() == DEFAULT_CHECKPOINT:
            demo(PROJECT_ROOT / "figures", checkpoint)
    update_tables()


def publish(
    run: tyro.conf.Positional[Path],
    out: Path,
    after: tuple[Path, ...] = (),
    weights: tuple[Path, ...] = (),
    shares: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0),
    scenes: int = 100,
) -> None:
    """Make a finished run, or an average of weights of one training, a checkpoint in half precision.

    Config and log go beside it as `<name>.config.json` and `<name>.log.jsonl`; minutes and scores of the averages go to
    `data/results` for a checkpoint of `data/checkpoints`, else beside it.

    Args:
        run: folder of the run.
        out: checkpoint to write.
        after: folders of the earlier parts of this training, in order.
        weights: checkpoints to publish instead of the run's own: one as it is, or an average of the first and later ones.
        shares: shares of the later weights to try; held-out procedural scenes decide.
        scenes: number of these scenes.
    """
    from dealkit.report.publish import choose_average
    from dealkit.report.publish import publish as publish_run

    published = out.resolve().parent == DEFAULT_CHECKPOINT.parent
    results, chosen = PROJECT_ROOT / "data" / "results" if published else out.parent, weights[0] if weights else None
    if len(weights) > 1:
        chosen = run / "averaged.safetensors"
        made = choose_average(weights[0], weights[1:], chosen, shares=shares, scenes=scenes)
        write_json(results / f"average_{out.stem}.json", made)
        for row in made["shares"]:
            ap50, ignored = 100 * row["ap50"], 100 * row["ap50_ignored"]
            print(f"{row['share']:.2f} of the later: AP50 {ap50:.1f}, clicked ignored {ignored:.1f}")
        print(f"{made['best']:.2f} of the later is published")
    publish_run(run, out, after=after, weights=chosen, training=results / f"training_{out.stem}.json")
    print(out)
