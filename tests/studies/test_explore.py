"""Pictures of a data set: that each draws what it is given, also where there is nothing to draw."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from dealkit.cli.notebooks import run_notebook
from dealkit.data.objects import read_pixels, read_table, summary
from dealkit.files import PROJECT_ROOT
from dealkit.predict import objects
from dealkit.studies import explore

matplotlib.use("Agg")

BOLTS = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [5, 30, 40, 6], 0)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def made(make_coco):
    files = [make_coco("a", [BOLTS, [], BOLTS[:1]]), make_coco("b", [BOLTS[1:]]), make_coco("empty", [[]])]
    table = read_table(files, {"a": "infrared", "b": "infrared", "empty": "astronomy"})
    contrast, _ = read_pixels(table)
    return table, contrast, summary(table, contrast), explore.domain_colours(table.images["domain"])


def test_every_picture_can_be_drawn_also_of_a_domain_without_objects(made):
    table, contrast, sums, colours = made
    domains = table.of_image("domain")
    for figure in (
        explore.count_bars(sums, colours),
        explore.domain_wheel(sums, table, colours),
        explore.domain_histograms(contrast, domains, colours, edges=np.linspace(0, 1, 5), label="contrast", marks={"x": 0.5}),
        explore.domain_histograms(table.objects["size"], domains, colours, edges=np.geomspace(2, 64, 9), label="size", log=True),
        explore.long_tail(table, colours),
        explore.long_tail(table, colours, most=2),
        explore.draw_examples(table, list(sums["domains"])),
        explore.draw_pairs(table, np.array([[0, 2]])),
        explore.draw_suspicious(table),
        explore.draw_map(np.random.rand(len(domains), 2), domains, table.of_image("source"), colours),
    ):
        figure.canvas.draw()


def test_nothing_suspicious_gives_no_picture(make_coco):
    assert explore.draw_suspicious(read_table([make_coco("a", [BOLTS[:2]])])) is None


def test_the_table_has_a_row_per_domain_and_one_for_all(made):
    lines = explore.domain_table(made[2]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| astronomy", "| infrared", "| **all**"]
    assert len({line.count("|") for line in lines}) == 1


def test_images_are_picked_from_the_sources_in_turn(made):
    table = made[0]
    picked = explore.pick_images(table, "infrared", 3)
    assert table.images["source"][picked].tolist() == ["a", "b", "a"] and 1 not in picked, "image 1 is empty"
    assert explore.pick_images(table, "infrared", 1, prefer=["b"]) == [3]
    assert explore.pick_images(table, "astronomy", 2) == []


def test_a_window_lies_in_its_image(made):
    table = made[0]
    for (x1, y1, x2, y2), i in zip(explore.example_windows(table, range(5)), range(5), strict=True):
        assert 0 <= x1 < x2 <= table.images["width"][i] and 0 <= y1 < y2 <= table.images["height"][i]
        assert x2 - x1 == y2 - y1


def test_embedded_objects_are_those_drawn_by_the_seed(made, predictor):
    table = made[0]
    rows, vectors = objects.embed_objects(predictor, table, images=5, objects=2, seed=0)
    assert rows.tolist() == sorted(set(rows.tolist())) and vectors.shape == (len(rows), 32)
    assert np.bincount(table.objects["image"][rows], minlength=5).tolist() == [2, 0, 1, 2, 0]
    again = objects.embed_objects(predictor, table, images=5, objects=2, seed=0)
    assert np.array_equal(again[0], rows) and np.array_equal(again[1], vectors)


def test_neighbours_elsewhere_are_asked_only_of_what_is_in_several_images():
    vectors = np.eye(4) + 0.1
    shares = explore.neighbour_shares(vectors, {"source": np.array(["a", "a", "b", "c"])}, np.array([0, 1, 2, 3]))
    assert 0 <= shares["source"]["elsewhere"] <= 1
    alone = explore.neighbour_shares(vectors, {"source": np.array(["a", "b", "c", "d"])}, np.array([0, 1, 2, 3]))
    assert alone["source"]["elsewhere"] is None and alone["source"]["chance"] == 0.25


@pytest.mark.slow
def test_notebook_01_runs_on_a_folder_of_ones_own(make_coco, tmp_path):
    broken, stats = make_coco("broken", [BOLTS]), tmp_path / "stats.json"
    broken.write_text("{")
    for name in ("a", "b"):
        make_coco(name, [BOLTS, [], BOLTS[:2], BOLTS])
    values = {"data_root": str(tmp_path), "files": ["*/annotations.json"], "map_images": 3, "stats": str(stats)}
    params = tmp_path / "own.yml"
    params.write_text(json.dumps(values))  # JSON is YAML
    executed = run_notebook("01_explore_dataset", params, out=tmp_path / "runs")
    made = json.loads(stats.read_text())
    assert (made["total"]["images"], made["total"]["objects"], made["problems"]) == (8, 16, {"broken": 1})
    assert "3 files, 2 without a problem" in executed.read_text() and "not JSON" in executed.read_text()
    assert executed.is_relative_to(tmp_path) and (PROJECT_ROOT / "notebooks" / "01_explore_dataset.ipynb").is_file()
