"""The tables of the pages, from the committed results: pandas inside, Markdown outside. Shares are shown in per cent."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
from scipy.stats import t as student

from dealkit.config import MODELS
from dealkit.evaluate.benchmark import SCALE_BINS, over_seeds, per_cent, with_spread
from dealkit.files import PROJECT_ROOT, Json, read_json, tidy
from dealkit.studies.claims import COLUMNS, MODEL_NAMES, PAPER_ROWS, REGIME_NAMES, Claim, _spread, method_name, metrics_of
from dealkit.studies.dior_dota import PAPER
from dealkit.studies.left_out import HELD

HEADS = {
    "ap25": "AP25",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap50_ignored": "AP50, clicked ignored",
    "ap75_ignored": "AP75, clicked ignored",
    "hit": "hit",
    "hit_shown": "hit, shown",
}
"""What the columns of results are called on the pages."""
SCORES = ("ap50", "ap75", "ap50_ignored", "ap75_ignored", "hit")
"""The protocol's numbers of one click per category: all objects, the clicked ones ignored, clicked objects returned."""


def percent(frame: pd.DataFrame, columns: Sequence[str], *, spread: bool = False) -> pd.DataFrame:
    """These columns of shares as text in per cent, called as in `HEADS`; a dash for NaN.

    Args:
        spread: with the standard deviation of `<column>_std` behind each, where there is one.

    >>> percent(pd.DataFrame({"ap50": [0.5, None], "ap50_std": [0.012, None]}), ["ap50"], spread=True)["AP50"].tolist()
    ['50.0 ± 1.2', '–']
    """
    stds = {c: frame[f"{c}_std"] if spread and f"{c}_std" in frame else [None] * len(frame) for c in columns}
    cells = {HEADS.get(c, c): [with_spread(v, s) for v, s in zip(frame[c], stds[c], strict=True)] for c in columns}
    return pd.DataFrame(cells, index=frame.index)


def markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown, cells as they are.

    >>> print(markdown(pd.DataFrame({"run": ["full"], "AP50": ["50.0"]})))
    | run   | AP50   |
    |:------|:-------|
    | full  | 50.0   |
    """
    return frame.to_markdown(index=False, disable_numparse=True)


# Models and sources


def source_table(results: Json, setting: str = "1/category", kind: str = "centre") -> str:
    """A row per source, means over seeds; the last row is the mean over sources with its spread over seeds."""
    rows, columns = tidy(results).query("setting == @setting and kind == @kind"), [*SCORES, "hit_shown"]
    sources = rows.groupby("source")[["images", "objects", *columns]].mean().reset_index()
    counts = sources[["source", "images", "objects"]].astype({"images": int, "objects": int}).astype(str)
    last = percent(over_seeds(rows, metrics=columns), columns, spread=True)
    last = last.map(lambda cell: f"**{cell.split(' ')[0]}** {cell.partition(' ')[2]}".strip())
    last.insert(0, "source", f"**mean of {len(sources)}**")
    return markdown(pd.concat([counts.join(percent(sources, columns)), last]).fillna(""))


def settings_table(results: Json) -> str:
    """A row per click setting and kind, means over sources and seeds."""
    columns, means = ["ap25", *SCORES, "hit_shown"], over_seeds(results, ["setting", "kind"])
    clicks = (means["setting"] + " " + means["kind"]).rename("clicks")
    return markdown(clicks.to_frame().join(percent(means, columns)))


def photo_table(results: Json) -> str:
    """Markdown: coins and procedural scenes."""
    coins, lower, scenes = results["coins"], results["coins_lower"], results["scenes"]
    numbers = {key: ", ".join(f"{row[key]:{'g' if key == 'threshold' else '.3f'}}" for row in lower) for key in lower[0]}
    return "\n".join(
        [
            "| what | result |",
            "|---|---|",
            f"| photograph with {coins['objects']} coins, a click on each in turn, score at least {coins['threshold']} | "
            f"mean recall {coins['recall']:.3f}, mean precision {coins['precision']:.3f} at IoU 0.5 |",
            f"| the same at {numbers['threshold']} | mean recall {numbers['recall']}, mean precision {numbers['precision']} |",
            f"| {scenes['counts']['images']} procedural scenes of unseen seeds, {scenes['counts']['objects']} objects, "
            f"one click per category | AP50 {per_cent(scenes['ap50'])}, AP75 {per_cent(scenes['ap75'])}; clicked ignored "
            f"{per_cent(scenes['ap50_ignored'])}, {per_cent(scenes['ap75_ignored'])}; hit {per_cent(scenes['hit'])} |",
        ]
    )


def scale_table(results: Json) -> str:
    """Markdown: AP50 by size of object in scenes across scales, in per cent."""
    scales = results["scales"]
    head = f"| {scales['scenes']} scenes of 512 px | all | " + " | ".join(f"{name} px" for name in SCALE_BINS) + " | hit |"
    values = [scales["ap50"], *(scales[name] for name in SCALE_BINS), scales["hit"]]
    row = "| AP50 | " + " | ".join(per_cent(value) for value in values) + " |"
    return "\n".join([head, "|" + "---|" * (len(values) + 1), row])


def speed_table(figures: Json) -> str:
    """Markdown: times of one process and their ratios."""
    rows = [
        (f"encode a {figures['size']} x {figures['size']} image", f"{figures['encode_ms']:.0f} ms"),
        ("one click", f"{figures['click_ms']:.0f} ms"),
        ("encode and click, relative to RT-DETRv2-R18 in its faster precision", f"{figures['encode_and_click_to_rtdetr']:.2f}"),
        ("click alone, relative to it", f"{figures['click_to_rtdetr']:.2f}"),
        (f"training at {figures['train_size']} px", f"{figures['train_images_per_s']:.1f} images/s"),
        ("evaluating 60 images x 250 objects x 1,000 detections", f"{figures['evaluate_dense_s']:.1f} s"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([f"| on {figures['made_by']['device']} | |", "|---|---|", *lines])


def training_sentence(training: Json) -> str:
    """What was trained and for how long."""
    parts, minutes = training["parts"], sum(part["minutes"] for part in training["parts"])
    images = sum(part["steps"] * part["batch_size"] for part in parts)
    name, millions = Path(training["checkpoint"]).stem, training["parameters"] / 1e6
    return (
        f"`{name}` ({millions:.1f} M parameters), trained from random weights for "
        f"{minutes:.0f} minutes on a two-core CPU ({images:,} crops, in {len(parts)} parts)."
    )


def minutes_text(parts: list[Json]) -> str:
    """Minutes of all parts of a training, those on a GPU apart.

    >>> minutes_text([{"minutes": 30.0}, {"minutes": 8.4, "device": "NVIDIA H200"}, {"minutes": 8.5, "device": "NVIDIA H200"}])
    '30 + 17 on a GPU'
    """
    on_gpu = sum(part["minutes"] for part in parts if not part.get("device", "CPU").startswith(("CPU", "unknown")))
    others = sum(part["minutes"] for part in parts) - on_gpu
    return f"{others:.0f}" + (f" + {on_gpu:.0f} on a GPU" if on_gpu else "")


def model_table(models: dict[str, dict[str, Json]]) -> str:
    """Markdown: models side by side; of each its results files by what they begin with, see `MODEL_FILES`."""
    lines = [
        "| model | parameters | crops | minutes trained | AP50 | AP75 | AP50, clicked ignored | AP75, clicked ignored | hit "
        "| hit, shown | scenes, AP50 | coins, recall | encode | click |",
        "|" + "---|" * 14,
    ]
    for name, files in models.items():
        real, training, photos, bench = (files[part] for part in MODEL_FILES)
        crops = sum(part["steps"] * part["batch_size"] for part in training["parts"])
        scores = over_seeds(real)[[*SCORES, "hit_shown"]].iloc[0].tolist()
        scores += [photos["scenes"]["ap50"], photos["coins"]["recall"]]
        lines.append(
            f"| `{name}` | {training['parameters'] / 1e6:.1f} M | {crops:,} | {minutes_text(training['parts'])} | "
            f"{' | '.join(map(per_cent, scores))} | {bench['encode_ms']:.0f} ms | {bench['click_ms']:.0f} ms |"
        )
    return "\n".join(lines)


MODEL_FILES = ("realsmall", "training", "photos", "bench")
"""What the results of a published model begin with, before `_NAME.json`."""


def published_models(_: Json) -> str:
    """The models of which all results are committed."""
    folder = PROJECT_ROOT / "data" / "results"
    files = {name: {part: folder / f"{part}_{name}.json" for part in MODEL_FILES} for name in MODELS}
    there = {name: parts for name, parts in files.items() if all(file.is_file() for file in parts.values())}
    return model_table({name: {part: read_json(file) for part, file in parts.items()} for name, parts in there.items()})


# Thresholds and mistakes


def threshold_table(results: Json) -> str:
    """Markdown: F1 of four ways to cut, and the counting error of two of them; means over sources."""
    f1, error = results["mean"]["f1"], results["mean"]["count_mae"]
    rows = [
        (f"fixed at {results['fixed']}", "fixed"),
        ("adaptive", "adaptive"),
        ("best fixed of each source, found on it", "best_of_source"),
        ("best of each prompt, found on it", "oracle"),
    ]
    lines = [
        f"| {name} | {per_cent(f1[key])} | {'–' if error.get(key) is None else format(error[key], '.1f')} |" for name, key in rows
    ]
    return "\n".join(["| threshold | F1 at IoU 0.5 | objects counted wrong |", "|---|---|---|", *lines])


# Ablations


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


# Clicks


TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""AP50 whose number of clicks is reported."""


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
    for point, deviation in zip(results["mean"], results["spread"], strict=True):
        cells = [with_spread(point[c], deviation[c]) for c in SCORES]
        lines.append(f"| {point['offset']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# Across sources


def transfer_table(results: Json) -> str:
    """AP of a click in the image itself and of prompts from other images, the image's own clicked object ignored."""
    names = {
        "own": "a click in the image itself",
        "one": "a click in one other image",
        "mean": f"the mean of clicks in {results['request']['clicked']} others",
    }
    means = over_seeds(results, ["prompt"])
    prompts = means["prompt"].map(names).to_frame()
    return markdown(prompts.join(percent(means, ["ap50_ignored", "ap75_ignored"])))


def protocol_means(results: Json, metrics: Sequence[str] = SCORES) -> pd.DataFrame:
    """A row per cell and group of a protocol: number of sources, steps, minutes; means over sources, spread over seeds (`_std`).

    Rows without a source are means already: of published runs the seeds of each source are not kept.
    """
    rows, by = tidy(results), ["cell", "group"]
    counts = rows.groupby(by, sort=False).agg(
        sources=("source", "nunique"), steps=("steps", "first"), minutes=("minutes", "first")
    )
    means = over_seeds(rows, by, metrics) if "seed" in rows else rows[rows["source"].isna()]
    columns = [*by, *metrics, *(f"{metric}_std" for metric in metrics)]
    return counts.reset_index().merge(means[columns], "left", on=by)


def protocol_table(results: Json, metrics: Sequence[str] = ("ap50", "ap75", "ap50_ignored", "hit")) -> str:
    """A row per cell and group, means over sources, spread over seeds of clicks, time of training."""
    means = protocol_means(results, metrics)
    about = means[["cell", "group", "sources"]].set_axis(["trained on", "tested on", "sources"], axis=1)
    costs = {"steps": means["steps"], "minutes": means["minutes"].map("{:.1f}".format)}
    return markdown(about.join(percent(means, metrics, spread=True)).assign(**costs).astype(str))


def source_gaps(results: Json, metric: str = "ap50_ignored") -> pd.DataFrame:
    """Per held-out source its scores `before` (NaN without a checkpoint to start from), `unseen`, where it was left out, and
    `seen`, where it was trained on; highest loss first. Sources without a score in one of the last two are left out.

    >>> cells = {"all sources": 0.5, "without sea": 0.25}
    >>> rows = [{"cell": cell, "group": HELD, "source": "ship", "ap50_ignored": value} for cell, value in cells.items()]
    >>> source_gaps({"rows": rows})[["unseen", "seen"]].values.tolist()
    [[0.25, 0.5]]
    """
    rows = tidy(results)
    rows = rows[rows["group"] == HELD]
    which = rows["cell"].map({"all sources": "seen", "before": "before"}).fillna("unseen")
    table = rows.groupby([rows["source"], which])[metric].mean().unstack().reindex(columns=["before", "unseen", "seen"])
    table = table.dropna(subset=["unseen", "seen"])
    return table.loc[(table["unseen"] - table["seen"]).sort_values(kind="stable").index]


def pair_losses(results: Json) -> pd.DataFrame:
    """Per pair of different sources `from`, `to`: `distance`, and `loss` of AP50 with the prompt or adaptation of `from` instead
    of its own; rows of a matrix. Pairs without a score are left out.

    >>> rows = [{"from": a, "to": b, "ap50": 0.5 if a == b else 0.25, "distance": 2.0} for a in "ab" for b in "ab"]
    >>> pair_losses({"rows": rows})[["from", "to", "loss"]].values.tolist()
    [['a', 'b', 0.25], ['b', 'a', 0.25]]
    """
    rows = tidy(results).dropna(subset="distance")
    metric = "ap50" if "ap50" in rows else "ap50_ignored"
    home = rows[rows["from"] == rows["to"]].set_index("to")[metric]
    pairs = rows[rows["from"] != rows["to"]]
    return pairs.assign(loss=pairs["to"].map(home) - pairs[metric]).dropna(subset="loss").reset_index(drop=True)


def shot_means(results: Json, metric: str = "ap50") -> pd.DataFrame:
    """Means over sources and click lists of every `method`, number of `shots` and `draw` of images.

    Only sources that every method, number of shots and draw has: an unfinished run compares like with like.

    >>> rows = [{"source": s, "method": "m", "shots": 1, "draw": 0, "ap50": v} for s, v in (("a", 0.2), ("b", 0.4))]
    >>> shot_means({"rows": rows})["ap50"].round(3).tolist()
    [0.3]
    """
    rows = tidy(results).dropna(subset=metric)
    cells = rows.groupby(["method", "shots", "draw", "source"], sort=False)[metric].mean().unstack("source")
    return cells.dropna(axis="columns").mean(axis="columns").rename(metric).dropna().reset_index()


def shot_table(results: Json, metric: str = "ap50") -> str:
    """A row per method, a column per number of labelled images; mean over sources, spread over draws of images."""
    means = shot_means(results, metric).groupby(["method", "shots"], sort=False)[metric].agg(["mean", "std"])
    cells = pd.Series(map(with_spread, means["mean"], means["std"]), index=means.index).unstack("shots")
    cells = cells.reindex(means.index.unique("method")).sort_index(axis="columns").fillna("–")
    return markdown(cells.rename(columns=lambda k: f"{k} image{'s' * (k != 1)}").rename_axis("").reset_index())


def public_table(results: Sequence[Json]) -> str:
    """A row per data set and group of categories, and the paper's number beside the class-agnostic one."""
    tables = []
    for result in results:
        rows, of = tidy(result), result["request"]
        means = over_seeds(rows, ["group", "categories"])
        paper = means["group"].map({"class-agnostic": PAPER[of["data"]]["ap50"]}).map("{:.1f}".format).replace("nan", "–")
        about = pd.DataFrame({"data": f"{of['data']} {of['split']}, {rows['images'].max()} images", "categories": means["group"]})
        about["categories"] += " (" + means["categories"].astype(str) + ")"
        columns = ["ap50", "ap75", "ap50_ignored", "hit"]
        tables.append(about.join(percent(means, columns, spread=True)).assign(**{"paper AP50": paper}))
    return markdown(pd.concat(tables))


# References


def template_table(results: Json, deal: Json | None = None) -> str:
    """Markdown: template matching per source, mean over seeds, beside DEAL's one click; bold where the template finds more.

    Args:
        results: of `references.benchmark_templates`. deal: of `report.benchmark`, for the last columns; None leaves dashes.
    """
    names = {"box": "shown the box", "click": "shown the click", "box, scaled and turned": "the box, scaled and turned"}
    variants = [name for name in names if name in results["mean"]]
    head = ["source", *(f"{names[v]}: AP50 | clicked ignored" for v in variants), "DEAL, one click: AP50 | clicked ignored"]
    lines = ["| " + " | ".join(head) + " |", "|---" * (1 + 2 * (len(variants) + 1)) + "|"]
    own = pd.DataFrame() if deal is None else tidy(deal).groupby("source")[["ap50", "ap50_ignored"]].mean()

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
        reference = own.loc[name].to_dict() if name in own.index else None
        lines.append(f"| {name} | {cells(rows, reference)} |")
    reference = None if deal is None else over_seeds(deal).iloc[0].to_dict()
    return "\n".join(
        [*lines, f"| mean of {len(results['sources'])} | {cells([results['mean'][v] for v in variants], reference)} |"]
    )


def _mean_of(runs: Sequence[Json]) -> Json | None:
    """AP50 of several seeds, all objects and the clicked ones ignored; None where there is none."""
    columns = {metric: [run[metric] for run in runs if run[metric] is not None] for metric in ("ap50", "ap50_ignored")}
    return {metric: mean(values) if values else None for metric, values in columns.items()} if runs else None


def template_results(results: Json) -> str:
    """Template matching beside the committed results of DEAL."""
    deal = PROJECT_ROOT / "data" / "results" / "realsmall_nano.json"
    return template_table(results, read_json(deal) if deal.is_file() else None)


# Labels


def efficiency_table(results: Json) -> str:
    """Markdown: a row per regime and method as in the file; per cent, mean over seeds, class-agnostic; and what it cost.

    `clicked ignored`: AP50 without the objects that are clicked for DEAL, for every row the same. `passes`: crops drawn for every
    image that they are drawn from.
    """
    head = ["labels", "method", *COLUMNS.values(), "AP50, clicked ignored", "labelled images", "passes", "minutes", "seeds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(row["row"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["row"] == name]
        first, values = rows[0], metrics_of(results, name)
        cells = [REGIME_NAMES[first["regime"]], method_name(first), *(per_cent(values[key]) for key in COLUMNS)]
        cells[3] = with_spread(values["ap50"], _spread([row["metrics"]["ap50"] for row in rows]))
        cost = {key: mean(row["cost"][key] for row in rows) for key in ("labelled_images", "passes", "minutes")}
        cells += [per_cent(values["ap50_ignored"]), f"{cost['labelled_images']:.0f}"]
        if first["model"] == "deal published":
            cells[-1] = "its own"
        trained = first["model"] != "deal published" and cost["minutes"] > 0
        cells += [f"{cost['passes']:.1f}", f"{cost['minutes']:.1f}"] if trained else ["–", "–"]
        lines.append("| " + " | ".join([*cells, str(len(rows))]) + " |")
    return "\n".join(lines)


def race_table(results: Json) -> str:
    """Markdown: a row per model and point of its curve, results of `race.race`; per cent, means over files, class-agnostic.

    `clicked ignored` is of DEAL alone: AP50 without the objects that it was given.
    """
    head = ["method", "images/s", "minutes", "step", "AP50", "AP75", "AP50, clicked ignored"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model, of_model in results["models"].items():
        for k, point in enumerate(of_model["curve"]):
            first = ["", ""] if k else [MODEL_NAMES[model], f"{of_model['images_per_s']:.1f}"]
            scores = [per_cent(point.get(key)) for key in ("ap50", "ap75", "ap50_ignored")]
            lines.append("| " + " | ".join([*first, f"{point['minutes']:.1f}", str(point["step"]), *scores]) + " |")
    return "\n".join(lines)


def beside_paper(results: Json, paper: Json) -> str:
    """Markdown: AP25, AP50, AP75 of every row that the paper has a like of, ours and the paper's; a dash where one is missing."""
    theirs = {(row["regime"], row["method"]): row for row in paper["rows"]}
    lines = ["| labels | ours | the paper's | AP25 | AP50 | AP75 | paper AP25 | AP50 | AP75 |", "|---" * 9 + "|"]
    for name, key in PAPER_ROWS.items():
        model, *method = name.split(" ", 1)[1].split(" ")
        label = method_name({"model": model, "method": method[0] if method else "plain", "oracle": False})
        ours, row = metrics_of(results, name) or {}, theirs[key]
        cells = [REGIME_NAMES.get(key[0], "one click per category"), label, key[1]]
        cells += [per_cent(ours.get(metric)) for metric in ("ap25", "ap50", "ap75")]
        cells += ["–" if row[metric] is None else f"{row[metric]:.1f}" for metric in ("ap25", "ap50", "ap75")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims_table(claims: Sequence[Claim]) -> str:
    """Markdown: claim, the paper's numbers, ours, verdict."""
    lines = ["| claim | paper | ours | verdict |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {c.text} | {c.paper} | {c.ours} | **{c.verdict}** |" for c in claims)])


# Pages


TABLES = {
    "training": ("training_nano.json", training_sentence),
    "models": ("realsmall_nano.json", published_models),
    "sources": ("realsmall_nano.json", source_table),
    "settings": ("realsmall_nano_settings.json", settings_table),
    "photos": ("photos_nano.json", photo_table),
    "scales": ("photos_nano.json", scale_table),
    "scales_ablation": ("ablation_scales.json", ablation_table),
    "speed": ("bench_nano.json", speed_table),
    "thresholds": ("thresholds_nano.json", threshold_table),
    "transfer": ("transfer_nano.json", transfer_table),
    "rounds": ("rounds_nano.json", rounds_table),
    "noc": ("rounds_nano.json", noc_table),
    "positions": ("positions_nano.json", position_table),
    "components": ("ablation_components.json", ablation_table),
    "additions": ("ablation_additions.json", ablation_table),
    "strategies": ("ablation_strategies.json", ablation_table),
    "cycles": ("ablation_cycles.json", ablation_table),
    "templates": ("template_realsmall.json", template_results),
    "efficiency_domains": ("label_efficiency_domains.json", efficiency_table),
    "efficiency_realsmall": ("label_efficiency_realsmall.json", efficiency_table),
    "race": ("race_domains.json", race_table),
    "heldout": ("protocol_heldout.json", protocol_table),
    "domains": ("protocol_domains.json", protocol_table),
    "categories": ("protocol_categories.json", protocol_table),
    "real": ("protocol_real.json", protocol_table),
    "adapt": ("adapt_heldout.json", shot_table),
    "dior": ("public_dior_nano.json", lambda result: public_table([result])),
    "dota2": ("public_dota-v2.0_nano.json", lambda result: public_table([result])),
}
"""Tables of the pages: the results file and the function that draws each."""


PAGES = (PROJECT_ROOT / "README.md", PROJECT_ROOT / "data" / "results" / "README.md")
"""Where they stand: the headline, and everything."""


def update_tables(pages: Sequence[Path] = PAGES, results: Path = PROJECT_ROOT / "data" / "results") -> None:
    """Write every table between its markers `<!-- table NAME -->` and `<!-- end -->` on the page that has them.

    What stands between the markers of a table stays where there is no results file, or one of a run that is not finished.

    Raises:
        ValueError: a table that is on none of the pages, or on several; names it.
    """
    texts = {page: page.read_text() for page in pages}
    for name, (file, table) in TABLES.items():
        start, end = f"<!-- table {name} -->", "<!-- end -->"
        found = [page for page in texts for _ in range(texts[page].count(start))]
        if len(found) != 1:
            raise ValueError(f"{' and '.join(map(str, pages))}: expected one marker {start!r}, found {len(found)}")
        made = read_json(results / file) if (results / file).is_file() else None
        if made is None or ("sources" in made and "mean" not in made):
            continue
        head, rest = texts[found[0]].split(start)
        texts[found[0]] = f"{head}{start}\n{table(made)}\n{end}{rest.split(end, 1)[1]}"
    for page, text in texts.items():
        page.write_text(text)
