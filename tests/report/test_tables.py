"""`dealkit.report.tables`: paired gains, intervals, numbers of clicks, and their Markdown."""

import pytest

from dealkit.report.tables import ablation_table, clicks_to_reach, interval, noc_table, paired_gains, position_table, rounds_table


def row(cell, seed, ap50, ap75=0.1):
    return {"cell": cell, "seed": seed, "metrics": {"ap50": ap50, "ap75": ap75, "ap50_ignored": 0.2, "hit": 0.9}}


def test_gains_are_paired_by_seed():
    """b against a: -0.1 and -0.3, mean -0.2, spread 0.1 x sqrt(2); c has one seed only, and no spread."""
    scores = {("a", 0): 0.5, ("b", 0): 0.4, ("c", 0): 0.7, ("a", 1): 0.6, ("b", 1): 0.3}
    a, b, c = paired_gains([row(k, s, v) for (k, s), v in scores.items()])
    assert (a["gain"], a["gain_spread"], a["seeds"]) == (0, 0, 2)
    assert b["gain"] == pytest.approx(-0.2) and b["gain_spread"] == pytest.approx(0.02**0.5)
    assert b["gains"] == pytest.approx([-0.1, -0.3])
    assert c["gain"] == pytest.approx(0.2) and c["gain_spread"] is None and c["spread"] is None
    assert paired_gains([]) == []


def test_a_cell_without_a_seed_of_the_first_is_left_out():
    assert [g["cell"] for g in paired_gains([row("a", 0, 0.5), row("b", 1, 0.4)])] == ["a"]


def test_an_interval_is_students_and_needs_two():
    # mean 2, standard deviation 1, standard error 1 / sqrt(3); the 97.5 % point of Student's t with two degrees is 4.303
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3), pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3))
    assert interval([1.0]) is None and interval([]) is None


def test_an_ablation_table_has_a_row_per_cell():
    rows = [row("full", 0, 0.5), row("without", 0, 0.4), row("full", 1, 0.6), row("without", 1, 0.3), row("late", 0, 0.5)]
    lines = ablation_table({"rows": rows}).splitlines()
    assert lines[2] == "| full | 55.0 ± 7.1 | 10.0 ± 0.0 | 20.0 ± 0.0 | 90.0 ± 0.0 | – | – | – | 2 |"
    # -0.1 and -0.3: mean -20 points, standard error 10, times 12.71
    assert lines[3] == "| without | 35.0 ± 7.1 | 10.0 ± 0.0 | 20.0 ± 0.0 | 90.0 ± 0.0 | -20.0 | -147.1 to +107.1 | +0.0 | 2 |"
    assert lines[4] == "| late | 50.0 | 10.0 | 20.0 | 90.0 | +0.0 | – | +0.0 | 1 |" and len(lines) == 5


def test_an_ablation_that_is_scored_by_size_has_a_column_per_size():
    first, second = ({"ap50": a, "4-8": 0.2, "96-256": b, "hit": 0.9} for a, b in ((0.5, 0.4), (0.4, 0.1)))
    rows = [{"cell": "with", "seed": 0, "metrics": first}, {"cell": "without", "seed": 0, "metrics": second}]
    lines = ablation_table({"rows": rows}).splitlines()
    compared = ["AP50 against the first", "95 % interval", "96-256 px against the first"]
    assert lines[0] == f"| {' | '.join(['run', 'AP50', '4-8 px', '96-256 px', 'hit', *compared, 'seeds'])} |"
    assert lines[2] == "| with | 50.0 | 20.0 | 40.0 | 90.0 | – | – | – | 1 |"
    assert lines[3] == "| without | 40.0 | 20.0 | 10.0 | 90.0 | -10.0 | – | -30.0 | 1 |" and len(lines) == 4


def curve(*values):
    return [{"clicks": n + 1, "ap50": v} for n, v in enumerate(values)]


def test_clicks_to_reach_counts_the_fewest_or_none():
    assert [clicks_to_reach(curve(0.2, 0.5, 0.4), t) for t in (0.1, 0.5, 0.6)] == [1, 2, None]
    assert clicks_to_reach([{"clicks": 1, "ap50": None}], 0.1) is None and clicks_to_reach([], 0.1) is None


def test_what_is_never_reached_counts_with_the_most_clicks():
    easy = {"positive": [curve(0.5, 0.7, 0.9), curve(0.7, 0.7, 0.7)]}
    hard = {"positive": [curve(0.1, 0.5, 0.6), curve(0.1, 0.1, 0.1)]}
    results = {"request": {"clicks": 3}, "sources": {"hard": {"curves": hard}, "easy": {"curves": easy}}}
    lines = noc_table(results, (0.5, 0.8)).splitlines()
    # easy: 1 and 1; 3 and never, counted 3. hard: 2 and never, counted 3: 2.5; never
    assert lines[2:4] == ["| easy | 1.0 | 3.0 |", "| hard | 2.5 | > 3 |"]
    assert lines[4:] == ["| **mean of 2** | **1.8** | **3.0** |", "| sources that reach it | 1 | 0 |"]


def test_tables_of_clicks_and_positions_show_shares_in_per_cent():
    metrics = ("ap50", "ap50_ignored", "ap50_unclicked")
    mean = {"positive": [{"clicks": n, **dict.fromkeys(metrics, n / 10)} for n in (1, 2, 3)]}
    mean["positive"][2]["ap50_ignored"] = None
    curves = {"positive": [[{"ap50": n / 10} for n in (1, 2, 3)], [{"ap50": n / 5} for n in (1, 2, 3)]]}
    sources = {"a": {"several_categories": True, "curves": curves}, "b": {"several_categories": False, "curves": curves}}
    results = {"request": {"clicks": 3}, "sources": sources, "mean": mean, "sources_in_mean": dict.fromkeys(metrics, 4)}
    lines = rounds_table(results, (1, 3, 20)).splitlines()
    assert lines[5] == "| positive | all objects, sources with several categories | 1 | 15.0 | 45.0 |"
    assert lines[0].endswith("| 1 | 3 |") and lines[2] == "| positive | all objects | 4 | 10.0 | 30.0 |"
    assert lines[3] == "| positive | clicked so far ignored | 4 | 10.0 | – |"
    columns = ("ap50", "ap75", "ap50_ignored", "ap75_ignored", "hit")
    point = {"offset": 0.5, **dict.fromkeys(columns, 0.5)}
    spread = {"offset": 0.5, **dict.fromkeys(columns, 0.01), "hit": None}
    last = position_table({"mean": [point], "spread": [spread]}).splitlines()[-1]
    assert last == "| 0.50 | 50.0 ± 1.0 | 50.0 ± 1.0 | 50.0 ± 1.0 | 50.0 ± 1.0 | 50.0 |"
