"""The tables of the published model and its data, from the committed results: pandas inside, Markdown outside.

Shares are shown in per cent. The tables of studies: `study_tables`.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dealkit.config import MODELS
from dealkit.evaluate.benchmark import SCALE_BINS, over_seeds, with_spread
from dealkit.evaluate.matching import per_cent
from dealkit.files import PROJECT_ROOT, Json, read_json, tidy
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


# Data and pictures


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
