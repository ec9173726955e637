"""`dealkit.studies.unseen_kinds`: cells, rows, resuming."""

from dataclasses import replace

import pytest
import yaml

import dealkit.studies.unseen_kinds as study
from dealkit.config import ModelConfig
from dealkit.data.scenes.families import write_families
from dealkit.files import PROJECT_ROOT
from dealkit.report.study_tables import component_table, kinds_table

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
    cells = {name: study.changed(base, changes, 0) for name, changes in (study.PARTS | study.PROMPTS).items()}
    assert len(set(map(str, cells.values()))) == len(cells) - 1 and cells["full"] == base
    assert cells["with PG-CPP"] == cells["PG-CPP"], "the one cell that both grids have"
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


def test_a_component_holds_where_its_interval_is_above_zero():
    """Differences of two sources: 10 and 11 points, so 10.5 with a standard error of 0.5, times 12.71; or -10 and 10."""
    scores = {"full": (0.5, 0.5), "without PE": (0.4, 0.39), "without HFE": (0.6, 0.61), "without DGQA": (0.4, 0.6)}
    scores["with PG-CPP"] = (0.6, 0.61)
    rows = [
        {"cell": cell, "seed": seed, "group": "seen", "kind": kind, "source": source, "ap50_ignored": value}
        for cell, values in scores.items()
        for source, value in zip("ab", values, strict=True)
        for seed in (0, 1)
        for kind in ("centre", "box")
    ]
    paper = {"statements": {"PG-CPP, AP50": {"without": 1.5, "with": 2.5}}}
    told = [[cell.strip() for cell in line.split("|")[1:-1]] for line in component_table({"rows": rows}, paper).splitlines()[2:]]
    assert [row[-1] for row in told] == ["holds", "does not hold", "undecided", "holds"]
    assert told[0] == ["PE", "not stated", "+10.5 (+4.1 to +16.9)", "holds"] and told[3][:2] == ["PG-CPP", "1.5 -> 2.5"]
    assert told[1][2] == "-10.5 (-16.9 to -4.1)"


def test_the_parameter_file_trains_on_nothing_unseen():
    values = yaml.safe_load((PROJECT_ROOT / "notebooks" / "params" / "04_cross_dataset_kinds.yml").read_text())
    assert all(pattern.endswith("/train.json") and "unseen" not in pattern for pattern in values["kinds"]["train"])
