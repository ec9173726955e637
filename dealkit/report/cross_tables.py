"""What the protocols across data sets say in numbers and Markdown: pure functions of results as their JSON files hold them."""

from collections.abc import Sequence
from statistics import mean, stdev

from dealkit.files import Json
from dealkit.report.tables import with_spread
from dealkit.studies.left_out import HELD


def protocol_table(results: Json, metrics: Sequence[str] = ("ap50", "ap75", "ap50_ignored", "hit")) -> str:
    """Markdown: a row per cell and group, means over sources, spread over seeds of clicks, time of training and test."""
    heads = {"ap50": "AP50", "ap75": "AP75", "ap50_ignored": "AP50, clicked ignored", "hit": "hit"}
    lines = ["| trained on | tested on | sources | " + " | ".join(heads[m] for m in metrics) + " | steps | minutes |"]
    lines.append("|---" * (len(metrics) + 5) + "|")
    for row in results["rows"]:
        cells = [with_spread(row["mean"][m], row["spread"][m]) for m in metrics]
        about = [row["cell"], row["group"], str(len(row["sources"]))]
        lines.append("| " + " | ".join([*about, *cells, str(row["steps"]), f"{row['minutes']:.1f}"]) + " |")
    return "\n".join(lines)


def source_gaps(results: Json, metric: str = "ap50_ignored") -> list[Json]:
    """Per held-out source: its score where it was trained on and where it was left out, highest loss first.

    Returns:
        `{"source", "seen", "unseen", "before" (None without a checkpoint to start from)}`; shares. Sources without a score in
        either are left out.
    """
    value: dict[str, dict[str, float | None]] = {}
    for row in results["rows"]:
        if row["group"] != HELD:
            continue
        which = {"all sources": "seen", "before": "before"}.get(row["cell"], "unseen")
        for name, source in row["sources"].items():
            value.setdefault(name, {})[which] = source["mean"][metric]
    rows = [{"source": name, "before": None, **scores} for name, scores in value.items()]
    rows = [row for row in rows if row.get("seen") is not None and row.get("unseen") is not None]
    return sorted(rows, key=lambda row: row["unseen"] - row["seen"])


def shot_rows(results: Json, metric: str = "ap50") -> list[Json]:
    """Mean over sources of every method, number of shots and seed: `{"method", "shots", "seed", metric}`; rows of plots.

    Only sources that every method, number of shots and seed has: an unfinished run compares like with like.

    >>> rows = [{"source": s, "method": "m", "shots": 1, "seed": 0, "mean": {"ap50": v}} for s, v in (("a", 0.2), ("b", 0.4))]
    >>> [round(row["ap50"], 3) for row in shot_rows({"rows": rows})]
    [0.3]
    """
    cells: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in results["rows"]:
        if row["mean"].get(metric) is not None:
            cells.setdefault((row["method"], row["shots"], row["seed"]), {})[row["source"]] = row["mean"][metric]
    common = set.intersection(*(set(of) for of in cells.values())) if cells else set()
    if not common:
        return []
    return [
        {"method": method, "shots": k, "seed": seed, metric: mean(of[s] for s in common)}
        for (method, k, seed), of in cells.items()
    ]


def shot_table(results: Json, metric: str = "ap50") -> str:
    """Markdown: a row per method, a column per number of labelled images; mean over sources, spread over seeds."""
    rows = shot_rows(results, metric)
    counts = sorted({row["shots"] for row in rows})
    lines = ["| | " + " | ".join(f"{k} image{'s' * (k != 1)}" for k in counts) + " |", "|---" * (1 + len(counts)) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for k in counts:
            values = [row[metric] for row in rows if (row["method"], row["shots"]) == (method, k)]
            cells.append(with_spread(mean(values), stdev(values) if len(values) > 1 else None) if values else "–")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def public_table(results: Sequence[Json]) -> str:
    """Markdown: a row per data set and group of categories, and the paper's number beside the class-agnostic one."""
    lines = ["| data | categories | AP50 | AP75 | AP50, clicked ignored | hit | paper AP50 |", "|" + "---|" * 7]
    for result in results:
        for group, scores in result["groups"].items():
            columns = ("ap50", "ap75", "ap50_ignored", "hit")
            cells = [with_spread(scores["mean"][c], scores["spread"][c]) for c in columns]
            paper = f"{result['paper']['ap50']}" if group == "class-agnostic" and result["paper"] else "–"
            about = f"| {result['data']} {result['split']}, {result['images']} images | {group} ({len(scores['categories'])}) | "
            lines.append(about + " | ".join([*cells, paper]) + " |")
    return "\n".join(lines)
