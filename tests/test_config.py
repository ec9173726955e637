"""`dealkit.config`: checks, JSON both ways, and errors that name the file and the field."""

import json
import math
import re
from dataclasses import fields, is_dataclass

import pytest

from dealkit import config
from dealkit.config import (
    Budget,
    BuildConfig,
    DataConfig,
    DetectorConfig,
    LossConfig,
    MethodConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
    from_dict,
    load_config,
    to_dict,
)


def write(path, values):
    path.write_text(json.dumps(values))
    return path


def test_a_run_config_comes_back_the_same_through_json(tmp_path):
    run = RunConfig(
        model=ModelConfig(backbone="resnet18"),
        data=DataConfig(coco=("a.json:b", "c/*.json"), size=320),
        train=TrainConfig(lr=1e-3, bf16=False),
        loss=LossConfig(giou=0.5),
    )
    assert load_config(write(tmp_path / "run.json", to_dict(run))) == run


@pytest.mark.parametrize("cls", [ModelConfig, DataConfig, TrainConfig, LossConfig, RunConfig])
def test_a_config_of_nothing_is_the_default(cls, tmp_path):
    assert load_config(write(tmp_path / "empty.json", {}), cls) == cls()


def test_the_config_that_a_run_saved_loads_although_it_says_what_made_it(tmp_path):
    run = RunConfig(train=TrainConfig(steps=7))
    assert load_config(write(tmp_path / "config.json", {**to_dict(run), "made_by": {"commit": "abc"}})) == run


def test_a_whole_number_is_taken_where_a_fraction_is_expected():
    assert from_dict(TrainConfig, {"lr": 1}).lr == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tempo": 1}, ["RunConfig has no field 'tempo'", "it has data, loss, model, prompt, train"]),
        ({"data": {"sise": 64}}, [".data: DataConfig has no field 'sise'", "size"]),
        ({"data": {"size": 100}}, [".data: DataConfig.size: expected a multiple of 32", "got 100"]),
        ({"data": {"size": "big"}}, [".data: DataConfig.size: expected int, got 'big'"]),
        ({"train": {"batch_size": 2.5}}, [".train: TrainConfig.batch_size: expected int, got 2.5"]),
        ({"train": {"bf16": 1}}, [".train: TrainConfig.bf16: expected bool, got 1"]),
        ({"train": {"steps": True}}, [".train: TrainConfig.steps: expected int, got True"]),
        ({"data": {"coco": "a.json"}}, [".data: DataConfig.coco: expected tuple, got 'a.json'"]),
        ({"data": {"coco": ["a.json"], "weights": ["b"]}}, [".data: DataConfig.weights: expected float, got 'b'"]),
        ({"train": {"lr": float("nan")}}, [".train: TrainConfig.lr: expected 1e-09 to 10, got nan"]),
        ({"loss": 3}, [".loss: expected an object with fields of LossConfig, got 3"]),
        ([1], ["expected an object with fields of RunConfig, got [1]"]),
    ],
)
def test_an_error_in_a_config_file_names_the_file_and_the_field(tmp_path, values, said):
    path = write(tmp_path / "run.json", values)
    with pytest.raises(ValueError) as caught:
        load_config(path)
    assert all(part in str(caught.value) for part in [str(path), *said]), caught.value


@pytest.mark.parametrize(
    ("cls", "bad", "said"),
    [
        (ModelConfig, {"backbone": "vgg"}, "ModelConfig.backbone: expected one of nano, pico, lite0, .*, got 'vgg'"),
        (ModelConfig, {"hidden_dim": 36, "num_heads": 2}, "ModelConfig.hidden_dim: expected a multiple of .* 8, got 36"),
        (ModelConfig, {"click_sizes": ()}, "ModelConfig.click_sizes: expected one or more numbers"),
        (ModelConfig, {"click_sizes": (1.0, 0.0)}, "ModelConfig.click_sizes"),
        (ModelConfig, {"max_queries": 5}, "ModelConfig.max_queries: expected at least min_queries = 24, got 5"),
        (DataConfig, {"synthetic": 1.1}, "DataConfig.synthetic: expected 0 to 1, got 1.1"),
        (DataConfig, {"twins": -0.1}, "DataConfig.twins: expected 0 to 1, got -0.1"),
        (DataConfig, {"size": 32}, "DataConfig.size: expected 64 to 8,192, got 32"),
        (DataConfig, {"min_scale": 3.0}, "DataConfig.min_scale: expected at most max_scale = 2.0, got 3.0"),
        (DataConfig, {"min_scale": 0.0}, "DataConfig.min_scale"),
        (
            DataConfig,
            {"coco": ("a.json",), "weights": (1.0, 2.0)},
            "DataConfig.weights: expected 1 numbers, one per entry",
        ),
        (DataConfig, {"coco": ("a.json",), "weights": (0.0,)}, "DataConfig.weights"),
        (TrainConfig, {"ema_decay": 1.0}, "TrainConfig.ema_decay: expected 0 to 0.999999, got 1.0"),
        (TrainConfig, {"lr": 0.0}, "TrainConfig.lr: expected 1e-09 to 10, got 0.0"),
        (PromptConfig, {"strategy": "best"}, "PromptConfig.strategy: expected one of .*, got 'best'"),
        (PromptConfig, {"keep": "both"}, "PromptConfig.keep: expected one of replace, add, got 'both'"),
        (PromptConfig, {"negatives": 2.0}, "PromptConfig.negatives: expected 0 to 1, got 2.0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(cls, bad, said):
    with pytest.raises(ValueError, match=said):
        cls(**bad)


CONFIGS = [cls for cls in vars(config).values() if is_dataclass(cls)]
NUMBERS = [(cls, f.name, f.default) for cls in CONFIGS for f in fields(cls) if isinstance(f.default, int | float)]


@pytest.mark.parametrize(("cls", "name", "default"), [n for n in NUMBERS if type(n[2]) is not bool])
def test_no_number_of_any_config_is_negative_endless_or_nan(cls, name, default):
    bad = {-1, 10**12} if type(default) is int else {-1.0, 1e12, math.nan, math.inf, -math.inf}
    for value in bad:
        with pytest.raises(ValueError, match=f"^{cls.__name__}.{name}: expected .*, got {re.escape(str(value))}$"):
            cls(**{name: value})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        *[(ModelConfig, name, 0) for name in ("hidden_dim", "fine_dim", "num_heads", "num_kernels", "decoder_layers")],
        *[(ModelConfig, name, 0) for name in ("sampling_points", "min_queries", "max_queries")],
        *[(ModelConfig, "num_heads", 100), (ModelConfig, "decoder_layers", 10**6), (ModelConfig, "edge_dim", 10**5)],
        *[(ModelConfig, "click_sizes", sizes) for sizes in ((1.0, 0.0), (math.nan,), (1.0, math.inf))],
        *[(DataConfig, name, 0) for name in ("sets_per_image", "max_clicks", "min_scale", "max_scale", "size")],
        *[(DataConfig, "max_scale", 1e9), (DataConfig, "workers", 10**6)],
        *[(BuildConfig, "min_visible", 0.0), (BuildConfig, "near", 128), (BuildConfig, "val", 1.5)],
        *[(TrainConfig, name, 0) for name in ("steps", "batch_size", "log_every", "checkpoint_every", "lr", "clip")],
        *[(TrainConfig, "weight_decay", 100.0), (TrainConfig, "lr", 100.0), (TrainConfig, "seed", 10**6)],
        *[(PromptConfig, "cycles", 0), (DetectorConfig, "queries", 0), (DetectorConfig, "max_detections", 0)],
        *[(MethodConfig, "teacher_least", 1.5), (Budget, "steps", 0), (Budget, "batch_size", 0)],
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(cls, name, value):
    with pytest.raises(ValueError, match=f"^{cls.__name__}.{name}: expected .* to .*, got"):
        cls(**{name: value})


def test_a_range_of_no_field_is_a_mistake_of_ours():
    with pytest.raises(AttributeError, match="stesp"):
        config.check_numbers(TrainConfig(), stesp=(1, 2))


def test_configs_cannot_be_changed_or_filled_by_position():
    with pytest.raises(AttributeError):
        RunConfig().train = TrainConfig()
    with pytest.raises(TypeError):
        DataConfig(("a.json",))
