"""`dealkit.studies.left_out`: what every cell trains on and tests, that nothing held out is trained on, and resuming."""

import pytest
from conftest import losses

import dealkit.studies.runs
from dealkit.config import HELD_OUT
from dealkit.data.objects import load_domains
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.model.checkpoint import save_model
from dealkit.report.study_tables import protocol_means, protocol_table, source_gaps
from dealkit.studies.left_out import cells_of, left_out_scores
from dealkit.studies.runs import trained
from dealkit.train.deal import fit
from dealkit.train.loop import read_log

pytestmark = pytest.mark.usefixtures("float32_cpu")

CATEGORIES = {"bolts": ["bolt"], "sea": ["ship", "buoy", "man"], "street": ["car", "bus"]}
DOMAINS = {"bolts": "industry", "sea": "remote", "street": "remote"}


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


@pytest.fixture
def root(make_sources):
    """Two sources of two categories."""
    others = [(5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)]
    return make_sources(land=[[(5, [10, 12, 6, 8], 0), *others]] * 2, water=[[(5, [19, 12, 6, 8], 0), *others]] * 2)


def test_a_finished_training_is_read_and_one_cut_off_goes_on(tiny_run, tiny_model, tmp_path):
    whole = fit(tiny_run, tmp_path / "whole")
    fit(tiny_run, tmp_path / "cut", stop_at=1)
    made = trained(tiny_run, tmp_path / "cut")
    assert losses(read_log(tmp_path / "cut")) == losses(whole) and made["steps"] == 2
    assert not (tmp_path / "cut" / "state.pt").exists() and trained(tiny_run, tmp_path / "cut") == made
    save_model(tiny_model, tmp_path / "start.safetensors")
    with pytest.raises(ValueError, match="training.json: made with another config or start"):
        trained(tiny_run, tmp_path / "cut", tmp_path / "start.safetensors")


def test_a_protocol_trains_tests_and_goes_on(tiny_run, checkpoint, root, tmp_path, monkeypatch):
    options = {"base": tiny_run, "domains": {"land": "a", "water": "b"}, "init": checkpoint, "seeds": 2}
    file = tmp_path / "results.json"
    made = left_out_scores("domains", root, tmp_path / "runs", results=file, **options)
    tested = {("before", "land"), ("before", "water"), ("all sources", "land"), ("all sources", "water")}
    tested |= {("without a", "land"), ("without b", "water")}
    assert {(r["cell"], r["source"]) for r in made.rows} == tested and len(made.rows) == 2 * len(tested)
    assert [cell["train"] for cell in made.request["cells"]] == [None, ["land", "water"], ["water"], ["land"]]
    assert {r["cell"]: r["steps"] for r in made.rows} == {"before": 0, "all sources": 2, "without a": 2, "without b": 2}
    assert all(0 <= r["ap50"] <= 1 and r["group"] == "held out" for r in made.rows)
    assert read_json(file)["rows"] == made.rows and str(tmp_path) not in file.read_text()
    gaps = source_gaps(made.as_json())
    assert set(gaps.index) == {"land", "water"} and gaps["before"].notna().all()
    assert len(protocol_table(made.as_json()).splitlines()) == 6

    monkeypatch.setattr(dealkit.studies.runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert left_out_scores("domains", root, tmp_path / "runs", results=file, **options).rows == made.rows
    shared = left_out_scores("heldout", root, tmp_path / "runs", held=["land"], **options)  # the trainings are those of `domains`
    assert [r["cell"] for r in shared.rows] == ["before"] * 4 + ["all sources"] * 4 + ["some left out"] * 4


def test_held_out_categories_are_not_in_the_training_files(tiny_run, root, tmp_path):
    made = left_out_scores("categories", root, tmp_path / "runs", base=tiny_run, domains={}, seeds=1)
    assert list(dict.fromkeys((r["cell"], r["group"]) for r in made.rows)) == [
        (c, g) for c in ("all sources", "some left out") for g in ("held out", "others")
    ]
    for name in ("land", "water"):
        part = read_json(tmp_path / "runs" / "parts" / "without" / name / "train.json")
        assert [c["name"] for c in part["categories"]] == ["bolt"] and {a["category_id"] for a in part["annotations"]} == {5}
        held = read_json(tmp_path / "runs" / "parts" / "held-out" / name / "val.json")
        assert {a["category_id"] for a in held["annotations"]} == {9}
    configs = [read_json(f)["data"]["coco"] for f in (tmp_path / "runs").glob("*/config.json")]
    assert sorted("without" in str(c) for c in configs) == [False, True]
    assert {r["group"]: r["objects"] for r in made.rows} == {"held out": 2, "others": 4}


def row(cell, source, seed, value):
    return {"cell": cell, "group": "held out", "source": source, "seed": seed, "steps": 9, "minutes": 1.0, "ap50": value}


def test_means_are_over_sources_and_their_spread_over_seeds():
    scores = {("a", 0): 0.2, ("b", 0): 0.4, ("a", 1): 0.4, ("b", 1): 0.6}
    of_seeds = [row("before", source, seed, value) for (source, seed), value in scores.items()]
    [means] = protocol_means({"rows": of_seeds}, ["ap50"]).to_dict("records")
    assert (means["sources"], means["steps"]) == (2, 9)
    assert means["ap50"] == pytest.approx(0.4) and means["ap50_std"] == pytest.approx(0.2 / 2**0.5)  # of 0.3 and 0.5
    kept = [{"cell": "before", "group": "held out", "source": name, "steps": 9, "minutes": 1.0} for name in ("a", "b", None)]
    kept[2] |= {"ap50": 0.4, "ap50_std": 0.1}  # published: the means alone
    [means] = protocol_means({"rows": kept}, ["ap50"]).to_dict("records")
    assert (means["sources"], means["ap50"], means["ap50_std"]) == (2, 0.4, 0.1)


def test_a_source_without_a_score_has_no_gap():
    rows = [row("all sources", "a", 0, 0.5), row("some left out", "a", 0, None)]
    assert source_gaps({"rows": rows}, "ap50").empty
    rows[1]["ap50"] = 0.25
    gaps = source_gaps({"rows": [*rows, row("all sources", "b", 0, 0.9), row("some left out", "b", 0, 0.5)]}, "ap50")
    assert list(gaps.index) == ["b", "a"] and gaps["before"].isna().all()  # lost: 0.4, 0.25
