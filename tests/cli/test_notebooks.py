"""The form of every notebook and parameter file, and the runner: what it refuses, skips and runs again."""

import base64
import json
import re
import sys

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dealkit.cli import notebooks
from dealkit.cli.notebooks import NOTEBOOKS, check_parameters, clean, notebook_parameters, run_hash, run_notebook

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PARAMS = sorted((NOTEBOOKS / "params").glob("*.yml"))
PERSONAL = re.compile(r"/(home|root|Users|tmp|work|mnt|content)/|[A-Z]:\\\\|\.\./|https?://(localhost|127\.)")


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs_of(path):
    return [output for cell in code_of(path) for output in cell.outputs]


each_notebook = pytest.mark.parametrize("path", PATHS, ids=[p.stem for p in PATHS])


@each_notebook
def test_a_notebook_has_one_parameters_cell_that_papermill_sees_the_same(path):
    nbformat.validate(read(path))
    ours = notebook_parameters(read(path), path.name)
    assert ours and list(papermill.inspect_notebook(str(path))) == list(ours)


@each_notebook
def test_a_notebook_starts_with_its_question_and_what_it_reads_and_writes_and_ends_with_checks(path):
    first, *_, last = read(path).cells
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    assert "?" in first.source and "Reads:" in first.source and "Writes:" in first.source
    assert last.cell_type == "code"
    assert len(re.findall(r"^\s*assert ", "\n".join(cell.source for cell in code_of(path)), re.M)) >= 3


@each_notebook
def test_cells_are_few_and_short_and_define_nothing(path):
    assert 15 <= len(read(path).cells) <= 40
    for cell in code_of(path):
        assert len(cell.source.splitlines()) <= 26, f"{cell.source[:60]}: what is long belongs into dealkit"
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M), f"{cell.source[:60]}: belongs into dealkit"


@each_notebook
def test_a_notebook_keeps_the_outputs_of_one_run_from_top_to_bottom(path):
    code = code_of(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "make notebooks runs it"
    assert sum(bool(cell.outputs) for cell in code) >= 5
    assert not any(output.output_type == "error" for output in outputs_of(path))


@each_notebook
def test_outputs_are_small_and_without_progress_bars_or_widgets(path):
    assert path.stat().st_size < 350_000
    for output in outputs_of(path):
        assert output.get("name") != "stderr"
        for kind, value in output.get("data", {}).items():
            assert "widget" not in kind
            assert not kind.startswith("image/") or len(base64.b64decode(value)) < 100_000
        assert "\r" not in output.get("text", "") and "it/s]" not in output.get("text", "")


@each_notebook
def test_a_notebook_says_nothing_about_a_machine(path):
    notebook = read(path)
    texts = [cell.source for cell in notebook.cells]
    for output in outputs_of(path):
        texts += [output.get("text", ""), *(str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/"))]
    assert not [match.group() for text in texts if (match := PERSONAL.search(text))]
    assert notebook.metadata.kernelspec.name == "python3" and "version" not in notebook.metadata.language_info
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@pytest.mark.parametrize("path", PARAMS, ids=[p.stem for p in PARAMS])
def test_parameter_files_fit_the_notebook_that_their_name_starts_with(path):
    (notebook,) = (p for p in PATHS if path.stem.startswith(p.stem))
    values = check_parameters(notebook_parameters(read(notebook)), path)
    assert values and not PERSONAL.search(path.read_text())
    assert values == yaml.safe_load(path.read_text())


@pytest.fixture
def folder(tmp_path):
    """A folder with one small notebook that writes a line to a file whenever it runs, and fails while a file `fail` exists."""
    lines = ["from pathlib import Path", "folder = Path(where)", "with open(folder / 'ran', 'a') as file:"]
    lines += ["    file.write(f'{steps} {rate}\\n')", "print('steps', steps)"]
    cells = [
        new_markdown_cell("# 09 Small"),
        new_code_cell(f"steps = 3  # few\nrate = 0.5\nwhere = {str(tmp_path)!r}", metadata={"tags": ["parameters"]}),
        new_code_cell("\n".join(lines)),
        new_code_cell("# the last\nassert not (folder / 'fail').exists(), 'told to fail'"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "09_small.ipynb")
    return tmp_path


def run(folder, *args, **options):
    return run_notebook("09_small", *args, folder=folder, out=folder / "runs", **options)


def ran(folder):
    path = folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def params(folder, text):
    path = folder / "real.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "param", "message"),
    [
        ("stepz: 5", (), r"real\.yml: the notebook has no parameter 'stepz'; it has steps, rate, where"),
        ("steps: many", (), r"real\.yml: steps: expected int like 3, got 'many'"),
        ("steps: true", (), r"real\.yml: steps: expected int like 3, got True"),
        ("steps: 2.5", (), r"real\.yml: steps: expected int like 3, got 2\.5"),
        ("rate: high", (), r"real\.yml: rate: expected float like 0\.5, got 'high'"),
        ("- steps", (), r"real\.yml: expected `name: value` lines, got list"),
        ("steps: [1", (), r"real\.yml: not a YAML file"),
        (None, (), r"real\.yml: not a YAML file: .*No such file"),
        ("", (("stepz", "5"),), r"the notebook has no parameter 'stepz'"),
        ("", (("steps", "2.5"),), r"steps: expected int like 3, got 2\.5"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(folder, text, param, message):
    file = folder / "real.yml" if text is None else params(folder, text)
    with pytest.raises(ValueError, match=message):
        run(folder, file, param)
    assert not ran(folder) and not (folder / "runs").exists()


def test_single_parameters_win_over_those_of_a_file_and_have_the_type_of_their_default(folder):
    known = {"steps": 3, "rate": 0.5, "name": "a", "shots": [1], "full": False, "seed": None}
    given = [("rate", "1e-3"), ("name", "12"), ("shots", "[1, 5]"), ("full", "true"), ("seed", "4"), ("steps", "7")]
    made = check_parameters(known, params(folder, "steps: 5\nrate: 2"), given)
    assert made == {"steps": 7, "rate": 0.001, "name": "12", "shots": [1, 5], "full": True, "seed": 4}
    assert check_parameters(known, params(folder, "# nothing yet\n")) == {}


def test_an_unknown_notebook_is_named_beside_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"expected one of 09_small; .* has no '10_large\.ipynb'"):
        run_notebook("10_large", folder=folder, out=folder / "runs")


def test_a_finished_run_is_skipped_unless_forced(folder, capsys):
    file = params(folder, "steps: 7\nrate: 2")
    done = run(folder, file)
    assert done.parent == folder / "runs" / "09_small" and re.fullmatch(r"real-[0-9a-f]{10}\.ipynb", done.name)
    assert ran(folder) == ["7 2.0"]
    capsys.readouterr()
    assert run(folder, file) == done
    assert "this run is finished" in capsys.readouterr().out and ran(folder) == ["7 2.0"]
    assert run(folder, file, force=True) == done
    assert ran(folder) == ["7 2.0", "7 2.0"]


def test_a_failed_run_names_its_cell_and_is_run_again(folder):
    (folder / "fail").touch()
    said = r"cell In \[\d+\], line 2: assert not \(folder / 'fail'\)\.exists\(\), 'told to fail': AssertionError: told to fail; "
    with pytest.raises(ValueError, match=said) as caught:
        run(folder)
    (part,) = (folder / "runs" / "09_small").iterdir()
    assert part.name.startswith("default-") and part.name.endswith(".part.ipynb") and part.name in str(caught.value)
    assert any("steps 3" in output.get("text", "") for output in outputs_of(part))
    (folder / "fail").unlink()
    done = run(folder)
    assert ran(folder) == ["3 0.5", "3 0.5"]
    assert list((folder / "runs" / "09_small").iterdir()) == [done]


def test_a_claim_that_a_short_run_cannot_hold_is_a_warning_and_other_checks_are_errors(folder, capsys):
    """In [1] is the line that softens claims, In [2] the parameters, In [3] those that are set."""
    claims = ["if True:", "    assert steps > 2, 'enough steps'", "print('and on')"]
    wrong = new_code_cell("assert rate < 1, f'rate: {rate} is too high'")
    check = new_code_cell("assert steps, 'a check'", metadata={"tags": ["nbval-check-output"]})
    notebook = read(folder / "09_small.ipynb")
    notebook.cells += [new_code_cell("\n".join(claims)), wrong, check]
    nbformat.write(notebook, folder / "09_small.ipynb")
    done = run(folder, None, (("steps", "1"),))
    said = "does not hold with these parameters: line 2: assert steps > 2, 'enough steps'"
    assert f"warning: cell In [6], {said}" in capsys.readouterr().err
    assert any("and on" in output.get("text", "") for output in outputs_of(done))
    for name, value, said in (("rate", "2", "AssertionError: rate: 2.0 is too high"), ("steps", "0", "AssertionError: a check")):
        with pytest.raises(ValueError, match=said):
            run(folder, None, ((name, value),))


def test_a_run_is_known_by_its_code_and_its_parameters():
    notebook = new_notebook(cells=[new_markdown_cell("a"), new_code_cell("x = 1")])
    name = run_hash(notebook, {"steps": 1, "size": 2})
    notebook.cells[0].source = "b"
    notebook.cells[1].execution_count = 3
    assert run_hash(notebook, {"size": 2, "steps": 1}) == name
    assert run_hash(notebook, {"size": 2, "steps": 3}) != name
    notebook.cells[1].source = "x = 2"
    assert run_hash(notebook, {"size": 2, "steps": 1}) != name


def test_cleaning_keeps_outputs_and_counts_and_nothing_of_the_machine(tmp_path, monkeypatch, capsys):
    widget = new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"})
    kept, warning = new_output("stream", text="42\n"), new_output("stream", name="stderr", text="careful\n")
    metadata = {"execution": {"a": "1"}, "tags": ["parameters"]}
    cell = new_code_cell("x", outputs=[widget, kept, warning], metadata=metadata, execution_count=1)
    path = tmp_path / "09_small.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("a"), cell], metadata={"widgets": {}}), path)
    monkeypatch.setattr(sys, "argv", ["notebooks", str(path)])
    notebooks.main()
    (made,) = code_of(path)
    assert (made.outputs, made.metadata, made.execution_count) == ([kept], {"tags": ["parameters"]}, 1)
    assert read(path).metadata == notebooks.METADATA and "careful" in capsys.readouterr().err
    assert clean(read(path)) == [], "a second time there is nothing to do"


@pytest.mark.parametrize("source", ["steps = other", "steps: int = 3", "steps = 3; print(steps)", "a = b = 1", "a = 2 * b"])
def test_a_parameters_cell_with_more_than_literals_is_refused(source):
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    with pytest.raises(ValueError, match=r"small: parameters: expected `name = literal`, got `"):
        notebook_parameters(new_notebook(cells=[cell]), "small")


def test_literals_of_every_kind_are_read_from_one_cell():
    cell = new_code_cell('a = -1\nb = "x = 1"\nc = []\nd = {"k": 0.5}\ne = None', metadata={"tags": ["parameters"]})
    assert notebook_parameters(new_notebook(cells=[cell])) == {"a": -1, "b": "x = 1", "c": [], "d": {"k": 0.5}, "e": None}
    with pytest.raises(ValueError, match="expected one cell tagged `parameters`, got 2"):
        notebook_parameters(new_notebook(cells=[cell, new_code_cell("a = 1", metadata={"tags": ["parameters"]})]))


@pytest.mark.slow
def test_notebook_01_runs_on_a_folder_of_ones_own(make_coco, tmp_path):
    bolts = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [5, 30, 40, 6], 0)]
    broken, stats = make_coco("broken", [bolts]), tmp_path / "stats.json"
    broken.write_text("{")
    for name in ("a", "b"):
        make_coco(name, [bolts, [], bolts[:2], bolts])
    values = {"data_root": str(tmp_path), "files": ["*/annotations.json"], "map_images": 3, "stats": str(stats)}
    params = tmp_path / "own.yml"
    params.write_text(yaml.safe_dump(values))
    executed = run_notebook("01_explore_dataset", params, out=tmp_path / "runs")
    made = json.loads(stats.read_text())
    assert (made["total"]["images"], made["total"]["objects"], made["problems"]) == (8, 16, {"broken": 1})
    assert "3 files, 2 without a problem" in executed.read_text() and "not a JSON file" in executed.read_text()
