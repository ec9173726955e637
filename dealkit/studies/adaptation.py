"""What do a few labelled images of a new source bring? Fine-tuning on k of them, beside clicks alone and another detector.

A source is a folder with `train.json`, `val.json` and `images/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dealkit.baselines.detector import Detector, load_detector
from dealkit.baselines.methods import train_with
from dealkit.baselines.scoring import category_rows, detect_coco
from dealkit.clicks import make_clicks
from dealkit.config import HELD_OUT, DataConfig, DetectorConfig, DetectorRun, PromptConfig, RunConfig, TrainConfig, portable
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import some_images
from dealkit.evaluate.benchmark import benchmark, row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, sha_of
from dealkit.model.checkpoint import load_model
from dealkit.studies.runs import folder_of, trained

CLICKS, DEAL_TUNED = "clicks alone", "fine-tuned"
"""Methods of few-click adaptation; other detectors go by their names."""

SHOTS = (1, 5, 20)
"""Labelled images of the new source."""

Tuned = Callable[[Path, Path, Path, int], list[Json]]
"""(training file, validation file, folder, draw) -> a row per click list: another detector on the same images."""


def adapting_run(checkpoint: Path, *, steps: int = 60, size: int = 192, batch_size: int = 4, lr: float = 1e-4) -> RunConfig:
    """The fine-tuning of a checkpoint: few steps at a low rate, a share of procedural scenes so that it does not forget.

    Choice: a minute or two on a CPU whatever k is; a quarter of the first training's rate. Set before anything was measured.
    """
    schedule = TrainConfig(steps=steps, warmup=max(1, steps // 10), batch_size=batch_size, lr=lr, ema_decay=0.9, log_every=10)
    data = DataConfig(size=size, synthetic=0.2, workers=0)
    return RunConfig(model=load_model(checkpoint).config, data=data, train=schedule, prompt=PromptConfig(cycles=1))


def adapted(checkpoint: Path, file: Path, run: RunConfig, out: Path, *, images: int | None, seed: int) -> tuple[Path, Json]:
    """Fine-tune a checkpoint on `images` (None: all) of a source's `train.json`; its new checkpoint and what `trained` gives."""
    part = file if images is None else some_images(file, images, Path(out) / "parts" / f"{images}-{seed}", seed=seed)
    own = replace(run, data=replace(run.data, coco=(str(part),)), train=replace(run.train, seed=seed))
    folder = folder_of(own, checkpoint, out)
    return folder / "model.safetensors", trained(own, folder, checkpoint)


def few_shot_scores(
    checkpoint: Path,
    root: Path,
    out: Path,
    *,
    run: RunConfig,
    sources: Sequence[str] = HELD_OUT,
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    detectors: Mapping[str, Tuned] | None = None,
    results: Path | None = None,
) -> Results:
    """Scores on a source's validation images against the number of its labelled images.

    A row per `source`, `method`, `shots`, `draw` of the images and seed of the clicks: `minutes` of training, the numbers of
    `row_of`. `clicks alone` has 0 shots.

    Args:
        checkpoint: a model that has not seen the sources. root: folder of the sources. out: folder of the runs.
        run: of `adapting_run`. shots: numbers of images; the fewer are among the more.
        seeds: draws of the images, and click lists that test each model.
        detectors: other detectors by name, fine-tuned on the same images.
        results: JSON to go on with; default: `adapt.json` in `out`.
    """
    root, out, others = Path(root), Path(out), dict(detectors or {})
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "run": portable(run)}
    made = Results(results or out / "adapt.json", request | {"shots": list(shots), "seeds": seeds, "detectors": list(others)})
    cells = [(source, CLICKS, 0, 0) for source in sources]
    cells += [(s, m, k, draw) for draw in range(seeds) for k in shots for s in sources for m in (DEAL_TUNED, *others)]
    keys = [dict(zip(("source", "method", "shots", "draw"), cell, strict=True)) for cell in cells]
    for key in made.todo(keys, "adapt"):
        source, method, k, draw = key.values()
        train, val = root / source / "train.json", root / source / "val.json"
        if method in others:
            part = some_images(train, k, out / "parts" / f"{k}-{draw}", seed=draw)
            made.add(key, *others[method](part, val, out / "detectors" / f"{method}-{source}-{k}-{draw}", draw))
        else:
            start = Path(checkpoint), {"minutes": 0.0}
            model, training = adapted(checkpoint, train, run, out, images=k, seed=draw) if k else start
            made.add(key | {"minutes": training["minutes"]}, *benchmark(model, [val], None, prompts=("alone",), seeds=seeds).rows)
    return made


def tuned_detector(run: RunConfig, *, detector: str = "fcos", init: Path | None = None, clicks: int = 3) -> Tuned:
    """A detector without prompts, fine-tuned as `run` says and scored with the oracle of which categories an image has.

    Args:
        run: of `adapting_run`: steps, rate, crops. detector: of `DetectorConfig`.
        init: its checkpoint of earlier training, with any categories. None: random weights, hopeless on a few images.
        clicks: seeds of the click lists whose objects are ignored in the scores with `_ignored`, the same as for DEAL.
    """

    def tune(train: Path, val: Path, folder: Path, seed: int) -> Json:
        config = load_detector(init).config if init else DetectorConfig(detector=detector)
        names = tuple(row["name"] for row in read_coco(train)["categories"])
        data = replace(run.data, coco=(str(train),), synthetic=0.0)
        own = DetectorRun(detector=replace(config, categories=names), data=data, train=replace(run.train, seed=seed))
        log = train_with(own, folder, resume=(folder / "state.pt").is_file(), init=init)
        rows = score_detector(load_detector(folder / "model.safetensors"), val, clicks=clicks)
        (folder / "state.pt").unlink()
        return [{"minutes": log[-1]["minutes"], **row} for row in rows]

    return tune


def score_detector(detector: Detector, file: Path, *, clicks: int = 3) -> list[Json]:
    """A row of `row_of` per click list on a COCO file, boxes of categories that an image lacks left out."""
    data, truth = CocoFolder(file), read_coco(file)
    rows = category_rows(detect_coco(detector, data), data, detector.config.categories)
    lists = [make_clicks(truth, setting="1/category", seed=seed) for seed in range(clicks)]
    return [{"seed": seed, **row_of(evaluate(truth, rows, of_seed))} for seed, of_seed in enumerate(lists)]
