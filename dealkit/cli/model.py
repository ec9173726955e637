"""Commands that show a model, train it, time it, and publish it."""

import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dealkit.cli.checks import (
    Maybe,
    Outside,
    Several,
    check_coco,
    check_effect,
    check_folder,
    check_image,
    check_json,
    check_out,
    check_place,
    check_weights,
    is_weights,
    starts,
)
from dealkit.config import (
    COUNT_RANGE,
    DEFAULT_CHECKPOINT,
    DETECTORS,
    MODELS,
    SHARE_RANGE,
    DataConfig,
    DetectorConfig,
    DetectorRun,
    LossConfig,
    MethodConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
    check_range,
    load_config,
    to_dict,
)
from dealkit.files import PROJECT_ROOT, files_and_folder, write_json
from dealkit.predict.folder import list_images
from dealkit.predict.threshold import check_threshold


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(DetectorConfig):
    """A `DetectorConfig` without the two fields that are no options: --model names the detector, checkpoints the architecture."""

    detector: Annotated[str, tyro.conf.Suppress] = DetectorConfig.detector
    architecture: Annotated[str, tyro.conf.Suppress] = DetectorConfig.architecture


def demo(out: Path = PROJECT_ROOT / "data" / "runs" / "demo", checkpoint: Path = DEFAULT_CHECKPOINT) -> None:
    """Click one coin of a photograph and get all coins; then the galaxies of the Hubble deep field.

    Example: python -m dealkit demo --out pictures

    Args:
        out: folder of the pictures.
        checkpoint: model to show.
    """
    check_place(out)
    check_folder(out if out.exists() else None, "--out")
    check_weights(checkpoint)
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
    allow_outside: Outside = False,
    config: Maybe[Path] = None,
    resume: bool = False,
    init: Maybe[Path] = None,
    partly: bool = False,
) -> None:
    """Train a DEAL, or a detector without prompts, on procedural scenes and COCO folders.

    Example: python -m dealkit train --out data/runs/mine --coco train.json --max-minutes 60

    Args:
        out: folder of the run: config, log, state to resume, model.
        model: published configuration of a DEAL, or a detector without prompts.
        detector: settings of a detector.
        method: how a detector learns from incomplete labels.
        per_category: a detector tells the categories of the COCO files apart, by name; else all are one class.
        config: JSON of a whole run (as `config.json` of another), instead of the options above.
        resume: continue the run in `out` with its own config.
        init: checkpoint to start the weights from.
        partly: the checkpoint may have another config; what fits is taken over.
    """
    check_place(out)
    check_folder(out if out.exists() else None, "--out")
    given, options = locals(), ["model", "data", "schedule", "loss", "prompt", "detector", "method", "per_category"]
    if resume:
        check_effect(train, given, [*options, "config", "init", "partly"], "with --resume")
    elif config:
        check_effect(train, given, options, "with --config")
    else:
        unused = ["loss", "prompt", "partly"] if model in DETECTORS else ["detector", "method", "per_category"]
        check_effect(train, given, unused, f"with --model {model}")
    if init is None:
        check_effect(train, given, ["partly"], "without --init")
    check_coco("--coco", outside=allow_outside)  # the categories of a detector are read before the rest is checked
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
    for entry in run.data.coco:
        files, folder = files_and_folder(entry)
        check_json("--coco", *(file for file in files if file.suffix != ".parquet"))
        check_folder(folder, "--coco")
    check_weights(init)
    from dealkit.baselines.methods import train_with
    from dealkit.baselines.scoring import validate_detector
    from dealkit.evaluate.benchmark import validate_on_scenes
    from dealkit.train import ranks
    from dealkit.train.deal import fit

    if isinstance(run, DetectorRun):
        train_with(run, out, resume=resume, init=init, validate=validate_detector)
    else:
        fit(run, out, resume=resume, init=init, partly=partly, validate=validate_on_scenes)
    if ranks.number() == 0:
        print(f"{out}: config.json, log.jsonl, model.safetensors, state.pt")


def serve(
    root: Maybe[Path] = None,
    media: Maybe[Path] = None,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    threshold: float | Literal["adaptive"] = "adaptive",
    host: str = "127.0.0.1",
    port: int = 9090,
    show_config: bool = False,
) -> None:
    """Answer Label Studio: click one object there, get rectangles round all of its kind.

    Label Studio refuses models on its own machine, unless it is started with LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false.

    Example: python -m dealkit serve --root photos

    Args:
        root: folder of Label Studio's Local Storage, its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
        media: folder of its uploads; default: where it keeps them for this user.
        checkpoint: model weights.
        threshold: lowest score of a rectangle, or `adaptive`.
        host: address to listen at; the default is reached from this machine alone.
        port: to listen at.
        show_config: print a labelling interface to start from, and end.
    """
    check_threshold(threshold)
    check_range("--port", port, 0, 65535)
    check_folder(root, "--root")
    check_folder(media, "--media")
    check_weights(checkpoint)
    from dealkit.predict.predictor import Predictor
    from dealkit.serve.labelstudio import LABEL_CONFIG, Backend, make_server

    if show_config:
        print(LABEL_CONFIG)
        return
    backend = Backend(Predictor(checkpoint, threshold=threshold), root=root, media=media)
    try:
        server = make_server(backend, host=host, port=port)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from None
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(f"warning: --host {host} lets other machines use this without a login", file=sys.stderr)
    print(f"http://{host}:{server.server_port}: add it as a model in Label Studio's settings; Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def click(
    images: tyro.conf.Positional[Path],
    checkpoint: Path = DEFAULT_CHECKPOINT,
    threshold: float | Literal["adaptive"] = "adaptive",
    out: Maybe[Path] = None,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Click in a folder of images, or in one image, on a page in the browser; correct and export the boxes.

    The page is served to this machine only, at an address with a secret token.

    Example: python -m dealkit click photos --out boxes.json

    Args:
        images: folder of images, or one image file.
        checkpoint: model weights.
        threshold: lowest score shown at first, or `adaptive`: a cut of its own for every answer.
        out: COCO JSON of the boxes, written when you go to another image and at the end; a file that is there is gone on from.
        port: where the page is served; 0: any port that is free.
        browser: open the page; else its address is printed only.
    """
    check_threshold(threshold)
    check_range("--port", port, 0, 65535)
    if images.is_dir():
        list_images(images)
    else:
        check_image(images, "IMAGES")
    check_out(out, [images, checkpoint], ours=starts('{"images"', '{"info"', '{"licenses"'), overwrite=False)
    check_weights(checkpoint)
    from dealkit.predict.predictor import Predictor
    from dealkit.widget.page import serve_page
    from dealkit.widget.session import Session

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    serve_page(Session(images, Predictor(checkpoint, threshold=threshold), out), port, browser=browser)


def export_onnx(out: Path, checkpoint: Path = DEFAULT_CHECKPOINT) -> None:
    """Write a model as ONNX graphs, to run it without PyTorch: the prompt is an input, every size of image will do.

    `dealkit.predict.onnx.OnnxPredictor` reads the folder; other runtimes may, too.

    Example: python -m dealkit export onnx --out nano_onnx

    Args:
        out: folder of encode.onnx, embed.onnx, detect.onnx and model.json.
        checkpoint: model weights.
    """
    check_place(out)
    check_folder(out if out.exists() else None, "--out")
    check_weights(checkpoint)
    from dealkit.model.checkpoint import load_model
    from dealkit.predict.export import export_onnx as export

    print(*export(load_model(checkpoint), out), sep="\n")


def bench(
    json_file: Annotated[Maybe[Path], tyro.conf.arg(name="json")] = None,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    size: int = 512,
    large: bool = False,
    ray: bool = False,
    runtimes: Maybe[Path] = None,
    browser: bool = False,
    boxes: int = 0,
    overwrite: bool = False,
) -> None:
    """Time encode, click, training and evaluation, as ratios to RT-DETRv2-R18 in the same process.

    Example: python -m dealkit bench --json bench.json

    Args:
        json_file: write the figures to this file.
        checkpoint: model to time.
        size: side of the timed image.
        large: instead, one click on a map of 30,000 x 30,000 pixels with its memory, and merging up to a million boxes.
        runtimes: instead PyTorch, ONNX Runtime and OpenVINO side by side: time, memory, and AP on the first images of this COCO
            file.
        browser: instead single clicks in the click page beside the same ones in Python, in Chromium.
        ray: instead time the workers of a local Ray, and what very many images cost.
        boxes: if not 0, instead the index of a TinySet of so many boxes: written, opened and drawn from.
        overwrite: write over a file that this command has not made.
    """
    given = locals()
    chosen = [name for name in ("large", "runtimes", "browser", "ray", "boxes") if given[name]]
    if chosen:
        check_effect(bench, given, [*chosen[1:], *["size"] * (chosen[0] != "runtimes")], f"with --{chosen[0]}")
    check_range("--size", size, 16, 8192)
    check_range("--boxes", boxes, 0, 10**9)
    check_out(json_file, [checkpoint], ours=starts('{"checkpoint"', '{"boxes"'), overwrite=overwrite, option="--json")
    check_weights(checkpoint)
    check_json("--runtimes", runtimes)
    from dealkit.studies.speed import run_bench, run_large

    if ray:
        from dealkit.studies.many_images import run_many

        figures = run_many(checkpoint)
    elif runtimes:
        from dealkit.studies.runtimes import run_runtimes

        figures = run_runtimes(checkpoint, runtimes, size=size)
    elif browser:
        from dealkit.studies.browser import run_browser

        figures = run_browser(checkpoint)
    elif boxes:
        from dealkit.studies.index_speed import bench_index

        figures = bench_index(boxes)
    else:
        figures = run_large(checkpoint) if large else run_bench(checkpoint, size=size)
    print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
    if json_file is not None:
        write_json(json_file, figures)
        print(json_file)


def report(
    photos: bool = False,
    unseen: Maybe[Path] = None,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    check: bool = False,
) -> None:
    """Write the tables of the README and of `data/results` from the results there are.

    Example: python -m dealkit report

    Args:
        photos: first score the checkpoint on photographs and scenes, and draw the README's picture with the default one.
        unseen: first draw `figures/unseen.jpg`: median prompts of the sources in this folder, which the checkpoint never saw.
        checkpoint: model weights.
        check: write nothing; an error names the first table that differs from its results.
    """
    if check:
        check_effect(report, locals(), ["photos", "unseen"], "with --check")
    if not photos and not unseen:
        check_effect(report, locals(), ["checkpoint"], "without --photos or --unseen")
    if photos or unseen:
        check_weights(checkpoint)
    results = PROJECT_ROOT / "data" / "results"
    if unseen:
        check_json("--unseen", unseen / "sources.json", results / f"unseen_{checkpoint.stem}.json")
    from dealkit.report.pages import update_tables

    if photos:
        from dealkit.evaluate.benchmark import photo_results

        photo_results(checkpoint, results / f"photos_{checkpoint.stem}.json")
        if checkpoint.resolve() == DEFAULT_CHECKPOINT:
            demo(PROJECT_ROOT / "figures", checkpoint)
    if unseen:
        from dealkit.report.showcase import showcase

        files = results / f"unseen_{checkpoint.stem}.json", PROJECT_ROOT / "figures" / "unseen.jpg"
        showcase(unseen, checkpoint, *files, results / f"showcase_{checkpoint.stem}.json")
    update_tables(check=check)
    if check:
        print("every table is that of its results")


def publish(
    run: tyro.conf.Positional[Path],
    out: Path,
    after: Several[Path] = (),
    weights: Several[Path] = (),
    shares: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0),
    scenes: int = 100,
    overwrite: bool = False,
) -> None:
    """Make a finished run, or an average of weights of one training, a checkpoint in half precision.

    Config and log go beside it as `<name>.config.json` and `<name>.log.jsonl`; minutes and scores of the averages go to
    `data/results` for a checkpoint of `data/checkpoints`, else beside it.

    Example: python -m dealkit publish data/runs/mine --out mine.safetensors

    Args:
        run: folder of the run.
        out: checkpoint to write.
        after: folders of the earlier parts of this training, in order.
        weights: checkpoints to publish instead of the run's own: one as it is, or an average of the first and later ones.
        shares: shares of the later weights to try; held-out procedural scenes decide.
        scenes: number of these scenes.
        overwrite: write over a file that is no checkpoint.
    """
    if len(weights) < 2:
        check_effect(publish, locals(), ["shares", "scenes"], "without two --weights")
    check_range("--scenes", scenes, *COUNT_RANGE)
    for share in shares:
        check_range("--shares", share, *SHARE_RANGE)
    for folder in (run, *after):
        check_folder(folder, "RUN" if folder == run else "--after")
    for file in weights or (run / "model.safetensors",):
        check_weights(file)
    inputs = [*weights, *(folder / "model.safetensors" for folder in (run, *after))]
    check_out(out, inputs, suffixes=(".safetensors",), ours=is_weights, overwrite=overwrite)
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
