"""The tables of the README and of the results page, from the committed results."""

from collections.abc import Sequence
from pathlib import Path

from dealkit.config import MODELS
from dealkit.evaluate.benchmark import SCALE_BINS, mean_row
from dealkit.files import PROJECT_ROOT, Json, read_json
from dealkit.report.cross_tables import protocol_table, public_table, shot_table
from dealkit.report.tables import (
    SCORES,
    ablation_table,
    noc_table,
    per_cent,
    position_table,
    rounds_table,
    template_table,
)
from dealkit.studies.claims import efficiency_table, race_table


def source_table(results: Json, setting: str = "1/category centre") -> str:
    """Markdown: one row per source, mean over seeds, in per cent; the last row is the mean over sources with its spread over
    seeds."""
    columns = (*SCORES, "hit_shown")
    lines = [
        "| source | images | objects | AP50 | AP75 | AP50, clicked ignored | AP75, clicked ignored | hit | hit, shown |",
        "|" + "---|" * 9,
    ]
    for name, source in sorted(results["sources"].items()):
        row = mean_row([{c: run[c] for c in columns} for run in source["runs"][setting]])
        lines.append(
            f"| {name} | {source['images']} | {source['objects']} | " + " | ".join(per_cent(row[c]) for c in columns) + " |"
        )
    last, spread = results["mean"][setting], results["spread"][setting]
    cells = [f"**{per_cent(last[c])}** ± {per_cent(spread[c])}" for c in columns]
    lines.append(f"| **mean of {len(results['sources'])}** | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings_table(results: Json) -> str:
    """Markdown: one row per click setting and kind, mean over sources and seeds, in per cent."""
    columns = ("ap25", *SCORES, "hit_shown")
    lines = [
        "| clicks | AP25 | AP50 | AP75 | AP50, clicked ignored | AP75, clicked ignored | hit | hit, shown |",
        "|" + "---|" * 8,
    ]
    for name, row in results["mean"].items():
        lines.append(f"| {name} | " + " | ".join(per_cent(row[c]) for c in columns) + " |")
    return "\n".join(lines)


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


def transfer_table(results: Json) -> str:
    """Markdown: AP of a click in the image itself and of prompts from other images, the image's own clicked object ignored."""
    rows = [
        ("a click in the image itself", "own"),
        ("a click in one other image", "one"),
        (f"the mean of clicks in {results['clicked']} others", "mean"),
    ]
    lines = [
        f"| {name} | {per_cent(results['mean'][key]['ap50_ignored'])} | {per_cent(results['mean'][key]['ap75_ignored'])} |"
        for name, key in rows
    ]
    return "\n".join(["| prompt | AP50, clicked ignored | AP75, clicked ignored |", "|---|---|---|", *lines])


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
        scores = [real["mean"]["1/category centre"][column] for column in (*SCORES, "hit_shown")]
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


def template_results(results: Json) -> str:
    """Template matching beside the committed results of DEAL."""
    deal = PROJECT_ROOT / "data" / "results" / "realsmall_nano.json"
    return template_table(results, read_json(deal) if deal.is_file() else None)


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
