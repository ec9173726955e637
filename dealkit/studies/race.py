"""Which learns more in the same minutes on the same images: DEAL, or a detector without prompts? AP over the minutes of training.

While a model trains, only its averaged weights are put aside. They are scored when its minutes are over, so that looking costs no
training time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from torch import nn
from tqdm import tqdm

from dealkit.baselines.detector import Detector, load_detector
from dealkit.baselines.scoring import found_agnostic
from dealkit.clicks import make_clicks
from dealkit.config import DataConfig, DetectorConfig, DetectorRun, RunConfig, TrainConfig, to_dict
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, short_path
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.deal import DEAL
from dealkit.studies.runs import trained
from dealkit.train.loop import read_log


def snapshots(folder: Path, minutes: float, points: int) -> Callable[[nn.Module], dict[str, float]]:
    """A `validate` of the training loop that puts the averaged weights aside `points` times in so many minutes, as
    `<number>.safetensors` in the folder; `snapshot` in the line of the log says the number."""
    folder.mkdir(parents=True, exist_ok=True)
    last = time.monotonic()

    def keep(average: nn.Module) -> dict[str, float]:
        nonlocal last
        if time.monotonic() - last < 60 * minutes / points:
            return {}
        last = time.monotonic()
        number = len(list(folder.glob("*.safetensors")))
        save_model(average, folder / f"{number}.safetensors", half=True)
        return {"snapshot": number}

    return keep


def score_point(model: DEAL | Detector, files: Sequence[Path]) -> Json:
    """Class-agnostic `ap50` and `ap75`, means over COCO files; for a DEAL, with one click per
    category and image, also `ap50_ignored` and `ap75_ignored`, without the clicked objects."""
    rows = []
    for file in files:
        truth = read_coco(file)
        clicks = make_clicks(truth, setting="1/category", seed=0)
        scores = evaluate(truth, found_agnostic(model, CocoFolder(file), clicks), clicks, class_agnostic=True)
        parts = {"": scores["all"]} | ({"_ignored": scores["clicked_ignored"]} if isinstance(model, DEAL) else {})
        rows.append({f"{name}{end}": part[name] or 0.0 for end, part in parts.items() for name in ("ap50", "ap75")})
    return {name: mean(row[name] for row in rows) for name in rows[0]}


def race(
    out: Path,
    *,
    minutes: float,
    models: Sequence[str] = ("deal", "fcos", "rtdetr"),
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
    detector: DetectorConfig = DetectorConfig(),  # noqa: B008
    schedule: TrainConfig = TrainConfig(),  # noqa: B008
    val: Sequence[Path] = (),
    scenes: int = 60,
    points: int = 12,
    results: Path | None = None,
) -> Results:
    """Train every model for so many minutes and score it over time; models that are finished are kept.

    Args:
        out: folder of the trainings, one per model.
        models: `deal` (a `nano`), and detectors of `config.DETECTORS`. minutes: of training, each; the schedule ends with them.
        data: what all are trained on. detector: settings of the detectors. schedule: of all, but for steps and minutes.
        val: COCO files to score on, images in `images` beside each; none: `scenes` procedural scenes of the size of a crop.
        points: of each curve.
        results: JSON of the rows, see `files.Results`; None: `results.json` in `out`.

    Returns:
        A row per model and point of its curve: `model`, `parameters`, `images_per_s`, `minutes`, `step`, and `score_point`.

    Raises:
        ValueError: an unknown model, or `out` holds a training with other settings.
    """
    train = replace(schedule, steps=10**6, max_minutes=minutes, evaluate_every=5)  # looks at the clock every 5
    runs = {n: DetectorRun(detector=replace(detector, detector=n), data=data, train=train) for n in models if n != "deal"}
    of_data = to_dict(data) | {"coco": [short_path(entry) for entry in data.coco]}
    request = {"data": of_data, "detector": to_dict(detector), "train": to_dict(train)}
    made = Results(results or out / "results.json", request | {"val": [short_path(file) for file in val], "scenes": scenes})
    files = val or [write_coco(out / "scenes", scenes, size=data.size, seed=EVAL_SEED)]
    for key in made.todo([{"model": name} for name in models], "race"):
        folder, name = out / key["model"], key["model"]
        keep = snapshots(folder / "snapshots", minutes, points)
        trained(runs.get(name, RunConfig(data=data, train=train)), folder, validate=keep)
        log, curve = read_log(folder), []
        kept = [(line, folder / "snapshots" / f"{line['snapshot']}.safetensors") for line in log if "snapshot" in line]
        for line, file in tqdm([*kept, (log[-1], folder / "model.safetensors")], desc=f"scoring {name}", unit="point"):
            model = load_model(file) if name == "deal" else load_detector(file)
            curve.append({"minutes": line["minutes"], "step": line["step"], **score_point(model, files)})
        speed = round(log[-1]["step"] * train.batch_size / (60 * max(log[-1]["minutes"], 1e-9)), 3)
        about = {"parameters": sum(p.numel() for p in model.parameters()), "images_per_s": speed}
        made.add(key, *(about | point for point in curve))
    return made
