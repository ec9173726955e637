"""The form of every notebook and parameter file, and the runner: what it refuses, skips and runs again."""

import base64
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dealkit.cli.notebooks import (
    NOTEBOOKS,
    clean,
    execute_in_place,
    first_line,
    notebook_parameters,
    notebook_path,
    read_params,
    run_hash,
    run_notebook,
)

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PARAMS = sorted((NOTEBOOKS / "params").glob("*.yml"))
PERSONAL = re.compile(r"/(home|root|Users|tmp|work|mnt|content)/|[A-Z]:\\\\|\.\./|https?://(localhost|127\.)")


def notebook_of_params(path: Path) -> Path:
    """The notebook that a parameter file is for: its name starts with the notebook's."""
    fitting = [p for p in PATHS if path.stem.startswith(p.stem)]
    assert len(fitting) == 1, f"{path.name}: expected a name that starts with that of a notebook"
    return fitting[0]


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def outputs_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def each_notebook(function):
    return pytest.mark.parametrize("path", PATHS, ids=[p.stem for p in PATHS])(function)


def test_there_are_notebooks_with_two_digits():
    assert len(PATHS) >= 2
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in PATHS)


@each_notebook
def test_a_notebook_has_one_parameters_cell_of_plain_literals(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert notebook_parameters(notebook, path.name)


@each_notebook
def test_papermill_sees_the_same_parameters(path):
    ours = notebook_parameters(read(path))
    assert list(papermill.inspect_notebook(str(path))) == list(ours)


@each_notebook
def test_a_notebook_starts_with_its_question_and_what_it_reads_and_writes(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    assert "?" in first.source and "Reads:" in first.source and "Writes:" in first.source


@each_notebook
def test_cells_are_few_and_short(path):
    cells = read(path).cells
    assert 15 <= len(cells) <= 40
    longest = max((c for c in cells if c.cell_type == "code"), key=lambda c: len(c.source.splitlines()))
    assert len(longest.source.splitlines()) <= 26, f"{first_line(longest.source)}: what is long belongs into dealkit"
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    assert not re.search(r"^class ", code, re.M) and len(re.findall(r"^def ", code, re.M)) <= 1


@each_notebook
def test_a_notebook_keeps_the_outputs_of_one_run_from_top_to_bottom(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "python -m dealkit.cli.notebooks runs it"
    assert sum(bool(cell.outputs) for cell in code) >= 5
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@each_notebook
def test_outputs_are_small_and_without_progress_bars_or_widgets(path):
    assert path.stat().st_size < 500_000
    for output in outputs_of(read(path)):
        assert output.get("name") != "stderr"
        for kind, value in output.get("data", {}).items():
            assert "widget" not in kind
            assert not kind.startswith("image/") or len(base64.b64decode(value)) < 100_000
        assert "\r" not in output.get("text", "") and "it/s]" not in output.get("text", "")


@each_notebook
def test_a_notebook_holds_no_path_of_a_machine(path):
    notebook = read(path)
    texts = [cell.source for cell in notebook.cells]
    for output in outputs_of(notebook):
        texts += [output.get("text", ""), *(str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/"))]
    found = [match.group() for text in texts if (match := PERSONAL.search(text))]
    assert not found


@each_notebook
def test_metadata_says_nothing_about_the_machine(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@each_notebook
def test_a_notebook_asserts_what_it_claims(path):
    code = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    assert len(re.findall(r"^\s*assert ", code, re.M)) >= 3
    assert read(path).cells[-1].cell_type == "code", "the last cell checks"


@pytest.mark.parametrize("path", PARAMS, ids=[p.stem for p in PARAMS])
def test_parameter_files_fit_their_notebook(path):
    notebook = notebook_of_params(path)
    values = read_params(path, notebook_parameters(read(notebook)), notebook.stem)
    assert values and not PERSONAL.search(path.read_text())
    assert values == yaml.safe_load(path.read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one small notebook that writes a line to a file whenever it runs, and fails while a file `fail` exists."""
    lines = [
        "import sys",
        "from pathlib import Path",
        "folder = Path(where)",
        "with open(folder / 'ran', 'a') as file:",
        "    file.write(f'{steps} {rate}\\n')",
        "print('steps', steps)",
        "print('12%|#2 |', file=sys.stderr)",
    ]
    cells = [
        new_markdown_cell("# 09 Small"),
        new_code_cell(f"steps = 3  # few\nrate = 0.5\nwhere = {str(tmp_path)!r}", metadata={"tags": ["parameters"]}),
        new_code_cell("\n".join(lines)),
        new_code_cell("# the last\nassert not (folder / 'fail').exists(), 'told to fail'"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "09_small.ipynb")
    return tmp_path


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def params(folder: Path, text: str) -> Path:
    path = folder / "real.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 5", r"real\.yml: 09_small has no parameter 'stepz'; it has steps, rate, where"),
        ("steps: many", r"real\.yml: steps: expected int like 3, got 'many'"),
        ("steps: true", r"real\.yml: steps: expected int like 3, got True"),
        ("steps: 2.5", r"real\.yml: steps: expected int like 3, got 2\.5"),
        ("rate: 1e-3", r"real\.yml: rate: expected float like 0\.5, got '1e-3'; YAML reads 1e-3 as text, write 1\.0e-3"),
        ("- steps", r"real\.yml: expected `name: value` lines, got list"),
        ("steps: [1", r"real\.yml: not YAML"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(folder, text, message):
    with pytest.raises(ValueError, match=message):
        run_notebook("09_small", params(folder, text), folder=folder, out=folder / "runs")
    assert not ran(folder) and not (folder / "runs").exists()


def test_an_unknown_notebook_is_named_beside_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"expected one of 09_small; .* has no '10_large\.ipynb'"):
        run_notebook("10_large", folder=folder, out=folder / "runs")


def test_a_missing_parameter_file_is_named(folder):
    with pytest.raises(ValueError, match=r"none\.yml: no such file"):
        run_notebook("09_small", folder / "none.yml", folder=folder, out=folder / "runs")


def test_a_finished_run_is_skipped_unless_forced(folder, capsys):
    file = params(folder, "steps: 7\nrate: 2")
    done = run_notebook("09_small", file, folder=folder, out=folder / "runs")
    assert done.parent == folder / "runs" / "09_small" and re.fullmatch(r"real-[0-9a-f]{10}\.ipynb", done.name)
    assert ran(folder) == ["7 2"]
    assert any("steps 7" in output.get("text", "") for output in outputs_of(read(done)))
    capsys.readouterr()
    assert run_notebook("09_small", file, folder=folder, out=folder / "runs") == done
    assert "this run is finished" in capsys.readouterr().out and ran(folder) == ["7 2"]
    assert run_notebook("09_small.ipynb", file, force=True, folder=folder, out=folder / "runs") == done
    assert ran(folder) == ["7 2", "7 2"]


def test_a_failed_run_names_its_cell_and_is_run_again(folder):
    (folder / "fail").touch()
    with pytest.raises(
        ValueError, match=r"cell In \[\d+\] \(# the last\): AssertionError: told to fail; the partial copy is"
    ) as caught:
        run_notebook("09_small", folder=folder, out=folder / "runs")
    (part,) = (folder / "runs" / "09_small").iterdir()
    assert part.name.startswith("default-") and part.name.endswith(".part.ipynb") and part.name in str(caught.value)
    assert any("steps 3" in output.get("text", "") for output in outputs_of(read(part)))
    (folder / "fail").unlink()
    done = run_notebook("09_small", folder=folder, out=folder / "runs")
    assert ran(folder) == ["3 0.5", "3 0.5"]
    assert list((folder / "runs" / "09_small").iterdir()) == [done]


def test_a_run_is_known_by_its_code_and_its_parameters():
    notebook = new_notebook(cells=[new_markdown_cell("a"), new_code_cell("x = 1")])
    name = run_hash(notebook, {"steps": 1, "size": 2})
    notebook.cells[0].source = "b"
    notebook.cells[1].execution_count = 3
    assert run_hash(notebook, {"size": 2, "steps": 1}) == name
    assert run_hash(notebook, {"size": 2, "steps": 3}) != name
    notebook.cells[1].source = "x = 2"
    assert run_hash(notebook, {"size": 2, "steps": 1}) != name


def test_running_in_place_keeps_outputs_and_counts_and_nothing_of_the_machine(folder, capsys):
    path = execute_in_place("09_small", folder=folder)
    notebook = read(path)
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3]
    (output,) = outputs_of(notebook)
    assert (output.name, output.text) == ("stdout", "steps 3\n")
    assert notebook.cells[1].metadata == {"tags": ["parameters"]} and notebook.cells[2].metadata == {}
    assert "version" not in notebook.metadata.language_info
    assert "12%" in capsys.readouterr().err
    assert path.read_text() == execute_in_place("09_small", folder=folder).read_text()


def test_a_failure_in_place_leaves_the_file_as_it_was(folder):
    before = (folder / "09_small.ipynb").read_text()
    (folder / "fail").touch()
    with pytest.raises(ValueError, match=r"cell In \[3\] \(# the last\): AssertionError: told to fail; the file is unchanged"):
        execute_in_place("09_small", folder=folder)
    assert (folder / "09_small.ipynb").read_text() == before


def test_widgets_and_warnings_do_not_stay():
    widget = nbformat.v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"})
    kept = nbformat.v4.new_output("display_data", data={"text/plain": "42"})
    warning = nbformat.v4.new_output("stream", name="stderr", text="careful\n")
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[widget, kept, warning], metadata={"execution": {"a": "1"}})])
    assert clean(notebook) == ["careful"]
    assert notebook.cells[0].outputs == [kept] and notebook.cells[0].metadata == {}


@pytest.mark.parametrize(
    "source", ["steps = other", "steps: int = 3", "steps = 3; print(steps)", "a = b = 1", "steps = 2 * size"]
)
def test_a_parameters_cell_with_more_than_literals_is_refused(source):
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    with pytest.raises(ValueError, match=r"small: parameters: expected `name = literal`, got `"):
        notebook_parameters(new_notebook(cells=[cell]), "small")


def test_literals_of_every_kind_are_read():
    source = 'a = -1\nb = "x = 1"\nc = []\nd = {"k": 0.5}\ne = None\nf = True'
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    assert notebook_parameters(new_notebook(cells=[cell])) == {
        "a": -1,
        "b": "x = 1",
        "c": [],
        "d": {"k": 0.5},
        "e": None,
        "f": True,
    }


def test_two_parameters_cells_are_refused():
    cells = [new_code_cell("a = 1", metadata={"tags": ["parameters"]}) for _ in range(2)]
    with pytest.raises(ValueError, match="expected one cell tagged `parameters`, got 2"):
        notebook_parameters(new_notebook(cells=cells))


def test_a_notebook_is_found_with_and_without_its_ending(folder):
    assert notebook_path("09_small", folder) == notebook_path("09_small.ipynb", folder) == folder / "09_small.ipynb"


def test_an_empty_parameter_file_changes_nothing(folder):
    assert read_params(params(folder, "# nothing yet\n"), {"steps": 3}, "09_small") == {}
