"""Equal budgets: DEAL and detectors without prompts, the same minutes on the same images, AP over time.

A race is a folder with one run per model. While a model trains, only its averaged weights are put aside; they are scored when
its minutes are over, so that looking costs no training time. What is finished is not run again, what was cut off goes on.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean

from torch import nn
from tqdm.auto import tqdm

from dealkit.baselines.detector import Detector, fit_detector, load_detector
from dealkit.baselines.scoring import agnostic_rows, detect_coco, one_class
from dealkit.clicks import make_clicks
from dealkit.config import DETECTORS, MODELS, DataConfig, DetectorConfig, DetectorRun, RunConfig, TrainConfig
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, short_path, write_json
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.deal import DEAL
from dealkit.predict.predictor import predict_coco
from dealkit.train.deal import fit

LOOK_EVERY = 5
"""Steps between looks at the clock."""


def snapshots(folder: Path, minutes: float, points: int) -> Callable[[nn.Module], dict[str, float]]:
    """A `validate` of the training loop that puts the averaged weights aside `points` times in so many minutes.

    The log line of a step that was kept has `snapshot`, and its weights are `<number>.safetensors` in the folder, numbered as it
    says; other lines are empty.
    """
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


def score(model: DEAL | Detector, files: Sequence[Path], images: Sequence[Path]) -> Json:
    """Class-agnostic `ap50` and `ap75`, means over files; for a DEAL, with one click per category and image, also
    `ap50_ignored` and `ap75_ignored`, without the clicked objects.

    Where DEAL's categories give one object two boxes, the stronger stays, as in `compare.agnostic_rows`.
    """
    rows = []
    for file, folder in zip(files, images, strict=True):
        data, truth = CocoFolder(file, folder), read_json(file)
        if isinstance(model, Detector):
            results = evaluate(truth, agnostic_rows(detect_coco(model, data), data), class_agnostic=True)
        else:
            clicks = make_clicks(truth, setting="1/category", seed=0)
            results = evaluate(truth, one_class(predict_coco(model, data, [clicks])[0]), clicks, class_agnostic=True)
        row = {name: results["all"][name] for name in ("ap50", "ap75")}
        rows.append(row | {f"{k}_ignored": v for k, v in (results["clicked_ignored"] or {}).items() if k in row})
    return {name: mean(row[name] or 0.0 for row in rows) for name in rows[0]}


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
) -> Json:
    """Train every model for so many minutes and score it over time; writes and returns the results.

    Args:
        out: folder of the runs.
        minutes: of training, each model; the schedule ends with them.
        models: `deal` (the published `nano`), and detectors of `config.DETECTORS`.
        data: what all are trained on. detector: settings of the detectors. schedule: of all, but for steps and minutes.
        val: COCO files to score on, images in `images` beside each; none: `scenes` procedural scenes of the size of a crop.
        points: of each curve.
        results: JSON to write after every model, beside `out`'s own `race.json`.

    Returns:
        `request`, and for every model in `models` its `parameters`, `images_per_s` of training, and `curve`: `minutes`, `step`
        and the numbers of `score` at each point.

    Raises:
        ValueError: an unknown model, or `out` holds a race of another request.
    """
    unknown = [name for name in models if name != "deal" and name not in DETECTORS]
    if unknown:
        raise ValueError(f"models: expected deal, {', '.join(DETECTORS)}, got {unknown[0]!r}")
    train = replace(schedule, steps=10**6, max_minutes=minutes, evaluate_every=LOOK_EVERY)
    settings = {"data": data, "detector": detector, "train": train}
    request = {name: asdict(value) for name, value in settings.items()} | {"val": [short_path(f) for f in val], "scenes": scenes}
    request["data"]["coco"] = [short_path(entry) for entry in data.coco]
    request = json.loads(json.dumps(request))  # as a file gives it back: tuples are lists
    made: Json = {"request": request, "models": {}}
    if (out / "race.json").is_file():
        made = read_json(out / "race.json")
        if made["request"] != request:
            raise ValueError(f"{out / 'race.json'}: made with other settings; choose another folder")
    files, images = list(val), [file.parent / "images" for file in val]
    if not val:
        file = out / "scenes" / "annotations.json"
        if not file.is_file():
            write_coco(file.parent, scenes, size=data.size, seed=EVAL_SEED)
        files, images = [file], [file.parent]
    for name in models:
        if name in made["models"]:
            continue
        folder = out / name
        options = {"resume": (folder / "state.pt").is_file(), "validate": snapshots(folder / "snapshots", minutes, points)}
        if name == "deal":
            log = fit(RunConfig(model=MODELS["nano"], data=data, train=train), folder, **options)
        else:
            log = fit_detector(DetectorRun(detector=replace(detector, detector=name), data=data, train=train), folder, **options)
        load = load_model if name == "deal" else load_detector
        kept = [(line, folder / "snapshots" / f"{line['snapshot']}.safetensors") for line in log if "snapshot" in line]
        kept.append((log[-1], folder / "model.safetensors"))
        curve = []
        for line, file in tqdm(kept, desc=f"scoring {name}", unit="point"):
            model = load(file)
            curve.append({"minutes": line["minutes"], "step": line["step"], **score(model, files, images)})
        made["models"][name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "images_per_s": round(curve[-1]["step"] * train.batch_size / (60 * max(curve[-1]["minutes"], 1e-9)), 3),
            "curve": curve,
        }
        made["made_by"] = provenance()
        for path in filter(None, (out / "race.json", results)):
            write_json(path, made)
        (folder / "state.pt").unlink()  # much that nothing needs any more
    return made
