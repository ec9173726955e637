"""`dealkit.studies.race`: weights put aside by the clock, equal minutes, one run."""

from types import SimpleNamespace

import pytest

from dealkit.config import DataConfig, DetectorConfig, TrainConfig
from dealkit.files import read_json
from dealkit.studies.race import race, snapshots

pytestmark = pytest.mark.usefixtures("float32_cpu")


def test_weights_are_put_aside_as_often_as_asked_for(tmp_path, tiny_model, monkeypatch):
    clock = iter([0.0, 29.0, 30.0, 30.0, 45.0, 61.0, 61.0])
    # not the module's own clock, which other threads read, too
    monkeypatch.setattr("dealkit.studies.race.time", SimpleNamespace(monotonic=lambda: next(clock)))
    keep = snapshots(tmp_path / "s", minutes=2.0, points=4)  # every 30 s
    assert [keep(tiny_model) for _ in range(4)] == [{}, {"snapshot": 0}, {}, {"snapshot": 1}]
    assert sorted(f.name for f in (tmp_path / "s").iterdir()) == ["0.safetensors", "1.safetensors"]


def test_a_race_gives_every_model_the_same_minutes_and_is_run_once(tmp_path):
    settings = {"minutes": 0.02, "models": ("fcos",), "scenes": 2, "points": 2, "data": DataConfig(size=64, workers=0)}
    settings |= {"detector": DetectorConfig(backbone="pico", hidden_dim=32), "schedule": TrainConfig(batch_size=1, warmup=1)}
    made = race(tmp_path / "race", **settings, results=tmp_path / "race.json")
    last = made.rows[-1]
    assert last["minutes"] >= 0.02 and last["model"] == "fcos" and {"step", "ap50", "ap75", "images_per_s"} <= set(last)
    assert "ap50_ignored" not in last, "a detector is given no clicks"
    assert read_json(tmp_path / "race.json")["rows"] == made.rows
    assert race(tmp_path / "race", **settings, results=tmp_path / "race.json").rows == made.rows
    with pytest.raises(ValueError, match="fcos/training.json: made with another config"):
        race(tmp_path / "race", **{**settings, "minutes": 0.03})
    with pytest.raises(ValueError, match="detector: expected one of .*got 'yolo'"):
        race(tmp_path, minutes=1.0, models=("yolo",))
