"""`dealkit.report.tables`: paired gains, intervals, numbers of clicks, and their Markdown."""

import pytest

from dealkit.data.licences import FREE
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.report.study_tables import (
    ablation_table,
    interval,
    noc_table,
    paired_gains,
    position_table,
    rounds_table,
    whole_curves,
)
from dealkit.report.tables import many_sentence, tinyset_table
from dealkit.studies.clicks import CURVES


def row(cell, seed, ap50, **metrics):
    return {"cell": cell, "seed": seed, "step": 9, "ap50": ap50, "ap75": 0.1, "ap50_ignored": 0.2, "hit": 0.9} | metrics


def cells_of(table):
    """Cells of every line of a Markdown table, without the line under the head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_gains_are_paired_by_seed_at_the_end_of_a_training():
    """b against a: -0.1 and -0.3; the first row is one during a training; c has a seed that a lacks."""
    rows = [{"cell": "a", "seed": 0, "step": 1, "val_ap50": 0.9}, row("a", 0, 0.5), row("b", 0, 0.4), row("a", 1, 0.6)]
    gains = paired_gains({"rows": [*rows, row("b", 1, 0.3), row("c", 2, 0.7)]})
    assert gains[["cell", "seed"]].values.tolist() == [["a", 0], ["b", 0], ["a", 1], ["b", 1]]
    assert gains["gain"].tolist() == pytest.approx([0, -0.1, 0, -0.3])


def test_an_interval_is_students_and_needs_two():
    # mean 2, standard deviation 1, standard error 1 / sqrt(3); the 97.5 % point of Student's t with two degrees is 4.303
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3), pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3))
    assert all(bound != bound for values in ([1.0], []) for bound in interval(values))  # NaN


def test_an_ablation_table_has_a_row_per_cell():
    rows = [row("full", 0, 0.5), row("without", 0, 0.4), row("full", 1, 0.6), row("without", 1, 0.3), row("late", 0, 0.5)]
    _, full, without, late = cells_of(ablation_table({"rows": rows}))
    assert full == ["full", "55.0 ± 7.1", "10.0 ± 0.0", "20.0 ± 0.0", "90.0 ± 0.0", "–", "–", "–", "2"]
    # -0.1 and -0.3: mean -20 points, standard error 10, times 12.71
    assert without[1] == "35.0 ± 7.1" and without[5:] == ["-20.0", "-147.1 to +107.1", "+0.0", "2"]
    assert late == ["late", "50.0", "10.0", "20.0", "90.0", "+0.0", "–", "+0.0", "1"]


def test_an_ablation_that_is_scored_by_size_has_a_column_per_size():
    first, second = ({"ap50": a, "4-8": 0.2, "96-256": b, "hit": 0.9} for a, b in ((0.5, 0.4), (0.4, 0.1)))
    head, with_it, without = cells_of(
        ablation_table({"rows": [{"cell": "with", "seed": 0} | first, {"cell": "no", "seed": 0} | second]})
    )
    compared = ["AP50 against the first", "95 % interval", "96-256 px against the first"]
    assert head == ["run", "AP50", "4-8 px", "96-256 px", "hit", *compared, "seeds"]
    assert with_it == ["with", "50.0", "20.0", "40.0", "90.0", "–", "–", "–", "1"]
    assert without == ["no", "40.0", "20.0", "10.0", "90.0", "-10.0", "–", "-30.0", "1"]


def curve(source, seed, values, kind="positive", several=False, **others):
    curves = dict.fromkeys(CURVES, values) | others
    return {"source": source, "several_categories": several, "kind": kind, "seed": seed, "clicks": [1, 2, 3], **curves}


def test_what_is_never_reached_counts_with_the_most_clicks():
    rows = [curve("hard", 0, [0.1, 0.5, 0.6]), curve("hard", 1, [0.1, 0.1, 0.1]), curve("easy", 0, [0.5, 0.7, 0.9])]
    table = noc_table({"request": {"clicks": 3}, "rows": [*rows, curve("easy", 1, [0.7, 0.7, 0.7])]}, (0.5, 0.8))
    # easy: 1 and 1; 3 and never, counted 3. hard: 2 and never, counted 3: 2.5; never
    assert cells_of(table)[1:3] == [["easy", "1.0", "3.0"], ["hard", "2.5", "> 3"]]
    assert cells_of(table)[3:] == [["**mean of 2**", "**1.8**", "**3.0**"], ["sources that reach it", "1", "0"]]


def test_a_source_that_lacks_a_point_is_left_out_of_the_column_at_every_point():
    short = curve("short", 0, [1.0, 1.0, 1.0], ap50_ignored=[1.0, 1.0, None])  # nothing is left at its third click
    points = whole_curves({"rows": [curve("long", 0, [0.2, 0.4, 0.6]), short, curve("short", 1, [1.0, 1.0, 1.0])]})
    assert points.groupby("clicks")["ap50_ignored"].mean().tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert points.groupby("clicks")["ap50"].mean().tolist() == pytest.approx([2.2 / 3, 2.4 / 3, 2.6 / 3])


def test_tables_of_clicks_and_positions_show_shares_in_per_cent():
    none = {"ap50_unclicked": 3 * [None]}
    rows = [curve("a", s, [v, v, 2 * v], several=True, **none) for s, v in ((0, 0.1), (1, 0.2))] + [
        curve("b", 0, [0.3] * 3, **none)
    ]
    head, every, ignored, unclicked, several = cells_of(rounds_table({"rows": rows}, (1, 3, 20)))
    assert head == ["further clicks", "AP50 over", "sources", "1", "3"]
    assert every == ["positive", "all objects", "2", "20.0", "30.0"] and ignored[2:] == every[2:]
    assert unclicked == ["positive", "never clicked", "0", "–", "–"]
    assert several == ["positive", "all objects, sources with several categories", "1", "15.0", "30.0"]
    scores = [
        {"seed": seed, "source": "a", "offset": 0.5, **dict.fromkeys(("ap75", *CURVES, "ap75_ignored"), v), "hit": 0.5}
        for seed, v in ((0, 0.49), (1, 0.51))
    ]
    assert cells_of(position_table({"rows": scores}))[1] == ["0.50", *4 * ["50.0 ± 1.4"], "50.0 ± 0.0"]


def test_every_picture_is_credited_and_its_licences_allow_to_show_it():
    pictures = read_json(PROJECT_ROOT / "data" / "credits.json")
    assert sorted(pictures) == sorted(path.name for path in (PROJECT_ROOT / "figures").iterdir())
    assert all(sources and all(source["licence"].startswith(FREE) for source in sources) for sources in pictures.values())
    shown = read_json(PROJECT_ROOT / "data" / "results" / "tinyset_stats.json")["shown"]
    assert sorted(source["name"] for source in pictures["explore_wheel.jpg"]) == sorted(shown)
    chosen = read_json(PROJECT_ROOT / "data" / "results" / "showcase_nano.json")["rows"]
    assert pictures["unseen.jpg"] == [{key: row[key] for key in ("name", "repository", "licence")} for row in chosen]


def test_names_and_licences_in_the_credits_are_those_of_the_sources(real_data):
    stated = {row["name"]: row for file in sorted(real_data.glob("*/sources.json")) for row in read_json(file)}
    credited = [source for sources in read_json(PROJECT_ROOT / "data" / "credits.json").values() for source in sources]
    for source in (source for source in credited if source["name"] in stated):
        assert source.items() <= stated[source["name"]].items()


def test_what_very_many_images_cost_is_worked_out_from_some():
    """90,000 more names take 90 MB more; 0.36 s an image are 10,000 hours for 100 million; 1,000 bytes each are 100 GB."""
    names = [{"names": 10_000, "mb": 0.0, "bytes": 9e6}, {"names": 100_000, "mb": 90e6 / 2**20, "bytes": 1e8}]
    figures = {"images_per_s": {"1": 2.5, "2": 4.75}, "cpu_s_per_image": 0.36, "names": names, "load": 1.0, "cpus": 2}
    said = many_sentence(figures)
    for part in ("reads 2.50 images", "two read 4.75, on 2 CPUs;", "1000 bytes a name", "10,000 CPU hours", "100 GB on disk"):
        assert part in said
    assert "100 GB in the memory of that process, or 1.0 GB" in said and "(load 9)" in many_sentence(figures | {"load": 9.0})


def test_a_tinyset_stands_beside_the_papers():
    part = {"sources": ["a", "b"], "images": 4, "objects": 6, "size_mean": 8.0, "size_bins": {"vt": 0.5, "m": 0.25}}
    made = {"total": part | {"sources": None}, "domains": {"air": part}, "sources": {"a": {}, "b": {}}}
    rows = cells_of(tinyset_table({"tinyset": {"images": 10, "boxes": 335, "size_mean": 20.4, "domains": 6}}, made))
    assert rows[1:3] == [[name, "2", "4", "6", "1.5", "8.0", "75 %"] for name in ("all", "air")]
    assert rows[3] == ["TinySet-9M (paper)", "not stated", "10", "335", "33.5", "20.4", "–"]
