"""`dealkit.studies.unseen_kinds`: cells, rows, resuming."""

from dataclasses import replace

import pytest
import yaml

import dealkit.studies.unseen_kinds as study
from dealkit.config import ModelConfig
from dealkit.data.scenes.families import write_families
from dealkit.files import PROJECT_ROOT
from dealkit.report.tables import kinds_table

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def quick(monkeypatch, tiny_config):
    """Two parts of a tiny model from random weights."""
    full = study.recipe

    def tiny(files, **options):
        run = full(files, **options)
        data = replace(run.data, size=64, workers=0, synthetic=0.0)
        return replace(run, model=tiny_config, data=data)

    monkeypatch.setattr(study, "recipe", tiny)
    monkeypatch.setattr(study, "PARTS", {name: study.PARTS[name] for name in ("full", "without mosaics")})


def test_a_part_changes_one_thing(tmp_path):
    base = study.recipe([tmp_path / "a.json"], steps=10)
    cells = {name: study.changed(base, changes, 0) for name, changes in study.PARTS.items()}
    assert len(set(map(str, cells.values()))) == len(cells) and cells["full"] == base
    assert cells["random start"].model == replace(base.model, pretrained=False, frozen=False) != ModelConfig()


def test_a_row_per_cell_seed_group_and_prompt_that_is_not_made_twice(tmp_path, quick):
    names = write_families(tmp_path / "sources", train=1, val=1)
    files = {split: [tmp_path / "sources" / name / f"{split}.json" for name in list(names)[:2]] for split in ("train", "val")}
    groups, out = {"seen": files["val"][:1], "unseen": files["val"][1:]}, tmp_path / "kinds.json"
    options = {"steps": 1, "size": 64, "seeds": 1, "images": dict.fromkeys(groups, 1), "numbers": [1]}
    made = study.part_results(files["train"], groups, tmp_path / "runs", out, **options)
    cells = ["full", "without mosaics", "1 sources"]
    wanted = [(cell, group, kind) for cell in cells for group in groups for kind in ("centre", "box")]
    assert [(row["cell"], row["group"], row["kind"]) for row in made.rows] == wanted
    lines = kinds_table(made.as_json()).splitlines()
    assert len(lines) == 2 + len(cells) and "seen, a click: AP50" in lines[0] and "unseen, a box: against full" in lines[0]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.safetensors")}
    assert study.part_results(files["train"], groups, tmp_path / "runs", out, **options).rows == made.rows
    assert len(before) == 3 and all(file.stat().st_mtime_ns == time for file, time in before.items())


def test_the_parameter_file_trains_on_nothing_unseen():
    values = yaml.safe_load((PROJECT_ROOT / "notebooks" / "params" / "04_cross_dataset_kinds.yml").read_text())
    assert all(pattern.endswith("/train.json") and "unseen" not in pattern for pattern in values["kinds"]["train"])
