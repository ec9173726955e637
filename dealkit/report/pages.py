"""Which results file and table stands where on the pages, and writing them there."""

from collections.abc import Sequence
from pathlib import Path

from dealkit.files import PROJECT_ROOT, read_json, write_text
from dealkit.report.tables import (
    RESULTS,
    ablation_table,
    browser_table,
    credits_table,
    efficiency_table,
    headline_table,
    index_sentence,
    kinds_table,
    large_table,
    many_sentence,
    margins_table,
    noc_table,
    options_table,
    photo_table,
    position_table,
    protocol_table,
    published_models,
    race_table,
    rounds_table,
    runtimes_table,
    scale_table,
    settings_table,
    shot_table,
    source_table,
    speed_sentence,
    speed_table,
    template_results,
    threshold_table,
    tinyset_table,
    training_sentence,
    transfer_table,
    ways_table,
)

TABLES = {
    "headline": ("unseen_nano.json", headline_table),
    "unseen": ("unseen_nano.json", ways_table),
    "unseen_settings": ("unseen_nano_settings.json", settings_table),
    "open": ("open_nano.json", ways_table),
    "options": ("options_nano.json", options_table),
    "margins": ("margins_nano.json", margins_table),
    "kinds": ("unseen_kinds.json", kinds_table),
    "training": ("training_nano.json", training_sentence),
    "models": ("realsmall_nano.json", published_models),
    "sources": ("realsmall_nano.json", source_table),
    "settings": ("realsmall_nano_settings.json", settings_table),
    "photos": ("photos_nano.json", photo_table),
    "scales": ("photos_nano.json", scale_table),
    "scales_ablation": ("ablation_scales.json", ablation_table),
    "speed_line": ("bench_nano.json", speed_sentence),
    "speed": ("bench_nano.json", speed_table),
    "runtimes": ("runtimes_nano.json", runtimes_table),
    "browser": ("browser_nano.json", browser_table),
    "large": ("large_nano.json", large_table),
    "many": ("ray_nano.json", many_sentence),
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
    "tinyset": ("../paper.json", tinyset_table),
    "index": ("index.json", index_sentence),
    "credits": ("../credits.json", credits_table),
}
"""Tables of the pages: the results file and the function that draws each."""


PAGES = (PROJECT_ROOT / "README.md", RESULTS / "README.md")
"""Where they stand: the headline, and everything."""


def update_tables(pages: Sequence[Path] = PAGES, results: Path = RESULTS, *, check: bool = False) -> None:
    """Write every table between its markers `<!-- table NAME -->` and `<!-- end -->` on the page that has them.

    What stands between the markers of a table stays where there is no results file, or one of a run that is not finished.

    Args:
        check: write nothing, and say what differs.

    Raises:
        ValueError: a table that is on none of the pages, or on several, or one that differs in a check; names it.
    """
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    for name, (file, table) in TABLES.items():
        start, end = f"<!-- table {name} -->", "<!-- end -->"
        found = [page for page in texts for _ in range(texts[page].count(start))]
        if len(found) != 1:
            raise ValueError(f"{' and '.join(map(str, pages))}: expected one marker {start!r}, found {len(found)}")
        made = read_json(results / file) if (results / file).is_file() else None
        if made is None or ("sources" in made and "mean" not in made):
            continue
        head, rest = texts[found[0]].split(start)
        stood, tail = rest.split(end, 1)
        if check and stood != f"\n{table(made)}\n":
            raise ValueError(f"{found[0]}: table {name} differs from {results / file}; expected what `report` writes")
        texts[found[0]] = f"{head}{start}\n{table(made)}\n{end}{tail}"
    for page, text in () if check else texts.items():
        write_text(page, text)
