"""Commands that score predictions and checkpoints."""

from pathlib import Path
from typing import Literal

from dealkit.cli.checks import Maybe, Outside, Several, check_coco, check_effect, check_json, check_out, check_weights, starts
from dealkit.config import COUNT_RANGE, DEFAULT_CHECKPOINT, SHARE_RANGE, check_range
from dealkit.files import find_files

Template = Literal[
    "box", "click", "box, scaled and turned", "features, box", "features, click", "owlv2", "grounding_dino", "sam3"
]


def evaluate(
    coco: Path,
    predictions: Path,
    out: Path,
    clicks: Maybe[Path] = None,
    class_agnostic: bool = False,
    max_dets: int = 1500,
    drop: bool = False,
    allow_outside: Outside = False,
    overwrite: bool = False,
) -> None:
    """Score predictions: AP, size bins, recall, hit, count error; clicked objects counted and ignored.

    Example: python -m dealkit evaluate --coco val.json --predictions preds.json --clicks clicks.json --out results.json

    Args:
        coco: COCO JSON of the ground truth.
        predictions: standard COCO results.
        out: JSON of results to write.
        clicks: the click list that the predictions were made from.
        class_agnostic: one foreground class, as in the paper's table.
        max_dets: most detections per image and category.
        drop: leave out annotations without a positive width and height, and say how many.
        overwrite: write over a file that this command has not made.
    """
    _check_scored(coco, predictions, clicks, allow_outside)
    check_out(out, [coco, predictions, clicks], ours=starts('{"protocol"'), overwrite=overwrite)
    from dealkit.clicks import load_clicks
    from dealkit.data.annotations import read_coco
    from dealkit.evaluate.coco import evaluate as score
    from dealkit.evaluate.coco import summary_line
    from dealkit.files import write_json

    truth = read_coco(coco, drop=drop)
    click_list = load_clicks(clicks, truth) if clicks else None
    results = score(truth, predictions, click_list, max_dets=max_dets, class_agnostic=class_agnostic)
    write_json(out, results)
    print(summary_line(results))
    print(out)


def errors(
    coco: Path,
    predictions: Path,
    out: Path,
    clicks: Maybe[Path] = None,
    max_dets: int = 1500,
    min_score: float = 0.0,
    foreground: float = 0.5,
    background: float = 0.1,
    ignore_clicked: bool = False,
    drop: bool = False,
    allow_outside: Outside = False,
    overwrite: bool = False,
) -> None:
    """Find the kind of every mistake in predictions, and what AP50 would be without each kind.

    Example: python -m dealkit errors --coco val.json --predictions preds.json --clicks clicks.json --out errors.json

    Args:
        coco: COCO JSON of the ground truth.
        predictions: standard COCO results.
        out: JSON to write, with the state of every object and the type of every detection.
        clicks: the click list that the predictions were made from.
        max_dets: most detections per image and category.
        min_score: detections under this score do not count at all.
        foreground: IoU from which a detection matches an object.
        background: IoU from which a detection concerns an object.
        ignore_clicked: the clicked objects are neither found nor missed.
        drop: leave out annotations without a positive width and height, and say how many.
        overwrite: write over a file that this command has not made.
    """
    if clicks is None:
        check_effect(errors, locals(), ["ignore_clicked"], "without --clicks")
    for option, share in (("--min-score", min_score), ("--foreground", foreground), ("--background", background)):
        check_range(option, share, *SHARE_RANGE)
    _check_scored(coco, predictions, clicks, allow_outside)
    check_out(out, [coco, predictions, clicks], ours=starts('{"request"'), overwrite=overwrite)
    from dealkit.clicks import load_clicks
    from dealkit.data.annotations import read_coco
    from dealkit.evaluate.errors import errors_json, errors_text, find_errors
    from dealkit.files import write_json

    thresholds = {"max_dets": max_dets, "min_score": min_score, "foreground": foreground, "background": background}
    truth = read_coco(coco, drop=drop)
    click_list = load_clicks(clicks, truth) if clicks else None
    made = errors_json(find_errors(truth, predictions, click_list, **thresholds, ignore_clicked=ignore_clicked))
    write_json(out, made)
    print(errors_text(made))
    print(out)


def _check_scored(coco: Path, predictions: Path, clicks: Path | None, outside: bool) -> None:
    check_coco("--coco", coco, outside=outside)
    check_json("--predictions", predictions)
    check_json("--clicks", clicks)


def benchmark(
    out: Path,
    coco: Several[str] = (),
    checkpoint: Path = DEFAULT_CHECKPOINT,
    settings: tuple[Literal["1/category", "3/category", "5/category", "1/instance"], ...] = ("1/category",),
    kinds: tuple[Literal["centre", "jitter", "box"], ...] = ("centre",),
    seeds: int = 5,
    rounds: tuple[int, ...] = (1,),
    rescale: bool = False,
    clicks: Maybe[Path] = None,
    scenes: int = 0,
    templates: Several[Template] = (),
    thresholds: Maybe[Literal["choose", "compare"]] = None,
    margins: bool = False,
    images: int = 24,
    allow_outside: Outside = False,
    overwrite: bool = False,
) -> None:
    """Score DEAL, a detector or template matching on several COCO sources; mean and spread over seeds.

    A detector without prompts is scored once, class-agnostic and per category.

    Example: python -m dealkit benchmark --coco "data/raw/*/val.json" --out results.json

    Args:
        out: JSON of results.
        coco: COCO files, glob patterns allowed; images in `images` beside each, or beside it.
        checkpoint: model weights.
        settings: click settings.
        kinds: click kinds.
        seeds: click lists per setting and kind.
        rounds: how often the surest detections of a prompt become prompts themselves; 1 is the prompt alone.
        rescale: read an image again, larger or smaller, where what was clicked is under 8 px or over 192, as `predict` does.
        clicks: folder to write the click lists to.
        scenes: a detector without prompts is scored on so many procedural scenes, too.
        templates: instead of the checkpoint, template matching shown `box`, `click` or `box, scaled and turned`; ImageNet
            features shown `features, box` or `features, click`; or `owlv2`, `grounding_dino`, `sam3` with
            weights in the local cache of Hugging Face.
        thresholds: `choose` finds the score threshold and duplicate IoU best on training images; `compare` sets the adaptive
            threshold beside fixed ones and the best cut of every prompt.
        margins: how well all boxes follow one that was drawn wider or tighter than those of the training.
        images: how many images of each file thresholds or margins are tried on.
        overwrite: write over a file that this command has not made.
    """
    given, prompts = locals(), ["settings", "kinds", "rounds", "rescale", "clicks"]
    if templates:
        check_effect(benchmark, given, [*prompts, "checkpoint", "scenes", "thresholds", "margins", "images"], "with --templates")
    elif thresholds:
        check_effect(benchmark, given, [*prompts, "seeds", "scenes", "margins"], "with --thresholds")
    elif margins:
        check_effect(benchmark, given, [*prompts, "seeds", "scenes"], "with --margins")
    check_range("--seeds", seeds, 1, 1000)
    for n in rounds:
        check_range("--rounds", n, 1, 10)
    check_range("--scenes", scenes)
    check_range("--images", images, *COUNT_RANGE)
    files = find_files(list(coco)) if coco or not scenes else []
    check_coco("--coco", *files, outside=allow_outside)
    check_out(out, [checkpoint, *files], ours=starts('{"request"', '{"checkpoint"'), overwrite=overwrite)
    if not templates:
        check_weights(checkpoint)
    from dealkit.baselines.detector import is_detector
    from dealkit.baselines.scoring import benchmark_detector, benchmark_templates
    from dealkit.evaluate.benchmark import benchmark as run_benchmark
    from dealkit.evaluate.thresholds import calibrate, compare_thresholds
    from dealkit.studies.margins import compare_margins

    if not (thresholds or templates or margins):
        detector = is_detector(checkpoint)
        unused = [*prompts, "seeds", "images"] if detector else ["scenes", "images"]
        check_effect(benchmark, given, unused, f"for a {'detector without prompts' if detector else 'DEAL'}")
    if templates:
        benchmark_templates(files, out, variants=templates, seeds=seeds)
    elif thresholds == "choose":
        print(calibrate(checkpoint, files, out, images=images)["best"])
    elif thresholds == "compare":
        print(compare_thresholds(checkpoint, files, out, images=images)["mean"])
    elif margins:
        compare_margins(checkpoint, files, out, images=images)
    elif detector:
        benchmark_detector(checkpoint, files, out, scenes=scenes)
    else:
        options = {"settings": list(settings), "kinds": list(kinds), "rounds": list(rounds), "rescale": rescale, "seeds": seeds}
        run_benchmark(checkpoint, files, out, **options, clicks_folder=clicks)
    print(out)
