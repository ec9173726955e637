"""`dealkit.studies.claims` and its tables: claims from hand-made rows; `data/paper.json`."""

from dataclasses import asdict, fields

import yaml

from dealkit.config import Budget
from dealkit.data.regimes import REGIMES
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.report.study_tables import beside_paper, efficiency_table, method_table, rate_table, template_table
from dealkit.studies import claims as module
from dealkit.studies.claims import COLUMNS, MODEL_NAMES, PAPER_ROWS, REGIME_NAMES, check_claims, row_means
from dealkit.studies.label_efficiency import best_rates
from dealkit.studies.label_rows import ROWS

PAPER = read_json(PROJECT_ROOT / "data" / "paper.json")
OF_NAME = {row.name: row for row in ROWS}


def row(name, seed=0, minutes=2.0, **metrics):
    values = dict.fromkeys(COLUMNS) | {"ap50_ignored": 0.2, "labelled_images": 12, "passes": 40.0, "minutes": minutes} | metrics
    return {"row": name, "seed": seed, **asdict(OF_NAME[name]), **values}


def like_the_paper():
    """Our rows with the paper's numbers, as shares, by name."""
    theirs = {(r["regime"], r["method"]): r for r in PAPER["rows"]}
    made = {
        name: row(name, **{c: None if theirs[key][c] is None else theirs[key][c] / 100 for c in COLUMNS})
        for name, key in PAPER_ROWS.items()
    }
    return made | {"point fcos": row("point fcos", ap25=0.1, ap50=0.0, ap75=0.0)}


def cells(table):
    """Cells of a Markdown table, without the line under the head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_the_papers_numbers_are_there_in_per_cent():
    rows = {(r["regime"], r["method"]): r for r in PAPER["rows"]}
    assert rows["full", "RT-DETR"]["ap50"] == 43.1 and rows["noise40", "DN-TOD (FCOS)"]["ap75"] == 4.6
    assert rows["point", "Point Teacher"]["ap50_t"] is None  # not on the page
    assert len(rows) == len(PAPER["rows"]) == 6 + 4 + 4 + 3 * 3 + 3 * 3 + 5 + 2 + 1  # by regime
    for r in PAPER["rows"]:
        assert {"regime", "method", *COLUMNS} == set(r)
        values = [r[key] for key in ("ap25", "ap50", "ap75") if r[key] is not None]
        assert values == sorted(values, reverse=True) and all(0 <= v <= 100 for v in values)


def test_every_row_has_a_name_and_those_with_a_like_exist():
    assert {r.regime for r in ROWS} <= set(REGIMES) == set(REGIME_NAMES) and {r.model for r in ROWS} == set(MODEL_NAMES)
    assert len(OF_NAME) == len(ROWS) and set(PAPER_ROWS) <= set(OF_NAME)
    assert set(PAPER_ROWS.values()) <= {(r["regime"], r["method"]) for r in PAPER["rows"]}
    assert list(OF_NAME)[-2:] == ["full deal", "full deal published"]


def test_a_table_has_a_row_per_method_in_order_mean_over_seeds():
    rows = [row("zero template box", minutes=0.0, ap50=0.1), row("full fcos", 0, ap25=0.6, ap50=0.5, ap75=0.1, ap50_vt=0.25)]
    rows += [row("full fcos", 1, ap25=0.8, ap50=0.7, ap75=0.3), row("full deal published", ap50=0.9)]
    head, fcos, template, published = cells(efficiency_table(rows))
    # AP50 0.5 and 0.7: mean 60, standard deviation 10 x sqrt(2)
    assert fcos == ["all labels", "FCOS", "70.0", "60.0 ± 14.1", "20.0", "25.0", "–", "–", "–", "20.0", "12", "40.0", "2.0", "2"]
    assert template[:4] == ["none", "template matching, box of one object", "–", "10.0"] and template[-3:] == ["–", "–", "1"]
    assert published[-4:] == ["its own", "–", "–", "1"] and len(head) == len(fcos)


def test_a_row_that_is_not_there_is_a_dash_beside_the_paper():
    lines = cells(beside_paper([row("full rtdetr", ap25=0.4, ap50=0.3, ap75=0.1)], PAPER))
    assert ["all labels", "RT-DETRv2", "RT-DETR", "40.0", "30.0", "10.0", "57.2", "43.1", "12.1"] in lines
    assert ["all labels", "FCOS", "FCOS", "–", "–", "–", "66.3", "49.5", "17.1"] in lines
    assert lines[-1][:3] == ["one click per category", "DEAL, one click per category", "DEAL, one point per category"]
    assert len(row_means([])) == 0


def test_claims_without_rows_say_which_are_missing():
    claims = check_claims([], PAPER)
    assert len(claims) == 6 and set(claims["verdict"]) == {module.NOT_RUN}
    assert claims["ours"][0] == "no row full deal, full rtdetr" and claims["paper"][0] == "53.8 against 43.1"


def test_the_papers_own_numbers_reproduce_its_claims():
    """What it does not state (AP75 of DEAL, the sizes of its semi-supervised rows) is set here."""
    rows = like_the_paper()
    rows["full deal"]["ap75"] = 0.159
    for r in rows.values():
        if r["regime"].startswith("semi"):
            r |= {"ap50_t": 0.2, "ap50_m": 0.5 if r["method"] == "plain" else 0.6}
    claims = check_claims(list(rows.values()), PAPER)
    assert claims["verdict"].tolist() == [module.HOLDS] * 6
    assert claims["ours"][2] == claims["paper"][2] == "80 %, 68 %, 16 %"  # 52.8 / 66.3, 33.5 / 49.5, 2.7 / 17.1
    assert claims["ours"][3] == "+0.0 points on tiny, +10.0 points on medium objects"
    assert claims["paper"][4] == "12 %, 23 %, 33 %"  # 5.1, 10.0, 14.2 of 43.2
    assert claims["ours"][5] == claims["paper"][5] == "72 % and 1 %"  # 47.8 / 66.3, 0.1 / 17.1


def test_a_claim_that_one_seed_bears_out_and_another_does_not_is_undecided():
    rows = [row("full deal", seed, ap50=0.5, ap75=0.1) for seed in (0, 1, 2)]
    rows += [row("full rtdetr", seed, ap50=ap50, ap75=0.0) for seed, ap50 in ((0, 0.4), (1, 0.6))]  # no third seed
    claims = check_claims(rows, PAPER).iloc[:2]
    assert claims["verdict"].tolist() == [module.UNDECIDED, module.HOLDS] and claims["seeds"].tolist() == ["2", "2"]
    assert claims["ours"][0] == "50.0 against 50.0"


def test_claims_can_fail():
    rows = like_the_paper()
    rows["full deal"] |= {"ap50": 0.431, "ap75": 0.1}  # no better than RT-DETR
    rows["noise40 fcos"] |= {"ap25": 0.3, "ap50": 0.4, "ap75": 0.17}
    for r in rows.values():
        if r["regime"].startswith("semi"):
            r |= {"ap50_t": 0.2 if r["method"] == "plain" else 0.3, "ap50_m": 0.5}
    rows["sparse1 fcos"]["ap50"] = 0.3
    rows["point fcos point_teacher"]["ap75"] = 0.1
    assert check_claims(list(rows.values()), PAPER)["verdict"].tolist() == [module.FAILS] * 6


def test_a_rate_is_bold_where_a_model_finds_most():
    rows = [{"model": m, "rate": r, "ap50": v} for m, r, v in (("fcos", 1e-4, 0.2), ("fcos", 1e-3, 0.3), ("deal", 1e-4, 0.5))]
    head, deal, fcos = cells(rate_table([*rows, {"model": "deal", "rate": 1e-3, "ap50": 0.4}]))
    assert head == ["AP50 at a rate of", "0.0001", "0.001"] and fcos == ["FCOS", "20.0", "**30.0**"]
    assert deal == ["DEAL, one click per category", "**50.0**", "40.0"]


def test_a_method_stands_beside_its_plain_detector_with_the_labels_that_it_makes():
    curve = [[50, 0.25, 0.1], [100, 0.5, 0.2]]
    plain, own = row("semi5 fcos", ap25=0.5, ap50=0.3, ap75=0.1), row("semi5 fcos mean_teacher", ap25=0.6, ap50=0.2, ap75=0.1)
    plain, own = ({**of, "ap50 in sea": sea, "ap50 in air": 0.5} for of, sea in ((plain, 0.1), (own, 0.3)))
    _, line = cells(method_table([plain, own | {"label_curve": curve}, row("full fcos", ap50=0.4)]))
    gains = ["50.0 → 60.0 (+10.0)", "30.0 → 20.0 (-10.0)", "10.0 → 10.0 (+0.0)", "30.0 → 40.0 (+10.0)"]
    assert line == ["5 % of images", "mean teacher", *gains, "25.0 → 50.0", "10.0 → 20.0"]


def test_a_table_says_what_the_last_third_of_a_training_gained():
    curve = [[100, 0.2], [200, 0.4], [300, 0.375]]
    head, fcos, template = cells(efficiency_table([row("full fcos") | {"curve": curve}, row("zero template box")]))
    assert (fcos[head.index("last third")], template[head.index("last third")]) == ("-2.5", "–")


def test_templates_are_bold_where_they_find_more_than_deal():
    def of(source, ap50, ignored, **more):
        return {"source": source, "seed": 0, "ap50": ap50, "ap50_ignored": ignored} | more

    boxes = [of("b", 0.5, 0.1, variant="box"), of("a", 0.1, None, variant="box")]
    deal = [of("a", 0.2, 0.0), of("b", 0.4, 0.3)]
    head, *rows = cells(template_table(boxes, deal))
    assert head == ["source", "shown the box: AP50", "clicked ignored", "DEAL, one click: AP50", "clicked ignored"]
    assert rows[0] == ["a", "10.0", "–", "20.0", "0.0"] and rows[1] == ["b", "**50.0**", "10.0", "40.0", "30.0"]
    assert rows[2] == ["mean of 2", "30.0", "10.0", "30.0", "15.0"], "means over sources that have a score"
    assert cells(template_table(boxes))[1:][1] == ["b", "50.0", "10.0", "–", "–"]


def test_the_notebooks_rows_go_on_with_the_published_ones():
    """The same budget on the same sources, each model at the best of the rates that were tried: what is in the file is kept."""
    values = yaml.safe_load((PROJECT_ROOT / "notebooks/params/06_label_efficient_benchmark_rows.yml").read_text())
    made, checked = (read_json(PROJECT_ROOT / values[name]) for name in ("results", "rate_results"))
    request = made["request"]
    assert all(
        Budget(**values["budget"]) == Budget(**{f.name: m["request"][f.name] for f in fields(Budget)}) for m in (made, checked)
    )
    assert (
        list(request["sources"]) == [file.split("/")[1] for file in values["train_files"]] == list(checked["request"]["sources"])
    )
    tried = {(row["model"], row["rate"]) for row in checked["rows"]}
    assert tried == {(model, rate) for model in values["rate_models"] for rate in values["rates"]}
    assert request["rates"] == best_rates(checked["rows"])
