"""The tables of the pages, from the committed results: pandas inside, Markdown outside. Shares are shown in per cent."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

from dealkit.config import MODELS
from dealkit.evaluate.benchmark import SCALE_BINS, over_seeds, with_spread
from dealkit.evaluate.matching import per_cent
from dealkit.files import PROJECT_ROOT, Json, read_json, tidy
from dealkit.studies.claims import COLUMNS, MODEL_NAMES, PAPER_ROWS, REGIME_NAMES, method_name, row_means
from dealkit.studies.clicks import CURVES
from dealkit.studies.dior_dota import PAPER
from dealkit.studies.label_efficiency import ROWS
from dealkit.studies.left_out import HELD
from dealkit.studies.margins import SCORES as MARGIN_SCORES

RESULTS = PROJECT_ROOT / "data" / "results"
HEADS = {
    "ap25": "AP25",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap25_ignored": "AP25, clicked ignored",
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


def plain_table(*rows: Sequence[str]) -> str:
    """Rows of cells as Markdown without padding; the first is the head."""
    head, *lines = ("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines])


# Models and sources


def source_table(results: Json, setting: str = "1/category", kind: str = "centre", prompts: str = "alone") -> str:
    """A row per source, means over seeds; the last row is the mean over sources with its spread over seeds."""
    chosen = "setting == @setting and kind == @kind and prompts == @prompts"
    rows, columns = tidy(results).query(chosen), [*SCORES, "hit_shown"]
    sources = rows.groupby("source")[["images", "objects", *columns]].mean().reset_index()
    counts = sources[["source", "images", "objects"]].astype({"images": int, "objects": int}).astype(str)
    last = percent(over_seeds(rows, metrics=columns), columns, spread=True)
    last = last.map(lambda cell: f"**{cell.split(' ')[0]}** {cell.partition(' ')[2]}".strip())
    last.insert(0, "source", f"**mean of {len(sources)}**")
    return markdown(pd.concat([counts.join(percent(sources, columns)), last]).fillna(""))


def settings_table(results: Json) -> str:
    """A row per click setting, kind and use of the prompts, means over sources and seeds."""
    columns, by = ["ap25", *SCORES, "hit_shown"], ["setting", "kind", "prompts"]
    means = over_seeds(pd.DataFrame({"prompts": "alone"} | row for row in results["rows"]).to_dict("records"), by)
    return markdown(means[by].join(percent(means, columns)))


WAYS = {
    "a click, alone": "kind == 'centre' and prompts == 'alone'",
    "a click, together": "kind == 'centre' and prompts == 'together'",
    "a box, together": "kind == 'box' and prompts == 'together'",
}
"""What was told, one prompt per category; *together*: the prompts of an image are rivals."""


def ways_table(results: Json) -> str:
    """A row per source, a row per domain, and their mean: AP50 and AP75 with the clicked ignored, by `WAYS`, and AP25 and hit."""
    rows = tidy(results).query("setting == '1/category'")
    domain = rows["source"].map(read_json(PROJECT_ROOT / "data" / "domains.json"))
    columns = {}
    for way, chosen in WAYS.items():
        part = rows.query(chosen)
        metrics = ["ap50_ignored", "ap75_ignored"] + (["ap25_ignored", "hit"] if way == "a click, together" else [])
        of_source = part.groupby("source")[metrics].mean()
        of_domain = of_source.groupby(domain.groupby(rows["source"]).first()).mean()
        every = pd.concat([of_source, of_domain.rename(index="*{}*".format), of_source.mean().rename("**mean**").to_frame().T])
        for metric in metrics:
            columns[f"{way}: {HEADS[metric].removesuffix(', clicked ignored')}"] = every[metric].map(per_cent)
    return markdown(pd.DataFrame(columns).rename_axis("source, *domain*").reset_index())


def options_table(results: Json) -> str:
    """A row per prompt, use of the prompts of an image and number of rounds: means over sources, clicked ignored."""
    by = ["kind", "prompts", "rounds"]
    means = over_seeds(tidy(results), by).sort_values(by, ascending=[False, True, True])
    about = pd.DataFrame({"prompt": means["kind"].map({"centre": "a click", "box": "a box"}), "prompts": means["prompts"]})
    metrics = ["ap25_ignored", "ap50_ignored", "ap75_ignored", "ap50", "hit"]
    return markdown(about.assign(rounds=means["rounds"].astype(str)).join(percent(means, metrics)))


def margins_table(results: Json) -> str:
    """A row per power by which boxes follow a drawn one: AP with boxes as they are annotated and with other margins."""
    rows = pd.DataFrame(results["rows"])
    rows = rows.assign(power=rows["follow"].map("{:g}".format))
    frame = rows.melt(["margins", "power"], list(MARGIN_SCORES))
    frame = frame.assign(column=frame["margins"] + ": " + frame["variable"].map(HEADS), value=frame["value"].map(per_cent))
    columns = frame["column"].unique()
    return markdown(frame.pivot(index="power", columns="column", values="value")[columns].reset_index())


def rescale_table(results: Json) -> str:
    """A row per group of sources: means with images read once, of the published rows of the same clicks, and read again."""
    again, by = tidy(results).query("prompts == 'together'"), ["source", "clicks"]
    rows, metrics = [], ["ap50_ignored", "ap75_ignored", "hit"]
    for name, file in {"seen": "realsmall_nano", "open, seen": "open_nano", "unseen": "unseen_nano"}.items():
        pairs = tidy(RESULTS / f"{file}.json").query("prompts == 'together'").merge(again, on=by, suffixes=("", "_again"))
        moved = int((pairs[metrics] != pairs[[f"{m}_again" for m in metrics]].set_axis(metrics, axis=1)).any(axis=1).sum())
        about = {"sources": f"{len(pairs)} {name}", "of which it changes": str(moved)}
        scores = [pairs[[m, f"{m}_again"]].mean().map(per_cent) for m in metrics]
        rows.append(about | {HEADS[m]: " → ".join(two) for m, two in zip(metrics, scores, strict=True)})
    return markdown(pd.DataFrame(rows))


def headline_table(_: Json) -> str:
    """What was told / where / scores: DEAL and the references on the unseen and the seen sources, one click list or five."""
    told = {f"DEAL `nano`, {way}": ("{}_nano", f"setting == '1/category' and {chosen}") for way, chosen in WAYS.items()}
    told |= {
        "ImageNet features, a click": ("template_{}", "variant == 'features, click'"),
        "ImageNet features, a box": ("template_{}", "variant == 'features, box'"),
        "template matching, a click": ("template_{}", "variant == 'click'"),
        "template matching, a box": ("template_{}", "variant == 'box'"),
    }
    rows = []
    for name, (file, chosen) in told.items():
        for sources, key in (("unseen", "unseen"), ("seen", "realsmall")):
            every = tidy(RESULTS / f"{file.format(key)}.json")
            part = every.query(chosen)
            if part["source"].nunique() < every["source"].nunique():  # not run on all of them yet
                continue
            cells = percent(over_seeds(part, metrics=SCORES), SCORES, spread=True).iloc[0]
            rows.append({"told": name, "on": f"{part['source'].nunique()} {sources} sources", **cells})
    return markdown(pd.DataFrame(rows))


def photo_table(results: Json) -> str:
    """Markdown: coins and procedural scenes."""
    coins, lower, scenes = results["coins"], results["coins_lower"], results["scenes"]
    ap50, ap75, *ignored, hit = (per_cent(scenes[key]) for key in SCORES)
    mean = "mean recall {}, mean precision {}".format

    def joined(rows: list[Json], key: str, form: str = "{:.3f}") -> str:
        return ", ".join(form.format(row[key]) for row in rows)

    photograph = f"photograph with {coins['objects']} coins, a click on each in turn, threshold {coins['threshold']}"
    made = "{images} procedural scenes of unseen seeds, {objects} objects, one click per category".format(**scenes["counts"])
    return plain_table(
        ("what", "result"),
        (photograph, mean(f"{coins['recall']:.3f}", f"{coins['precision']:.3f} at IoU 0.5")),
        (f"at fixed thresholds {joined(lower, 'threshold', '{:g}')}", mean(joined(lower, "recall"), joined(lower, "precision"))),
        *(
            (f"enlarged {joined(of, 'factor', '{}')} times, {name}", mean(joined(of, "recall"), joined(of, "precision")))
            for name, of in results["coins_enlarged"].items()
        ),
        (made, f"AP50 {ap50}, AP75 {ap75}; clicked ignored {', '.join(ignored)}; hit {hit}"),
    )


def scale_table(results: Json) -> str:
    """Markdown: AP50 by size of object in scenes across scales, in per cent, of images read once and read again."""
    scales = results["scales"]
    head = [f"{scales['read once']['scenes']} scenes of 512 px", "all", *(f"{name} px" for name in SCALE_BINS), "hit"]
    numbers = ("ap50", *SCALE_BINS, "hit")
    return plain_table(head, *([f"AP50, {name}", *(per_cent(of[key]) for key in numbers)] for name, of in scales.items()))


def speed_sentence(figures: Json) -> str:
    """One line of what a click costs."""
    size, times = figures["size"], (figures["encode_ms"], figures["click_ms"])
    return (
        f"On {figures['made_by']['device']}, a {size} x {size} image is encoded in {times[0]:.0f} ms, and each click takes "
        f"{times[1]:.0f} ms: together {figures['encode_and_click_to_rtdetr']:.2f} of the time of RT-DETRv2-R18."
    )


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
    return plain_table((f"on {figures['made_by']['device']}", ""), *rows)


def runtimes_table(figures: Json) -> str:
    """Markdown: what runs the model, times, memory and AP of each."""
    size, rows = figures["size"], []
    names = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for row in figures["rows"]:
        times = [f"{row[name]:.0f} ms" for name in ("encode_ms", "click_ms")]
        times.append(f"{row['cold_s']:.1f} s" if "cold_s" in row else "")
        space = [f"{row['mb']:.0f} MB", f"{row['file_mb']:.0f} MB"]
        about = [names[row["runtime"]], row["precision"], str(row["threads"])]
        rows.append([*about, *times, *space, per_cent(row["ap50"]), per_cent(row["ap75"])])
    head = ["runtime", "precision", "threads", f"encode {size} x {size}", "click", "cold start", "memory", "files"]
    return plain_table([*head, "AP50", "AP75"], *rows)


def browser_table(figures: Json) -> str:
    """Markdown: one click in the page beside the same one in Python."""
    rows = []
    for row in figures["rows"]:
        width, height = row["size_wh"]
        rows.append([f"{width:,} x {height:,} px", *(f"{row[name]:.0f} ms" for name in ("page_ms", "python_ms", "added_ms"))])
    return plain_table(["image", "click in the page", "`Predictor.click`", "difference"], *rows)


def large_table(figures: Json) -> str:
    """Markdown: one click on a map, and merging what its tiles found."""
    about, rows = figures["map"], figures["merging"]
    what = f"one click on a map of {about['side']:,} x {about['side']:,} px: most memory"
    each = f"a tile of {about['tile']:,} px with data, {about['tiles_seen']} of {about['tiles']}"
    merged = [(f"merging {row['boxes']:,} boxes of tiles", f"{row['cpu_s']:.2f} s") for row in rows]
    shown = (what, f"{about['peak_gib']:.2f} GiB"), (each, f"{about['cpu_s'] / about['tiles_seen']:.2f} s")
    return plain_table((f"CPU time, on {figures['made_by']['device']}", ""), *shown, *merged)


def many_sentence(figures: Json, tiles: int = 100_000_000) -> str:
    """What very many images cost, worked out from what some cost."""
    rates, (few, most), load, cpus = (figures[key] for key in ("images_per_s", "names", "load", "cpus"))
    name = 2**20 * (most["mb"] - few["mb"]) / (most["names"] - few["names"])
    hours, disk = figures["cpu_s_per_image"] * tiles / 3600, most["bytes"] / most["names"] * tiles
    where = f"{cpus} CPU{'s' * (cpus > 1)}" + (f", shared with other work (load {load:.0f})" if load > 1.5 * cpus else "")
    return (
        f"One worker of Ray reads {rates['1']:.2f} images of 512 x 512 pixels per second and two read {rates['2']:.2f}, on "
        f"{where}; an image takes {figures['cpu_s_per_image']:.2f} s of a CPU. The process that shares out {most['names']:,} "
        f"names has {most['mb']:.0f} MB in memory, {name:.0f} bytes a name. So {tiles / 1e6:.0f} million tiles cost "
        f"{hours:,.0f} CPU hours, {disk / 1e9:.0f} GB on disk at 20 boxes a tile, and {name * tiles / 1e9:.0f} GB in the memory "
        f"of that process, or {name * tiles / 1e11:.1f} GB where they lie in a hundred folders, one run after the other."
    )


def training_sentence(training: Json) -> str:
    """What was trained and for how long."""
    parts, minutes = training["parts"], sum(part["minutes"] for part in training["parts"])
    images = sum(part["steps"] * part["batch_size"] for part in parts)
    name, millions = Path(training["checkpoint"]).stem, training["parameters"] / 1e6
    return (
        f"`{name}` ({millions:.1f} M parameters), trained for {minutes:.0f} minutes on one core of a CPU ({images:,} crops), "
        "from ImageNet weights and what fits of the `nano` before."
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
    """Models side by side; of each its results files by what they begin with, see `MODEL_FILES`."""
    columns = [*SCORES, "hit_shown"]
    heads = ["model", "parameters", "crops", "minutes trained", *(HEADS[c] for c in columns)]
    rows = [[*heads, "scenes, AP50", "coins, recall", "encode", "click"]]
    for name, files in models.items():
        real, training, photos, bench = (files[part] for part in MODEL_FILES)
        crops = sum(part["steps"] * part["batch_size"] for part in training["parts"])
        made = [f"`{name}`", f"{training['parameters'] / 1e6:.1f} M", f"{crops:,}", minutes_text(training["parts"])]
        alone = tidy(real).query("setting == '1/category' and kind == 'centre' and prompts == 'alone'")
        scores = [*over_seeds(alone)[columns].iloc[0], photos["scenes"]["ap50"], photos["coins"]["recall"]]
        rows.append([*made, *map(per_cent, scores), *(f"{bench[key]:.0f} ms" for key in ("encode_ms", "click_ms"))])
    return plain_table(*rows)


MODEL_FILES = ("realsmall", "training", "photos", "bench")
"""What the results of a published model begin with, before `_NAME.json`."""


def published_models(_: Json) -> str:
    """The models of which all results are committed."""
    files = {name: {part: RESULTS / f"{part}_{name}.json" for part in MODEL_FILES} for name in MODELS}
    there = {name: parts for name, parts in files.items() if all(file.is_file() for file in parts.values())}
    return model_table({name: {part: read_json(file) for part, file in parts.items()} for name, parts in there.items()})


# Thresholds and mistakes


def threshold_table(results: Json) -> str:
    """F1 of four ways to cut, and the counting error of two of them; means over sources."""
    names = {"fixed": f"fixed at {results['fixed']}", "adaptive": "adaptive"}
    names |= {"best_of_source": "best fixed of each source, found on it", "oracle": "best of each prompt, found on it"}
    means = pd.DataFrame(results["mean"])[["f1", "count_mae"]].loc[[*names]]
    cells = percent(means, ["f1"]).set_axis(["F1 at IoU 0.5"], axis=1)
    cells["objects counted wrong"] = means["count_mae"].map("{:.1f}".format, na_action="ignore").fillna("–")
    cells.insert(0, "threshold", [*names.values()])
    return markdown(cells)


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


def efficiency_table(results: Any) -> str:
    """A row per regime and method; per cent, mean over seeds, class-agnostic; and what it cost.

    `clicked ignored`: AP50 without the objects clicked for DEAL, in every row. `passes`: crops drawn per image.
    """
    order = [row.name for row in ROWS]
    frame = tidy(results).sort_values("row", key=lambda names: names.map(order.index), kind="stable")
    first, rows = frame.drop_duplicates("row").set_index("row"), frame.groupby("row", sort=False)
    means = row_means(frame).assign(ap50_std=rows["ap50"].std())
    own, free = first["model"] == "deal published", means["minutes"] == 0
    table = pd.DataFrame({"labels": first["regime"].map(REGIME_NAMES), "method": first.apply(method_name, axis=1)})
    table = table.join(percent(means, [*COLUMNS, "ap50_ignored"], spread=True).rename(columns=COLUMNS))
    table["labelled images"] = means["labelled_images"].map("{:.0f}".format).mask(own, "its own")
    for name in ("passes", "minutes"):
        table[name] = means[name].map("{:.1f}".format).mask(own | free, "–")
    return markdown(table.assign(seeds=rows.size().astype(str)))


def race_table(results: Any) -> str:
    """A row per model and point of its curve, rows of `race`; per cent, means over files, class-agnostic.

    `clicked ignored` is of DEAL alone: AP50 without the objects that it was given.
    """
    frame = tidy(results)
    again = frame["model"].duplicated()
    table = pd.DataFrame({"method": frame["model"].map(MODEL_NAMES).mask(again, "")})
    table["images/s"] = frame["images_per_s"].map("{:.1f}".format).mask(again, "")
    table["minutes"], table["step"] = frame["minutes"].map("{:.1f}".format), frame["step"].astype(str)
    columns = ["ap50", "ap75", "ap50_ignored"]
    return markdown(table.join(percent(frame.reindex(columns=columns), columns)))


def beside_paper(results: Any, paper: Json) -> str:
    """AP25, AP50, AP75 of every row that the paper has a like of, ours and the paper's; a dash where one is missing."""
    columns, like, rows = ["ap25", "ap50", "ap75"], list(PAPER_ROWS.values()), {row.name: asdict(row) for row in ROWS}
    ours = percent(row_means(results).reindex(index=list(PAPER_ROWS), columns=columns), columns)
    theirs = percent(pd.DataFrame(paper["rows"]).set_index(["regime", "method"]).loc[like, columns].astype(float) / 100, columns)
    table = pd.DataFrame({"labels": [REGIME_NAMES.get(regime, "one click per category") for regime, _ in like]}, index=ours.index)
    table["ours"], table["the paper's"] = [method_name(rows[name]) for name in ours.index], [name for _, name in like]
    theirs = theirs.set_axis(ours.index).rename(columns={"AP25": "paper AP25"})
    return markdown(pd.concat([table, ours, theirs], axis=1))


def tinyset_table(paper: Json, made: Json | None = None) -> str:
    """A TinySet, by default that of `tinyset_stats.json`, its domains, and the paper's."""
    theirs, made = paper["tinyset"], made or read_json(RESULTS / "tinyset_stats.json")
    parts = pd.DataFrame({"all": made["total"], **made["domains"]}).T
    parts["sources"] = [str(len(names)) for names in (made["sources"], *parts["sources"].iloc[1:])]
    whole = {"sources": "not stated", "images": theirs["images"], "objects": theirs["boxes"], "size_mean": theirs["size_mean"]}
    parts.loc["TinySet-9M (paper)"] = whole
    numbers = parts[["images", "objects"]].astype(int)
    table = pd.DataFrame({"sources": parts["sources"], "images": numbers["images"].map("{:,}".format)})
    table["boxes"] = numbers["objects"].map("{:,}".format)
    table["boxes per image"] = (numbers["objects"] / numbers["images"]).map("{:.1f}".format)
    table["mean size, px"] = parts["size_mean"].map("{:.1f}".format)
    small = parts["size_bins"].map(lambda bins: "–" if pd.isna(bins) else f"{100 * (1 - bins['m']):.0f} %", na_action=None)
    return markdown(table.assign(**{"under 32 px": small}).rename_axis("domain").reset_index())


def index_sentence(figures: Json) -> str:
    """One line of what an index of a large TinySet costs; its numbers are random."""
    return (
        f"{figures['boxes']:,} boxes in {figures['images']:,} images make an index of {figures['file_mb']:.0f} MB. On one core "
        f"it is written in {figures['write_s']:.0f} s and opens in {figures['open_s']:.1f} s; its boxes need "
        f"{figures['held_mb']:.0f} MB of memory. Drawing an image of a balanced training, without its pixels, takes "
        f"{figures['draw_us']:.0f} µs."
    )


def credits_table(pictures: Json) -> str:
    """A row per picture of `figures/` and source in it: who its image is by, and the licence."""
    rows = [{"picture": f"`{name}`", **source} for name, sources in pictures.items() for source in sources]
    return markdown(pd.DataFrame(rows).set_axis(["picture", "image", "by", "licence"], axis=1))
