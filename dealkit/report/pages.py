"""Which results file and table stands where on the pages, and writing them there."""

from collections.abc import Sequence
from pathlib import Path

from dealkit.files import PROJECT_ROOT, read_json, write_text
from dealkit.report import study_tables, tables
from dealkit.report.tables import RESULTS

TABLES = {
    "headline": ("unseen_nano.json", tables.headline_table),
    "unseen": ("unseen_nano.json", tables.ways_table),
    "unseen_settings": ("unseen_nano_settings.json", tables.settings_table),
    "open": ("open_nano.json", tables.ways_table),
    "options": ("options_nano.json", tables.options_table),
    "rescaled": ("rescaled_nano.json", tables.rescale_table),
    "margins": ("margins_nano.json", tables.margins_table),
    "kinds": ("unseen_kinds.json", study_tables.kinds_table),
    "prompts": ("prompt_strategies.json", study_tables.kinds_table),
    "paper_components": ("unseen_kinds.json", study_tables.component_table),
    "training": ("training_nano.json", tables.training_sentence),
    "models": ("realsmall_nano.json", tables.published_models),
    "sources": ("realsmall_nano.json", tables.source_table),
    "photos": ("photos_nano.json", tables.photo_table),
    "scales": ("photos_nano.json", tables.scale_table),
    "scales_ablation": ("ablation_scales.json", study_tables.ablation_table),
    "speed_line": ("bench_nano.json", tables.speed_sentence),
    "speed": ("bench_nano.json", tables.speed_table),
    "runtimes": ("runtimes_nano.json", tables.runtimes_table),
    "browser": ("browser_nano.json", tables.browser_table),
    "large": ("large_nano.json", tables.large_table),
    "many": ("ray_nano.json", tables.many_sentence),
    "thresholds": ("thresholds_nano.json", tables.threshold_table),
    "transfer": ("transfer_nano.json", study_tables.transfer_table),
    "rounds": ("rounds_nano.json", study_tables.rounds_table),
    "noc": ("rounds_nano.json", study_tables.noc_table),
    "positions": ("positions_nano.json", study_tables.position_table),
    "additions": ("ablation_additions.json", study_tables.ablation_table),
    "templates": ("template_realsmall.json", study_tables.template_results),
    "rates": ("label_efficiency_rates.json", study_tables.rate_table),
    "efficiency": ("label_efficiency.json", study_tables.efficiency_table),
    "efficiency_long": ("label_efficiency_long.json", study_tables.efficiency_table),
    "methods": ("label_efficiency.json", study_tables.method_table),
    "methods_long": ("label_efficiency_long.json", study_tables.method_table),
    "claims": ("label_efficiency.json", study_tables.claim_table),
    "heldout": ("protocol_heldout.json", study_tables.protocol_table),
    "domains": ("protocol_domains.json", study_tables.protocol_table),
    "categories": ("protocol_categories.json", study_tables.protocol_table),
    "real": ("protocol_real.json", study_tables.protocol_table),
    "adapt": ("adapt_heldout.json", study_tables.shot_table),
    "tinyset": ("../paper.json", tables.tinyset_table),
    "index": ("index.json", tables.index_sentence),
    "credits": ("../credits.json", tables.credits_table),
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
