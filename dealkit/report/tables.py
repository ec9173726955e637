"""What ablations and click curves say in numbers and Markdown: pure functions of results as their JSON files hold them."""

from collections.abc import Sequence
from statistics import mean, stdev

from scipy.stats import t as student

from dealkit.files import Json

SCORES = ("ap50", "ap75", "ap50_ignored", "ap75_ignored", "hit")
"""The protocol's numbers of one click per category: all objects, the clicked ones ignored, clicked objects returned."""

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""AP50 whose number of clicks is reported."""


def per_cent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, a dash for None.

    >>> per_cent(0.125), per_cent(None)
    ('12.5', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f}"


def with_spread(value: float | None, spread: float | None) -> str:
    """A share in per cent, with its standard deviation if it has one.

    >>> with_spread(0.5, 0.012), with_spread(0.5, None)
    ('50.0 ± 1.2', '50.0')
    """
    return per_cent(value) + ("" if spread is None else f" ± {per_cent(spread)}")


def paired_gains(rows: Sequence[Json], metric: str = "ap50") -> list[Json]:
    """Per cell the mean and spread of a metric over seeds, and of its difference to the first cell with the same seed.

    Returns:
        per cell, in order: `cell`, `seeds`, `mean`, `spread` (standard deviation, None for one seed), `gain`, `gain_spread`,
        and `gains`, the difference of every seed. A cell that has no seed in common with the first is left out.

    >>> scores = {("a", 0): 0.5, ("b", 0): 0.4, ("a", 1): 0.6, ("b", 1): 0.3}
    >>> rows = [{"cell": cell, "seed": seed, "metrics": {"ap50": score}} for (cell, seed), score in scores.items()]
    >>> [(g["cell"], round(g["mean"], 3), round(g["gain"], 3)) for g in paired_gains(rows)]
    [('a', 0.55, 0.0), ('b', 0.35, -0.2)]
    """
    values = {(row["cell"], row["seed"]): row["metrics"][metric] for row in rows}
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    table = []
    for cell in cells:
        seeds = [seed for name, seed in values if name == cell and (cells[0], seed) in values]
        if not seeds:
            continue
        own = [values[cell, seed] for seed in seeds]
        gains = [values[cell, seed] - values[cells[0], seed] for seed in seeds]
        several = len(seeds) > 1
        table.append(
            {
                "cell": cell,
                "seeds": len(seeds),
                "mean": mean(own),
                "spread": stdev(own) if several else None,
                "gain": mean(gains),
                "gain_spread": stdev(gains) if several else None,
                "gains": gains,
            }
        )
    return table


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of a few values; None for fewer than two, which say nothing of their spread.

    >>> [round(v, 2) for v in interval([1.0, 3.0])]  # mean 2, standard error 1, times 12.71
    [-10.71, 14.71]
    """
    if len(values) < 2:
        return None
    half = float(student.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def ablation_table(results: Json) -> str:
    """Markdown: a row per cell of a sweep, mean and spread over seeds, and the paired differences to the first cell in AP50: over
    all objects with its 95 % interval, and without the clicked ones or, where sizes are scored, over the largest."""
    metrics, compared = {"ap50": "AP50", "ap75": "AP75", "ap50_ignored": "AP50, clicked ignored"}, "clicked ignored"
    if sizes := [name for name in results["rows"][0]["metrics"] if name[0].isdigit()]:
        metrics, compared = {"ap50": "AP50", **{name: f"{name} px" for name in sizes}}, f"{sizes[-1]} px against the first"
    of_metric = [paired_gains(results["rows"], metric) for metric in (*metrics, "hit")]
    head = ["run", *metrics.values(), "hit", "AP50 against the first", "95 % interval", compared, "seeds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for k, rows in enumerate(zip(*of_metric, strict=True)):
        cells = [rows[0]["cell"], *(with_spread(row["mean"], row["spread"]) for row in rows)]
        bounds = interval(rows[0]["gains"])
        cells.append(f"{100 * rows[0]['gain']:+.1f}" if k else "–")
        cells.append(f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}" if k and bounds else "–")
        cells.append(f"{100 * rows[-2]['gain']:+.1f}" if k else "–")  # of the last metric before `hit`
        lines.append("| " + " | ".join([*cells, str(rows[0]["seeds"])]) + " |")
    return "\n".join(lines)


def clicks_to_reach(curve: list[Json], least: float, metric: str = "ap50") -> int | None:
    """NoC: the fewest clicks whose AP is at least `least`; None if none is.

    >>> clicks_to_reach([{"clicks": 1, "ap50": 0.4}, {"clicks": 2, "ap50": 0.7}], 0.6)
    2
    """
    return next((point["clicks"] for point in curve if (point[metric] or 0.0) >= least), None)


def noc_table(results: Json, targets: Sequence[float] = TARGETS) -> str:
    """Markdown: positive clicks needed to reach an AP50 over all objects, per source and their mean; mean over seeds.

    A curve that does not reach it counts with the most clicks there were (the convention of interactive segmentation); where a
    source does not reach it with any seed, the cell says "> most". Below the mean: how many sources reach it with every seed.
    """
    most = results["request"]["clicks"]
    lines = ["| source | " + " | ".join(f"AP50 {100 * t:.0f}" for t in targets) + " |", "|---" * (1 + len(targets)) + "|"]
    numbers: list[list[float]] = []
    reached: list[list[bool]] = []
    for name, source in sorted(results["sources"].items()):
        needed = [[clicks_to_reach(curve, t) for curve in source["curves"]["positive"]] for t in targets]
        numbers.append([mean(most if n is None else n for n in of_seeds) for of_seeds in needed])
        reached.append([None not in of_seeds for of_seeds in needed])
        none = [not any(of_seeds) for of_seeds in needed]
        cells = [f"> {most}" if over else f"{number:.1f}" for over, number in zip(none, numbers[-1], strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = [f"**{mean(column):.1f}**" for column in zip(*numbers, strict=True)]
    lines.append(f"| **mean of {len(numbers)}** | " + " | ".join(means) + " |")
    counts = [f"{sum(column)}" for column in zip(*reached, strict=True)]
    return "\n".join([*lines, "| sources that reach it | " + " | ".join(counts) + " |"])


def rounds_table(results: Json, shown: Sequence[int] = (1, 2, 3, 5, 10, 15, 20)) -> str:
    """Markdown: AP50 after some numbers of clicks, positive and negative further clicks; means over sources and seeds.

    Sources with several categories stand apart, too: there a negative click can say which is not meant.
    """
    points = [n for n in shown if n <= results["request"]["clicks"]]
    rows = {"all objects": "ap50", "clicked so far ignored": "ap50_ignored", "never clicked": "ap50_unclicked"}
    lines = ["| further clicks | AP50 over | sources | " + " | ".join(map(str, points)) + " |", "|---" * (3 + len(points)) + "|"]
    for kind, curve in results["mean"].items():
        value = {point["clicks"]: point for point in curve}
        for name, metric in rows.items():
            cells = " | ".join(per_cent(value[n][metric]) for n in points)
            lines.append(f"| {kind} | {name} | {results['sources_in_mean'][metric]} | {cells} |")
        several = [source["curves"][kind] for source in results["sources"].values() if source["several_categories"]]
        if several:
            cells = " | ".join(per_cent(mean(seed[n - 1]["ap50"] for source in several for seed in source)) for n in points)
            lines.append(f"| {kind} | all objects, sources with several categories | {len(several)} | {cells} |")
    return "\n".join(lines)


def position_table(results: Json) -> str:
    """Markdown: AP by the click's distance from the centre of its object; means over sources and seeds, spread over seeds."""
    lines = [
        "| click at | AP50 | AP75 | AP50, clicked ignored | AP75, clicked ignored | hit |",
        "|---|---|---|---|---|---|",
    ]
    for point, over_seeds in zip(results["mean"], results["spread"], strict=True):
        cells = [with_spread(point[c], over_seeds[c]) for c in SCORES]
        lines.append(f"| {point['offset']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def history_table(history: Json) -> str:
    """Markdown: a row per published checkpoint, oldest first: minutes of training and scores."""
    head = "AP50 | AP75 | AP50, clicked ignored | AP75, clicked ignored | hit | coins, recall | scenes, AP50"
    lines = [f"| published | minutes | {head} |", "|" + "---|" * 9]
    for row in history["checkpoints"]:
        cells = [per_cent(row.get(key)) for key in (*SCORES, "coins_recall", "scenes_ap50")]
        lines.append(f"| {row['date']} | {row['minutes']:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def template_table(results: Json, deal: Json | None = None) -> str:
    """Markdown: template matching per source, mean over seeds, beside DEAL's one click; bold where the template finds more.

    Args:
        results: of `scoring.benchmark_templates`. deal: of `report.benchmark`, for the last columns; None leaves dashes.
    """
    names = {"box": "shown the box", "click": "shown the click", "box, scaled and turned": "the box, scaled and turned"}
    variants = [name for name in names if name in results["mean"]]
    head = ["source", *(f"{names[v]}: AP50 | clicked ignored" for v in variants), "DEAL, one click: AP50 | clicked ignored"]
    lines = ["| " + " | ".join(head) + " |", "|---" * (1 + 2 * (len(variants) + 1)) + "|"]
    own = {} if deal is None else deal["sources"]

    def cells(of: Sequence[Json | None], reference: Json | None) -> str:
        shown = []
        for row in [*of, reference]:
            for metric in ("ap50", "ap50_ignored"):
                value = None if row is None else row[metric]
                best = reference is not None and row is not reference and (value or 0.0) > (reference[metric] or 0.0)
                shown.append(f"**{per_cent(value)}**" if best else per_cent(value))
        return " | ".join(shown)

    for name, source in sorted(results["sources"].items()):
        rows = [_mean_of(source["runs"].get(variant, [])) for variant in variants]
        reference = _mean_of(own[name]["runs"]["1/category centre"]) if name in own else None
        lines.append(f"| {name} | {cells(rows, reference)} |")
    reference = None if deal is None else deal["mean"]["1/category centre"]
    return "\n".join(
        [*lines, f"| mean of {len(results['sources'])} | {cells([results['mean'][v] for v in variants], reference)} |"]
    )


def _mean_of(runs: Sequence[Json]) -> Json | None:
    """AP50 of several seeds, all objects and the clicked ones ignored; None where there is none."""
    columns = {metric: [run[metric] for run in runs if run[metric] is not None] for metric in ("ap50", "ap50_ignored")}
    return {metric: mean(values) if values else None for metric, values in columns.items()} if runs else None
