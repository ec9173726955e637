"""A few labelled images of a new source: fine-tuning on k of them, beside clicks alone and a detector fine-tuned on the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from dealkit.baselines.detector import Detector, fit_detector, load_detector
from dealkit.baselines.scoring import category_rows, detect_coco
from dealkit.clicks import make_clicks
from dealkit.config import HELD_OUT, DataConfig, DetectorConfig, DetectorRun, PromptConfig, RunConfig, TrainConfig, portable
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import some_images
from dealkit.evaluate.benchmark import mean_row, row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.studies.runs import folder_of, scored, trained

CLICKS, DEAL_TUNED = "clicks alone", "fine-tuned"
"""Methods of few-click adaptation; other detectors go by their names."""

SHOTS = (1, 5, 20)
"""Labelled images of the new source."""

Tuned = Callable[[Path, Path, Path, int], Json]
"""(training file, validation file, folder, seed) -> `{"mean": metrics, "minutes"}`: another detector on the same images."""


def adapting_run(checkpoint: Path, *, steps: int = 60, size: int = 192, batch_size: int = 4, lr: float = 1e-4) -> RunConfig:
    """The fine-tuning of a checkpoint: few steps at a low rate, a share of procedural scenes so that it does not forget.

    Choice: 60 steps take a minute or two on a CPU whatever k is; a quarter of the first training's rate; 20 % scenes. Set before
    anything was measured, the same for every source and k.
    """
    schedule = TrainConfig(steps=steps, warmup=max(1, steps // 10), batch_size=batch_size, lr=lr, ema_decay=0.9, log_every=10)
    data = DataConfig(size=size, synthetic=0.2, workers=0)
    return RunConfig(model=load_model(checkpoint).config, data=data, train=schedule, prompt=PromptConfig(cycles=1))


def adapted(checkpoint: Path, file: Path, run: RunConfig, out: Path, *, images: int | None, seed: int) -> tuple[Path, Json]:
    """Fine-tune a checkpoint on `images` (None: all) of a source's `train.json`; its new checkpoint and what `trained` gives."""
    part = file if images is None else some_images(file, images, out / "parts" / f"{images}-{seed}", seed=seed)
    own = replace(run, data=replace(run.data, coco=(str(part),)), train=replace(run.train, seed=seed))
    folder = folder_of(own, checkpoint, out)
    made = trained(own, folder, checkpoint)
    return folder / "model.safetensors", made


def adapt(
    checkpoint: Path,
    root: Path,
    out: Path,
    *,
    run: RunConfig,
    sources: Sequence[str] = HELD_OUT,
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    detectors: dict[str, Tuned] | None = None,
    results: Path | None = None,
) -> Json:
    """AP on a source's validation images against the number of its labelled images; writes `results` after every row.

    Args:
        checkpoint: a model that has not seen the sources. root: folder of the sources. out: folder of the runs.
        run: of `adapting_run`. shots: numbers of images; the fewer are among the more. seeds: which images, and click lists.
        detectors: other detectors by name, fine-tuned on the same images.

    Returns:
        `rows` of `{"source", "method", "shots", "seed", "mean" (metrics over click lists), "minutes"}`; `clicks alone` has 0
        shots.
    """
    root, out = Path(root), Path(out)
    summary: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "run": portable(run), "rows": []}
    summary |= {"shots": list(shots), "seeds": seeds}

    def add(source: str, method: str, k: int, seed: int, scores: Json, minutes: float) -> None:
        row = {"source": source, "method": method, "shots": k, "seed": seed, "minutes": minutes}
        summary["rows"].append(row | {key: scores[key] for key in ("mean", "clicks") if key in scores})
        if results is not None:
            write_json(results, {**summary, "made_by": provenance()})

    def test(model: Path, source: str, folder: Path) -> Json:
        scores = scored(model, [root / source / "val.json"], folder / f"val-{source}.json", seeds=seeds)
        return {"mean": scores["mean"], "clicks": scores["sources"][source]["clicks"]}

    todo = [(source, k, seed) for seed in range(seeds) for k in shots for source in sources]
    for source in sources:
        add(source, CLICKS, 0, 0, test(checkpoint, source, out / f"init-{summary['sha256']}"), 0.0)
    for source, k, seed in tqdm(todo, desc="adapt", unit="run"):
        model, made = adapted(checkpoint, root / source / "train.json", run, out, images=k, seed=seed)
        add(source, DEAL_TUNED, k, seed, test(model, source, model.parent), made["minutes"])
        for name, detector in (detectors or {}).items():
            part = some_images(root / source / "train.json", k, out / "parts" / f"{k}-{seed}", seed=seed)
            folder = out / "detectors" / f"{name}-{source}-{k}-{seed}"
            scores = _remembered(
                folder / "result.json", lambda p=part, f=folder, d=detector, s=source, n=seed: d(p, root / s / "val.json", f, n)
            )
            add(source, name, k, seed, scores, scores["minutes"])
    return summary


def tuned_detector(run: RunConfig, *, detector: str = "fcos", init: Path | None = None, clicks: int = 3) -> Tuned:
    """A detector without prompts, fine-tuned as `run` says and scored with the oracle of which categories an image has.

    Args:
        run: of `adapting_run`: steps, rate, crops. detector: of `DetectorConfig`.
        init: its checkpoint of earlier training, with any categories, see `baselines.start_from`. None: random weights, hopeless
            on a few images.
        clicks: seeds of the click lists whose objects are ignored in the scores with `_ignored`, the same as for DEAL.
    """

    def tune(train: Path, val: Path, folder: Path, seed: int) -> Json:
        config = load_detector(init).config if init else DetectorConfig(detector=detector)
        names = tuple(row["name"] for row in read_json(train)["categories"])
        data = replace(run.data, coco=(str(train),), synthetic=0.0)
        own = DetectorRun(detector=replace(config, categories=names), data=data, train=replace(run.train, seed=seed))
        log = fit_detector(own, folder, resume=(folder / "state.pt").is_file(), init=init)
        scores = score_detector(load_detector(folder / "model.safetensors"), val, clicks=clicks)
        (folder / "state.pt").unlink()
        return {"mean": scores, "minutes": log[-1]["minutes"]}

    return tune


def score_detector(detector: Detector, file: Path, *, clicks: int = 3) -> Json:
    """Metrics of a detector on a COCO file, boxes of categories that an image lacks left out; means over `clicks` click lists."""
    data, truth = CocoFolder(file, Path(file).parent / "images"), read_json(file)
    rows = category_rows(detect_coco(detector, data), data, detector.config.categories)
    lists = [make_clicks(truth, setting="1/category", seed=seed) for seed in range(clicks)]
    return mean_row([row_of(evaluate(truth, rows, of_seed)) for of_seed in lists])


def _remembered(file: Path, make: Callable[[], Json]) -> Json:
    """What a file holds, or what is made and written to it."""
    if not file.is_file():
        write_json(file, make())
    return read_json(file)
