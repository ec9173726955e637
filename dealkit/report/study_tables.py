"""The tables of studies, from their committed results; shares in per cent, as in `tables`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from scipy.stats import t as student

from dealkit.evaluate.benchmark import SCALE_BINS, over_seeds, with_spread
from dealkit.evaluate.matching import per_cent
from dealkit.files import Json, read_json, tidy
from dealkit.report.tables import RESULTS, SCORES, WAYS, markdown, percent
from dealkit.studies.claims import COLUMNS, MODEL_NAMES, PAPER_ROWS, REGIME_NAMES, check_claims, method_name, row_means
from dealkit.studies.clicks import CURVES
from dealkit.studies.dior_dota import PAPER
from dealkit.studies.label_rows import ROWS
from dealkit.studies.left_out import HELD

# Ablations


def paired_gains(results: Json, metric: str = "ap50") -> pd.DataFrame:
    """The scores of finished trainings of a grid, and in `gain` what each has more than the first cell with the same seed.

    A seed that the first cell does not have is left out.

    >>> scores = {("a", 0): 0.5, ("b", 0): 0.4, ("a", 1): 0.6, ("b", 1): 0.3}
    >>> rows = [{"cell": cell, "seed": seed, "ap50": score} for (cell, seed), score in scores.items()]
    >>> paired_gains({"rows": rows}).groupby("cell")["gain"].mean().round(3).to_dict()
    {'a': 0.0, 'b': -0.2}
    """
    scores = tidy(results).dropna(subset=["ap50"])
    first = scores[scores["cell"] == scores["cell"].iloc[0]].set_index("seed")[metric]
    return scores.assign(gain=scores[metric] - scores["seed"].map(first)).dropna(subset=["gain"])


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of a few values; NaN for fewer than two, which say nothing of their spread.

    >>> [round(float(v), 2) for v in interval([1.0, 3.0])]  # mean 2, standard error 1, times 12.71
    [-10.71, 14.71]
    """
    values, count = pd.Series(values, dtype=float), len(values)
    half = student.ppf((1 + level) / 2, count - 1) * values.sem() if count > 1 else float("nan")
    return values.mean() - half, values.mean() + half


def ablation_table(results: Json) -> str:
    """A row per cell of a grid: mean and spread over seeds, and the paired differences to the first cell in AP50.

    These are over all objects, with their 95 % interval, and with the clicked ones ignored; where sizes are scored, over the
    largest.
    """
    sizes = [name for name in tidy(results) if name in SCALE_BINS]
    metrics = ["ap50", *(sizes or ["ap75", "ap50_ignored"]), "hit"]
    gains, compared, points = paired_gains(results), metrics[-2], "{:+.1f}".format  # compared: the last before `hit`
    cells, of_compared = (frame.groupby("cell", sort=False) for frame in (gains, paired_gains(results, compared)))
    values = cells[metrics].mean().join(cells[metrics].std().add_suffix("_std"))
    table = percent(values, metrics, spread=True).rename(columns={name: f"{name} px" for name in sizes})
    table["AP50 against the first"] = (100 * cells["gain"].mean()).map(points)
    bounds = [(100 * low, 100 * high) for low, high in cells["gain"].agg(interval)]
    table["95 % interval"] = ["–" if pd.isna(low) else f"{points(low)} to {points(high)}" for low, high in bounds]
    head = f"{compared} px against the first" if sizes else "clicked ignored"
    table[head] = (100 * of_compared["gain"].mean()).map(points)
    table.iloc[0, -3:] = "–"
    table["seeds"] = cells.size().astype(str)
    return markdown(table.rename_axis("run").reset_index())


# Clicks


TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""AP50 whose number of clicks is reported."""


def click_points(results: Json) -> pd.DataFrame:
    """The curves of `studies.clicks.click_curves` as a row per number of clicks."""
    return tidy(results).explode(["clicks", *CURVES], ignore_index=True).astype({"clicks": int} | dict.fromkeys(CURVES, float))


def whole_curves(results: Json) -> pd.DataFrame:
    """`click_points` without a source in the columns that it lacks at any number of clicks, kind or seed.

    Else a curve of means would rise or fall only because other sources are left.
    """
    points = click_points(results)
    whole = points[list(CURVES)].notna().groupby(points["source"]).transform("all")
    return points.assign(**points[list(CURVES)].where(whole))


def noc_table(results: Json, targets: Sequence[float] = TARGETS) -> str:
    """Positive clicks needed to reach an AP50 over all objects, per source and their mean; mean over seeds.

    A curve that does not reach it counts with the most clicks there were (the convention of interactive segmentation); where a
    source does not reach it with any seed, the cell says "> most". Below the mean: how many sources reach it with every seed.
    """
    most, points = results["request"]["clicks"], click_points(results).query("kind == 'positive'")
    table = pd.DataFrame(index=pd.Index(sorted(points["source"].unique()), name="source"))
    foot = pd.DataFrame(index=[f"**mean of {len(table)}**", "sources that reach it"])
    for target in targets:
        curves = points["clicks"].where(points["ap50"] >= target).groupby([points["source"], points["seed"]])
        needed = curves.min().groupby("source")  # NaN: not reached
        number = curves.min().fillna(most).groupby("source").mean()
        table[f"AP50 {100 * target:.0f}"] = number.map("{:.1f}".format).where(needed.count() > 0, f"> {most}")
        foot[f"AP50 {100 * target:.0f}"] = [f"**{number.mean():.1f}**", str((needed.count() == needed.size()).sum())]
    return markdown(pd.concat([table, foot]).rename_axis("source").reset_index())


def rounds_table(results: Json, shown: Sequence[int] = (1, 2, 3, 5, 10, 15, 20)) -> str:
    """AP50 after some numbers of clicks, positive and negative further clicks; means over sources and seeds.

    Sources with several categories stand apart, too: there a negative click can say which is not meant.
    """
    names = dict(zip(CURVES, ("all objects", "clicked so far ignored", "never clicked"), strict=True))
    points, rows = whole_curves(results).query("clicks in @shown"), []
    for kind, of_kind in points.groupby("kind", sort=False):
        several = of_kind[of_kind["several_categories"]]
        parts = [(name, of_kind, metric) for metric, name in names.items()]
        parts += [("all objects, sources with several categories", several, "ap50")] if len(several) else []
        for name, part, metric in parts:
            scores = part.dropna(subset=[metric]).groupby("clicks")[metric].mean()
            cells = {str(n): per_cent(scores.get(n)) for n in points["clicks"].unique()}
            sources = str(part.loc[part[metric].notna(), "source"].nunique())
            rows.append({"further clicks": kind, "AP50 over": name, "sources": sources} | cells)
    return markdown(pd.DataFrame(rows))


def position_table(results: Json) -> str:
    """AP by the click's distance from the centre of its object; means over sources and seeds, spread over seeds."""
    means = over_seeds(results, ["offset"])
    offsets = means["offset"].map("{:.2f}".format).rename("click at").to_frame()
    return markdown(offsets.join(percent(means, SCORES, spread=True)))


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
    counts = rows.groupby(by, sort=False).agg({"source": "nunique", "steps": "first", "minutes": "first"})
    counts = counts.rename(columns={"source": "sources"})
    means = over_seeds(rows, by, metrics) if "seed" in rows else rows[rows["source"].isna()]
    columns = [*by, *metrics, *(f"{metric}_std" for metric in metrics)]
    return counts.reset_index().merge(means[columns], "left", on=by)


def protocol_table(results: Json, metrics: Sequence[str] = ("ap50", "ap75", "ap50_ignored", "hit")) -> str:
    """A row per cell and group, means over sources, spread over seeds of clicks, time of training."""
    means = protocol_means(results, metrics)
    about = means[["cell", "group", "sources"]].set_axis(["trained on", "tested on", "sources"], axis=1)
    costs = {"steps": means["steps"], "minutes": means["minutes"].map("{:.1f}".format)}
    return markdown(about.join(percent(means, metrics, spread=True)).assign(**costs).astype(str))


def whole_seeds(results: Json) -> pd.DataFrame:
    """Rows of the seeds that all cells have: a seed that is not finished would be compared with others.

    >>> rows = [{"cell": "full", "seed": 0}, {"cell": "off", "seed": 0}, {"cell": "full", "seed": 1}]
    >>> len(whole_seeds({"rows": rows}))
    2
    """
    rows = tidy(results)
    return rows[rows.groupby("seed")["cell"].transform("nunique") == rows["cell"].nunique()]


def part_gains(results: Json, metric: str = "ap50_ignored") -> pd.DataFrame:
    """Per group, prompt and cell of `studies.unseen_kinds` the mean `gain` over the first cell on the same sources and seeds, and
    the bounds `low` and `high` of its 95 % interval: the wider of that over sources and that over seeds.

    >>> scores = {"full": (0.4, 0.5), "off": (0.25, 0.25)}
    >>> where = {"group": "unseen", "kind": "box", "seed": 0}
    >>> rows = [where | {"cell": c, "source": s, "ap50_ignored": v} for c, two in scores.items() for s, v in zip("ab", two)]
    >>> gains = part_gains({"rows": rows}).loc["unseen", "box"]
    >>> gains["gain"].round(3).to_dict(), round(float(gains["high"]["off"]), 2)  # standard error 0.05, times 12.71
    ({'full': 0.0, 'off': -0.2}, 0.44)
    """
    rows, by = whole_seeds(results), ["group", "kind", "source", "seed"]
    first = rows[rows["cell"] == rows["cell"].iloc[0]]
    pairs = rows.merge(first[[*by, metric]], on=by, suffixes=("", "_first"))
    pairs["gain"] = pairs[metric] - pairs[f"{metric}_first"]
    made = {}
    for key, of_cell in pairs.dropna(subset="gain").groupby(["group", "kind", "cell"], sort=False):
        bounds = [interval(of_cell.groupby(of)["gain"].mean()) for of in ("source", "seed")]
        low, high = max(bounds, key=lambda of: -1.0 if pd.isna(of[0]) else of[1] - of[0])
        made[key] = {"gain": of_cell["gain"].mean(), "low": low, "high": high}
    return pd.DataFrame(made).T.rename_axis(["group", "kind", "cell"])


def kinds_table(results: Json) -> str:
    """A row per cell of `studies.unseen_kinds`: AP50 with the clicked ignored by group and prompt, spread over seeds, and what it
    gains over the first cell, see `part_gains`."""
    rows = whole_seeds(results)
    means = over_seeds(rows, ["cell", "group", "kind"], ["ap50_ignored"])
    cells = percent(means, ["ap50_ignored"], spread=True).set_axis(["AP50"], axis=1)
    gains = part_gains(results)[["gain", "low", "high"]].mul(100).map("{:+.1f}".format)
    told = [gains.loc[key] for key in means[["group", "kind", "cell"]].itertuples(index=False, name=None)]
    first = means["cell"].iloc[0]
    cells[f"against {first}"] = [f"{g['gain']} ({g['low']} to {g['high']})" for g in told]
    cells.loc[means["cell"] == first, f"against {first}"] = "–"
    heads = means["group"] + ", a " + means["kind"].replace("centre", "click") + ": "
    long = pd.concat([pd.DataFrame({"trained": means["cell"], "column": heads + c, "text": cells[c]}) for c in cells])
    order = [heads[i] + c for i in heads.drop_duplicates().index for c in cells]
    table = long.pivot(index="trained", columns="column", values="text").loc[means["cell"].unique(), order]
    table["seeds"] = rows.groupby("cell")["seed"].nunique().astype(str)
    return markdown(table.reset_index())


COMPONENTS = {"without PE": -1, "without HFE": -1, "without DGQA": -1, "with PG-CPP": 1}
"""Cells of `studies.unseen_kinds` that are the paper's components; 1: the component is on in the cell, -1: off."""


def component_table(results: Json, paper: Json | None = None) -> str:
    """A row per component of the paper: the AP50 that it gains with a click, 95 % interval (`part_gains`), and a verdict.

    It holds where the interval is above zero, and does not hold where it is below; otherwise it is undecided.
    """
    stated = (paper or read_json(RESULTS.parent / "paper.json"))["statements"]["PG-CPP, AP50"]
    gains, rows = part_gains(results).mul(100).xs("centre", level="kind"), []
    for cell, sign in COMPONENTS.items():
        name, verdicts = cell.split()[-1], {}
        row = {"component": name, "paper": f"{stated['without']} -> {stated['with']}" if name == "PG-CPP" else "not stated"}
        for group in gains.index.unique("group"):
            gain, *bounds = sign * gains.loc[group, cell]
            low, high = sorted(bounds)
            row[f"{group}: gained"] = f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
            verdicts[group] = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
        same = len(set(verdicts.values())) == 1
        told = "; ".join(f"{group}: {verdict}" for group, verdict in verdicts.items())
        rows.append(row | {"verdict": verdicts[group] if same else told})
    return markdown(pd.DataFrame(rows))


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

    Only sources that every method, number of shots and draw has.

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
        known = {"class-agnostic": PAPER.get(of["data"], {}).get("ap50")}
        paper = means["group"].map(known).astype(float).map("{:.1f}".format).replace("nan", "–")
        about = pd.DataFrame({"data": f"{of['data']} {of['split']}, {rows['images'].max()} images", "categories": means["group"]})
        about["categories"] += " (" + means["categories"].astype(str) + ")"
        columns = ["ap50", "ap75", "ap50_ignored", "hit"]
        tables.append(about.join(percent(means, columns, spread=True)).assign(**{"paper AP50": paper}))
    return markdown(pd.concat(tables))


# References


TEMPLATES = {"box": "shown the box", "click": "shown the click", "box, scaled and turned": "the box, scaled and turned"}
"""What the variants of template matching are called on the pages."""


def template_table(results: Any, deal: Any = None) -> str:
    """A row per source: template matching, mean over seeds, beside DEAL's one click (None: dashes); bold where it finds more."""
    frame, metrics = tidy(results), {"ap50": "AP50", "ap50_ignored": "clicked ignored"}
    sources = [*sorted(frame["source"].unique()), f"mean of {frame['source'].nunique()}"]

    def means(rows: pd.DataFrame) -> pd.DataFrame:
        of_all = over_seeds(rows, metrics=list(metrics)).set_axis(sources[-1:])
        return pd.concat([rows.groupby("source")[list(metrics)].mean(), of_all])

    own = pd.DataFrame(columns=list(metrics), dtype=float) if deal is None else means(tidy(deal))
    limit = own.fillna(0).reindex(sources, fill_value=float("inf"))
    columns = [pd.Series(sources, sources, name="source")]
    for variant, rows in frame.groupby("variant", sort=False):
        for metric, head in metrics.items():
            values = means(rows)[metric].reindex(sources)
            cells = values.map(per_cent).where(~(values.fillna(0) > limit[metric]), "**" + values.map(per_cent) + "**")
            columns.append(cells.rename(f"{TEMPLATES.get(variant, variant)}: {head}" if metric == "ap50" else head))
    cells = own[list(metrics)].reindex(sources).map(per_cent).set_axis(["DEAL, one click: AP50", "clicked ignored"], axis=1)
    return markdown(pd.concat([*columns, cells], axis=1))


def template_results(results: Json) -> str:
    """Template matching beside the committed results of DEAL."""
    deal = RESULTS / "realsmall_nano.json"
    return template_table(results, tidy(deal).query(WAYS["a click, alone"]).to_dict("records") if deal.is_file() else None)


# Labels


def last_third(curve: Sequence[Sequence[float]]) -> float:
    """What a curve of `(step, score)` gains in its last third: about 0 where a training has converged.

    >>> last_third([(50, 0.1), (100, 0.2), (150, 0.3), (200, 0.5), (250, 0.5), (300, 0.625)])
    0.125
    """
    return curve[-1][1] - next(score for step, score in curve if step >= curve[-1][0] * 2 / 3)


def efficiency_table(results: Any) -> str:
    """A row per regime and method; per cent, mean over seeds, class-agnostic; and what it cost.

    `clicked ignored`: AP50 without the objects clicked for DEAL, in every row. `last third`: `last_third` of the curve of AP50,
    a mean over sources. `passes`: crops drawn per image.
    """
    order = [row.name for row in ROWS]
    frame = tidy(results).sort_values("row", key=lambda names: names.map(order.index), kind="stable")
    first, rows = frame.drop_duplicates("row").set_index("row"), frame.groupby("row", sort=False)
    means = row_means(frame).assign(ap50_std=rows["ap50"].std())
    own, free = first["model"] == "deal published", means["minutes"] == 0
    table = pd.DataFrame({"labels": first["regime"].map(REGIME_NAMES), "method": first.apply(method_name, axis=1)})
    table = table.join(percent(means, [*COLUMNS, "ap50_ignored"], spread=True).rename(columns=COLUMNS))
    if "curve" in frame:
        gained = frame["curve"].map(last_third, na_action="ignore").astype(float).mul(100).groupby(frame["row"]).mean()
        table["last third"] = gained.map("{:+.1f}".format).replace("+nan", "–")
    table["labelled images"] = means["labelled_images"].map("{:.0f}".format).mask(own, "its own")
    for name in ("passes", "minutes"):
        table[name] = means[name].map("{:.1f}".format).mask(own | free, "–")
    return markdown(table.assign(seeds=rows.size().astype(str)))


def rate_table(results: Any) -> str:
    """AP50 of every model with all labels at each learning rate; bold: the best."""
    scores = tidy(results).pivot(index="model", columns="rate", values="ap50")
    best = scores.eq(scores.max(axis=1), axis=0)
    cells = scores.map(per_cent).where(~best, "**" + scores.map(per_cent) + "**").rename(index=MODEL_NAMES)
    return markdown(cells.rename(columns="{:g}".format).rename_axis("AP50 at a rate of").reset_index())


def method_table(results: Any) -> str:
    """A row per method and regime: AP of the plain detector and with the method, mean over seeds, and the labels that it makes.

    AP is of all objects together, and AP50 also the mean over domains, in which one with few objects counts as much. Precision
    and recall of the labels are at IoU 0.5, at the first and the last point of the training (`methods.label_quality`).
    """
    frame = tidy(results)
    means, rows = row_means(frame), []
    means["by domain"], heads = means.filter(like="ap50 in ").mean(axis=1), COLUMNS | {"by domain": "AP50, mean of domains"}
    for row in (row for row in ROWS if row.method != "plain" and {row.name, f"{row.regime} {row.model}"} <= set(means.index)):
        plain, own = means.loc[f"{row.regime} {row.model}"], means.loc[row.name]
        told = {"labels": REGIME_NAMES[row.regime], "method": row.method.replace("_", " ")}
        for metric in ("ap25", "ap50", "ap75", "by domain"):
            told[heads[metric]] = f"{per_cent(plain[metric])} → {per_cent(own[metric])} ({100 * (own - plain)[metric]:+.1f})"
        curve = frame.loc[frame["row"] == row.name, "label_curve"].iloc[0]
        for name, place in (("precision", 1), ("recall", 2)):
            told[f"labels: {name}"] = f"{per_cent(curve[0][place])} → {per_cent(curve[-1][place])}"
        rows.append(told)
    return markdown(pd.DataFrame(rows))


def claim_table(results: Any) -> str:
    """The paper's claims about labels, see `check_claims`."""
    return markdown(check_claims(results, read_json(RESULTS.parent / "paper.json")))


def beside_paper(results: Any, paper: Json) -> str:
    """AP25, AP50, AP75 of every row that the paper has a like of, ours and the paper's; a dash where one is missing."""
    columns, like, rows = ["ap25", "ap50", "ap75"], list(PAPER_ROWS.values()), {row.name: asdict(row) for row in ROWS}
    ours = percent(row_means(results).reindex(index=list(PAPER_ROWS), columns=columns), columns)
    theirs = percent(pd.DataFrame(paper["rows"]).set_index(["regime", "method"]).loc[like, columns].astype(float) / 100, columns)
    table = pd.DataFrame({"labels": [REGIME_NAMES.get(regime, "one click per category") for regime, _ in like]}, index=ours.index)
    table["ours"], table["the paper's"] = [method_name(rows[name]) for name in ours.index], [name for _, name in like]
    theirs = theirs.set_axis(ours.index).rename(columns={"AP25": "paper AP25"})
    return markdown(pd.concat([table, ours, theirs], axis=1))
