"""Commands that measure a checkpoint."""

import json
from pathlib import Path
from typing import Literal

from dealkit.config import NANO
from dealkit.files import PROJECT_ROOT, find_files


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
    from dealkit.clicks import load_clicks
    from dealkit.evaluate.coco import evaluate as score
    from dealkit.evaluate.coco import summary_line
    from dealkit.files import write_json

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
    from dealkit.clicks import load_clicks
    from dealkit.evaluate.errors import errors_json, errors_text, find_errors
    from dealkit.files import write_json

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
    from dealkit.baselines.detector import is_detector
    from dealkit.baselines.scoring import benchmark_detector
    from dealkit.evaluate.benchmark import benchmark as run_benchmark

    if is_detector(checkpoint):
        benchmark_detector(checkpoint, find_files(coco) if coco else [], out, scenes=scenes)
        return
    run_benchmark(checkpoint, find_files(coco), out, settings=settings, kinds=kinds, seeds=seeds, clicks_folder=clicks)


def templates(
    coco: list[str],
    out: Path = PROJECT_ROOT / "data" / "results" / "template_realsmall.json",
    variants: list[str] = ["box", "click"],  # noqa: B006
    seeds: int = 1,
) -> None:
    """Score template matching, which knows nothing but the clicked example, or an open model by others, as `benchmark` scores a
    checkpoint; goes on where it was stopped.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        variants: what template matching is shown: `box`, `click`, `box, scaled and turned`; or `owlv2`, `grounding_dino`, `sam3`
            with weights in the local cache of Hugging Face.
        seeds: click lists.
    """
    from dealkit.baselines.open_models import OPEN_MODELS
    from dealkit.baselines.scoring import VARIANTS, benchmark_templates
    from dealkit.evaluate.benchmark import per_cent

    if not set(variants) <= {*VARIANTS, *OPEN_MODELS}:
        raise ValueError(f"--variants: expected some of {'; '.join([*VARIANTS, *OPEN_MODELS])}, got {'; '.join(variants)}")
    for variant, row in benchmark_templates(find_files(coco), out, variants=variants, seeds=seeds)["mean"].items():
        print(f"{variant:24} AP50 {per_cent(row['ap50'])}, clicked ignored {per_cent(row['ap50_ignored'])}")


def calibrate(coco: list[str], out: Path, checkpoint: Path = NANO, images: int = 24) -> None:
    """Find the score threshold and duplicate IoU that are best on training images; the defaults of `predict` come from here.

    Args:
        coco: training COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        images: how many images of each file.
    """
    from dealkit.evaluate.thresholds import calibrate as run_calibrate

    print(run_calibrate(checkpoint, find_files(coco), out, images=images)["best"])


def thresholds(coco: list[str], out: Path, checkpoint: Path = NANO, images: int = 24) -> None:
    """Compare the adaptive threshold with fixed ones and with the best cut of every prompt: F1 and counting error.

    Args:
        coco: COCO files, glob patterns allowed; images in `images` beside each.
        out: JSON of results.
        checkpoint: model weights.
        images: how many images of each file.
    """
    from dealkit.evaluate.thresholds import compare_thresholds

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
    from dealkit.studies.transfer import transfer as run_transfer

    made = run_transfer(checkpoint, find_files(coco), out, clicked=clicked, targets=targets, seeds=seeds)
    print(json.dumps(made["mean"], indent=1))


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
    from dealkit.evaluate.benchmark import per_cent
    from dealkit.studies.rounds import click_curves

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
    from dealkit.evaluate.benchmark import per_cent
    from dealkit.studies.positions import position_curves

    results = position_curves(checkpoint, find_files(coco), out, offsets=offsets, images=images, seeds=seeds)
    for point in results["mean"]:
        print(f"{point['offset']:.2f}  AP50 {per_cent(point['ap50'])}, clicked ignored {per_cent(point['ap50_ignored'])}")


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
    from dealkit.studies.failures import failure_report, failure_text

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
        factors: only these, see `dealkit.studies.controlled.EXPERIMENTS`.
        attributes: only these, see `dealkit.studies.controlled.STEPS`.
    """
    from dealkit.evaluate.benchmark import per_cent
    from dealkit.studies.controlled import controlled as run_controlled

    made = run_controlled(checkpoint, out, scenes=scenes, large=large, factors=factors, attributes=attributes)
    for part, key in (("factors", "level"), ("fine_grained", "step")):
        for name, rows in made[part].items():
            print(f"{name:14}", "  ".join(f"{row[key]:g}: {per_cent(row['ap50'])}" for row in rows["levels"]))
