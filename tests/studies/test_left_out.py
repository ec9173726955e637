"""`dealkit.studies.left_out`: what every cell trains on and tests, that nothing held out is trained on, and resuming."""

import pytest

import dealkit.studies.runs
import dealkit.train.loop
from dealkit.config import HELD_OUT, DataConfig, ModelConfig, RunConfig, TrainConfig
from dealkit.data.objects import load_domains
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.model.checkpoint import save_model
from dealkit.report.tables import protocol_table, source_gaps
from dealkit.studies.left_out import cells_of, left_out_run, run_protocol
from dealkit.studies.runs import trained

pytestmark = pytest.mark.usefixtures("float32_cpu")

CATEGORIES = {"bolts": ["bolt"], "sea": ["ship", "buoy", "man"], "street": ["car", "bus"]}
DOMAINS = {"bolts": "industry", "sea": "remote", "street": "remote"}


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)


def test_the_headline_never_trains_on_what_it_holds_out():
    every, left_out = cells_of("heldout", CATEGORIES, {}, held=["sea"])
    assert every.train == ("bolts", "sea", "street") and left_out.train == ("bolts", "street")
    assert every.test == left_out.test == {"held out": ("sea",), "others": ("bolts", "street")}
    with pytest.raises(ValueError, match="held out: no source 'moon'; there are bolts, sea, street"):
        cells_of("heldout", CATEGORIES, {}, held=["moon"])
    with pytest.raises(ValueError, match="expected a source that is left to train on"):
        cells_of("heldout", CATEGORIES, {}, held=list(CATEGORIES))


def test_each_domain_is_left_out_once_and_tested_where_it_is():
    every, *cells = cells_of("domains", CATEGORIES, DOMAINS)
    assert every.train == tuple(CATEGORIES)
    assert [(c.name, c.train, c.test) for c in cells] == [
        ("without industry", ("sea", "street"), {"held out": ("bolts",)}),
        ("without remote", ("bolts",), {"held out": ("sea", "street")}),
    ]
    with pytest.raises(ValueError, match="domains: 'bolts' has none"):
        cells_of("domains", CATEGORIES, {})


def test_every_second_category_is_left_out_of_sources_with_several():
    every, left_out = cells_of("categories", CATEGORIES, {})
    assert left_out.without == {"sea": ("man",), "street": ("car",)}  # by name: buoy, man, ship; bus, car
    assert every.by_category == left_out.by_category == left_out.without and not every.without
    assert left_out.train == tuple(CATEGORIES) and left_out.test["held out"] == ("sea", "street")
    with pytest.raises(ValueError, match="expected a source with two categories"):
        cells_of("categories", {"bolts": ["bolt"]}, {})


def test_scenes_and_real_images_apart_and_together():
    scenes, real, both = cells_of("real", CATEGORIES, {})
    assert (scenes.train, scenes.synthetic) == ((), 1.0) and (real.train, real.synthetic) == (tuple(CATEGORIES), 0.0)
    assert both.train == tuple(CATEGORIES) and 0 < both.synthetic < 1
    with pytest.raises(ValueError, match="protocol: expected one of heldout, domains, categories, real, got 'moon'"):
        cells_of("moon", CATEGORIES, {})


def test_the_fixed_held_out_sources_are_of_different_domains():
    domains = load_domains(PROJECT_ROOT / "data" / "domains.json")
    assert len(HELD_OUT) == 7 and len({domains[name] for name in HELD_OUT}) == 6


def test_options_reach_the_run():
    base = left_out_run(model=ModelConfig(), minutes=60, steps=500, size=128, cycles=2, lr=1e-3)
    assert (base.train.max_minutes, base.train.steps, base.data.size, base.prompt.cycles, base.train.lr) == (
        60,
        500,
        128,
        2,
        1e-3,
    )


@pytest.fixture
def tiny_run(tiny_config):
    train = TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1)
    return RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train)


@pytest.fixture
def root(make_coco):
    """Two sources of two categories, each with train.json and val.json."""
    for name, shift in (("land", 0), ("water", 9)):
        objects = [[(5, [10 + shift, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)]] * 2
        file = make_coco(f"root/{name}", objects)
        (file.parent / "val.json").write_text(file.read_text())
        file.rename(file.parent / "train.json")
    return file.parents[1]


def test_a_finished_training_is_read_and_one_cut_off_goes_on(tiny_run, tiny_model, tmp_path):
    whole = dealkit.train.deal.fit(tiny_run, tmp_path / "whole")
    dealkit.train.deal.fit(tiny_run, tmp_path / "cut", stop_at=1)
    made = trained(tiny_run, tmp_path / "cut")
    log = dealkit.train.loop.read_log(tmp_path / "cut")
    assert [line["loss"] for line in log] == [line["loss"] for line in whole] and made["steps"] == 2
    assert not (tmp_path / "cut" / "state.pt").exists() and trained(tiny_run, tmp_path / "cut") == made
    save_model(tiny_model, tmp_path / "start.safetensors")
    with pytest.raises(ValueError, match="training.json: made with another config or start"):
        trained(tiny_run, tmp_path / "cut", tmp_path / "start.safetensors")


def test_a_protocol_trains_tests_and_goes_on(tiny_run, tiny_model, root, tmp_path, monkeypatch):
    save_model(tiny_model, tmp_path / "start.safetensors")
    options = {"base": tiny_run, "domains": {"land": "a", "water": "b"}, "init": tmp_path / "start.safetensors", "seeds": 2}
    file = tmp_path / "results.json"
    made = run_protocol("domains", root, tmp_path / "runs", results=file, **options)
    assert [(r["cell"], r["group"], list(r["sources"])) for r in made["rows"]] == [
        ("before", "held out", ["land", "water"]),
        ("all sources", "held out", ["land", "water"]),
        ("without a", "held out", ["land"]),
        ("without b", "held out", ["water"]),
    ]
    assert [r["trained_on"] for r in made["rows"]] == [[], ["land", "water"], ["water"], ["land"]]
    assert [r["steps"] for r in made["rows"]] == [0, 2, 2, 2] and made["rows"][1]["checkpoint"] != made["rows"][0]["checkpoint"]
    assert read_json(file)["rows"] == made["rows"] and str(tmp_path) not in file.read_text()
    assert all(len(s["clicks"]) == 2 and 0 <= s["mean"]["ap50"] <= 1 for r in made["rows"] for s in r["sources"].values())
    gaps = source_gaps(made)
    assert {g["source"] for g in gaps} == {"land", "water"} and all(g["before"] is not None for g in gaps)
    assert len(protocol_table(made).splitlines()) == 6

    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = run_protocol("domains", root, tmp_path / "runs", **options)
    assert again["rows"] == made["rows"]
    shared = run_protocol("heldout", root, tmp_path / "runs", held=["land"], **options)  # both trainings are those of `domains`
    assert [r["cell"] for r in shared["rows"]] == ["before"] * 2 + ["all sources"] * 2 + ["some left out"] * 2


def test_held_out_categories_are_not_in_the_training_files(tiny_run, root, tmp_path):
    made = run_protocol("categories", root, tmp_path / "runs", base=tiny_run, domains={}, seeds=1)
    assert [(r["cell"], r["group"]) for r in made["rows"]] == [
        (c, g) for c in ("all sources", "some left out") for g in ("held out", "others")
    ]
    for name in ("land", "water"):
        part = read_json(tmp_path / "runs" / "parts" / "without" / name / "train.json")
        assert [c["name"] for c in part["categories"]] == ["bolt"] and {a["category_id"] for a in part["annotations"]} == {5}
        held = read_json(tmp_path / "runs" / "parts" / "held-out" / name / "val.json")
        assert {a["category_id"] for a in held["annotations"]} == {9}
    configs = [read_json(f)["data"]["coco"] for f in (tmp_path / "runs").glob("*/config.json")]
    assert sorted("without" in str(c) for c in configs) == [False, True]
    assert made["rows"][0]["sources"]["land"]["objects"] == 2 and made["rows"][1]["sources"]["land"]["objects"] == 4


def test_gaps_of_no_rows_are_none_and_a_missing_score_is_left_out():
    assert source_gaps({"rows": []}) == []
    row = {"group": "held out", "cell": "all sources", "sources": {"a": {"mean": {"ap50_ignored": 0.5}}}}
    other = {"group": "held out", "cell": "some left out", "sources": {"a": {"mean": {"ap50_ignored": None}}}}
    assert source_gaps({"rows": [row, other]}) == []
    other["sources"]["a"]["mean"]["ap50_ignored"] = 0.25
    assert source_gaps({"rows": [row, other]}) == [{"source": "a", "before": None, "seen": 0.5, "unseen": 0.25}]
