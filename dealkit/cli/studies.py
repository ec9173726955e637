"""Commands that compare trainings: every one goes on where it was stopped."""

from pathlib import Path
from typing import Literal

import tyro

from dealkit.cli.shared import Flat
from dealkit.config import HELD_OUT, MODELS, NANO, Budget, BuildConfig, DataConfig, DetectorConfig, TrainConfig
from dealkit.files import PROJECT_ROOT, find_files
from dealkit.studies.ablation import ablation_run, run_grid


def ablate(
    grid: tyro.conf.Positional[Literal["components", "additions", "strategies", "cycles", "scales"]],
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
        grid: which cells, see `dealkit.studies.ablation.GRIDS`.
        out: folder of the runs.
        seeds: trainings per cell.
        steps: steps of each training.
        size: side of training crops and evaluation scenes in pixels.
        start_steps: if not 0, all cells of a seed go on from one training with one cycle and so many steps.
        coco: COCO files to train on besides procedural scenes.
        results: JSON of all cells; those that it already holds are not run again.
    """
    from dealkit.report.tables import paired_gains
    from dealkit.studies.ablation import ablation_run, run_grid

    base = ablation_run(steps=steps, size=size, coco=coco)
    for row in paired_gains(run_grid(base, grid, out, seeds=seeds, start_steps=start_steps, results=results)["rows"]):
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
        print(f"{row['cell']:28} AP50 {100 * row['mean']:5.1f}{spread}   to the first {100 * row['gain']:+5.1f}")


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
    from dealkit.evaluate.benchmark import per_cent
    from dealkit.studies.race import race as run_race

    files = find_files(val, "--val") if val else []
    options = {"data": data, "detector": detector, "schedule": schedule, "val": files, "scenes": scenes, "points": points}
    for name, row in run_race(out, minutes=minutes, models=models, results=results, **options)["models"].items():
        last = row["curve"][-1]
        print(f"{name:12} {last['minutes']:.1f} minutes: AP50 {per_cent(last['ap50'])}, AP75 {per_cent(last['ap75'])}")


def label_efficiency(
    files: tyro.conf.Positional[list[str]],
    results: Path,
    out: Path = PROJECT_ROOT / "data" / "runs" / "label_efficiency",
    rows: list[str] = [],  # noqa: B006
    seeds: int = 1,
    budget: Flat[Budget] = Budget(),  # noqa: B008 (frozen)
    checkpoint: Path | None = NANO,
    init: dict[str, Path] = {},  # noqa: B006
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
        init: checkpoints that rows start from, as `fcos FILE deal FILE`, trained on none of the labels (procedural scenes).
    """
    from dealkit.report.tables import efficiency_table
    from dealkit.studies.label_efficiency import ROWS

    chosen = [row for row in ROWS if not rows or any(part in row.name for part in rows)]
    if not chosen:
        raise ValueError(f"--rows: no row is called like {', '.join(rows)}; there are {'; '.join(row.name for row in ROWS)}")
    found, folder = find_files(files, "FILES"), out / results.stem
    made = run_grid(found, folder, rows=chosen, seeds=seeds, budget=budget, checkpoint=checkpoint, init=init, results=results)
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
    from dealkit.data.objects import load_domains
    from dealkit.report.tables import protocol_table
    from dealkit.studies.left_out import run_protocol

    base = ablation_run(model=MODELS[model], minutes=minutes, steps=steps, size=size, cycles=cycles)
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
        detector: checkpoint of a detector without prompts (FCOS or another) trained on what `checkpoint`
            was trained on; it is fine-tuned on the same images.
    """
    from dealkit.baselines.detector import load_detector
    from dealkit.report.tables import shot_table
    from dealkit.studies.adaptation import adapt as run_adapt
    from dealkit.studies.adaptation import adapting_run, tuned_detector
    from dealkit.studies.claims import MODEL_NAMES

    run = adapting_run(checkpoint, steps=steps, size=size)
    others = {}
    if detector is not None:
        others[MODEL_NAMES[load_detector(detector).config.detector]] = tuned_detector(run, init=detector, clicks=seeds)
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
    from dealkit.data.subsets import find_sources
    from dealkit.studies.adaptation import adapting_run
    from dealkit.studies.prompt_transfer import adapted_matrix, losses, prompt_matrix, rank_correlation

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
    from dealkit.report.tables import public_table
    from dealkit.studies.dior_dota import evaluate_public

    out = out or PROJECT_ROOT / "data" / "results" / f"public_{name}_{checkpoint.stem}.json"
    options = {"seeds": seeds, "images": images, "seen": seen, "tile": tile, "overlap": overlap}
    print(public_table([evaluate_public(name, root, checkpoint, out, work, **options)]))
