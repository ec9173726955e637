"""The rows of the label-efficient benchmark: on which labels each is trained, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dealkit.baselines.detector import Objects, objects_of
from dealkit.config import (
    Budget,
    DataConfig,
    DetectorConfig,
    DetectorRun,
    MethodConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
)
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.regimes import apply_regime, for_training
from dealkit.files import Json, sha_of, write_json
from dealkit.model.lite import LITE
from dealkit.train.stream import open_sources


@dataclass(frozen=True)
class Row:
    """One row of the table: what is trained, on which labels."""

    regime: str
    """A key of `regimes.REGIMES`."""
    model: str
    """A detector of `config.DETECTORS`, or `deal` with one click per category: trained here. Not trained: `deal published`, the
    checkpoint; `template box`, `template click`, in the regime `zero`."""
    method: str = "plain"
    """A method of `config.METHODS`."""
    oracle: bool = False
    """The detector tells categories apart, and detections of those an image lacks are dropped: what a click tells it, too."""

    @property
    def name(self) -> str:
        """
        >>> Row("noise40", "fcos", "label_correction").name
        'noise40 fcos label_correction'
        """
        return " ".join([self.regime, self.model, *([] if self.method == "plain" else [self.method]), *["oracle"] * self.oracle])


ROWS: tuple[Row, ...] = (
    *(Row("full", detector) for detector in ("retinanet", "faster_rcnn", "fcos", "rtdetr")),
    Row("full", "fcos", oracle=True),
    *(Row(f"noise{n}", "fcos", method) for n in (20, 40) for method in ("plain", "label_correction")),
    *(Row(f"semi{n}", "fcos", method) for n in (1, 5, 10) for method in ("plain", "mean_teacher", "scale_teacher")),
    *(Row(f"sparse{n}", "fcos", method) for n in (1, 3, 5) for method in ("plain", "mining")),
    *(Row("point", "fcos", method) for method in ("plain", "point_teacher", "point_patterns")),
    *(Row("zero", model) for model in ("template box", "template click")),
    *(Row("full", model) for model in ("deal", "deal published")),
)
"""The table from full labels to one click, in the order of the paper's; DEAL last."""


def applies(row: Row, files: Sequence[Path], checkpoint: Path | None) -> bool:
    """Whether a row can be run: a published checkpoint needs a file, and categories that are told apart must be those of the val
    files. Procedural scenes have categories of their own."""
    if row.model == "deal published":
        return checkpoint is not None
    names = [{c["name"] for f in files for c in read_coco(f.with_name(f"{s}.json"))["categories"]} for s in ("train", "val")]
    return not row.oracle or names[1] <= names[0]


def learned_from(run: DetectorRun, files: Sequence[Path], images: int) -> list[tuple[list[Objects], list[Tensor], list[Tensor]]]:
    """A batch per source of the first images of each of its entries: the labels of the run, images and all boxes."""
    full = {file.parent.name: CocoFolder(file, file.parent / "images") for file in files}
    samples: dict[str, list[Sample]] = {name: [] for name in full}
    for entry in open_sources(run.data.coco)[0]:
        samples[entry.source] += [entry[i] for i in range(min(len(entry), images))]
    batches = []
    for name, of_source in samples.items():
        truth = [full[name][full[name].image_ids.index(sample.image_id)] for sample in of_source]
        boxes = [sample.boxes[~sample.crowd] for sample in truth]
        batches.append(([objects_of(sample, {}) for sample in of_source], [sample.image for sample in of_source], boxes))
    return batches


def row_run(
    row: Row, files: Sequence[Path], out: Path, seed: int, budget: Budget, rate: float | None = None
) -> tuple[RunConfig | DetectorRun, Json]:
    """The training of a row, and how many labels and images it has; its labels are written, once.

    All rows get the same schedule, each source the same share of the crops, and there are no procedural scenes. A plain detector
    is shown the labelled images only; a method also the unlabelled, covered by a crowd box. Choice: those are entries of their
    own and come on top, so that every batch has as many labelled crops as that of the plain detector, and as many without labels;
    Soft Teacher adds four times as many.
    """
    shares: dict[str, float] = {}
    cost = {"labels": 0, "labelled_images": 0, "drawn_from": 0}
    for file in files:
        made = apply_regime(read_coco(file), row.regime, seed=seed)
        cost["labels"] += sum(not (r.get("iscrowd") or r.get("ignore")) for r in made["annotations"])
        cost["labelled_images"] += len(made["images"])
        parts = {"": {key: value for key, value in made.items() if key != "unlabelled"}}
        if row.method != "plain" and made.get("unlabelled"):
            parts["-unlabelled"] = made | {"images": [], "annotations": []}
        for name, part in parts.items():
            part = for_training(part)
            cost["drawn_from"] += len(part["images"])
            path = out / "labels" / f"{row.regime}-{seed}{name}-{sha_of(file)}" / file.parent.name / "train.json"
            if not path.is_file():
                write_json(path, part)
            whole = len(made["images"]) + len(made.get("unlabelled", []))
            shares[f"{path}:{file.parent / 'images'}"] = (whole / len(part["images"])) ** DataConfig.temperature
    on_top = len(shares) > len(files)
    weights = tuple(shares.values()) if set(shares.values()) != {1.0} else ()
    data = DataConfig(coco=tuple(shares), weights=weights, synthetic=0.0, size=budget.size)
    warmup = min(100, max(budget.steps // 5, 1))
    limits = {"steps": budget.steps, "max_minutes": budget.minutes, "batch_size": budget.batch_size * (1 + on_top)}
    limits |= {"lr": rate or TrainConfig.lr, "evaluate_every": -(-budget.steps // budget.points) if budget.points else 0}
    train = TrainConfig(**limits, warmup=warmup, checkpoint_every=200, seed=seed)
    start = {"backbone": budget.backbone, "pretrained": budget.backbone in LITE, "hidden_dim": budget.hidden_dim}
    if row.model == "deal":
        return RunConfig(model=ModelConfig(**start), data=data, train=train, prompt=PromptConfig(cycles=2)), cost
    names = sorted({c["name"] for file in files for c in read_coco(file)["categories"]}) if row.oracle else ()
    detector = DetectorConfig(detector=row.model, categories=tuple(names), **start)
    return DetectorRun(detector=detector, data=data, train=train, method=MethodConfig(method=row.method)), cost
