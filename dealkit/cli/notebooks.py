"""Run notebooks: with a file of parameters into `data/runs/`, or in place so that their outputs can be committed.

`python -m dealkit.cli.notebooks` runs every notebook of `notebooks/` from top to bottom and keeps its outputs; names after it
choose some.
"""

import ast
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from dealkit.files import PROJECT_ROOT

NOTEBOOKS = PROJECT_ROOT / "notebooks"
RUNS = PROJECT_ROOT / "data" / "runs"
KERNEL = "python3"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
"""All that a committed notebook says about its kernel: no version, which would change with every machine."""


def run_notebook(
    name: str, params: Path | None = None, *, force: bool = False, folder: Path = NOTEBOOKS, out: Path = RUNS
) -> Path:
    """Execute a notebook with other parameters; returns the executed copy.

    The copy is `<out>/<name>/<stem of params, or default>-<hash of code and parameters>.ipynb`. While it runs, and after a
    failure, its name ends in `.part.ipynb`: a run that was killed or failed is run again, a finished one is not.

    Args:
        name: file name in `folder`, with or without `.ipynb`.
        params: YAML file with one `name: value` per line; None runs the defaults.
        force: run again although this run is finished.
        folder: where the notebook lies. out: where executed copies go.

    Raises:
        ValueError: no such notebook, bad YAML, a parameter that the notebook does not have (papermill itself only warns) or
            of another type than its default, all before anything runs; or a failing cell: names it and the partial copy.
    """
    source = notebook_path(name, folder)
    notebook = nbformat.read(source, as_version=4)
    known = notebook_parameters(notebook, _short(source))
    values = read_params(params, known, source.stem) if params else {}
    target = out / source.stem / f"{Path(params).stem if params else 'default'}-{run_hash(notebook, values)}.ipynb"
    if target.is_file() and not force:
        print(f"{_short(target)}: this run is finished; force runs it again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.ipynb")
    print(f"{source.stem}: running with {values or 'its defaults'}", flush=True)
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            source,
            part,
            parameters=values,
            kernel_name=KERNEL,
            language="python",
            cwd=str(PROJECT_ROOT),
            progress_bar=sys.stderr.isatty(),
        )
    except PapermillExecutionError as error:
        what = f"cell In [{error.exec_count}] ({first_line(error.source)}): {error.ename}: {error.evalue}"
        raise ValueError(f"{_short(source)}: {what}; the partial copy is {_short(part)}") from error
    except DeadKernelError as error:
        what = "its kernel died, often for lack of memory"
        raise ValueError(f"{_short(source)}: {what}; the partial copy is {_short(part)}") from error
    os.replace(part, target)
    print(f"{_short(target)}: finished in {time.monotonic() - started:.0f} s")
    return target


def execute_in_place(name: str, *, folder: Path = NOTEBOOKS) -> Path:
    """Execute a notebook with its defaults and write outputs and execution counts into it; returns its path.

    What differs from run to run or from machine to machine is left out: progress bars, widgets, timings, the Python version.
    Warnings are printed here instead. The file is replaced only when every cell ran.

    Raises:
        ValueError: no such notebook, or a failing cell; names the cell.
    """
    source = notebook_path(name, folder)
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=None, kernel_name=KERNEL, record_timing=False)
    started = time.monotonic()
    try:
        client.execute(cwd=str(source.parent), env={**os.environ, "TQDM_DISABLE": "1"})
    except CellExecutionError as error:
        failed = next(cell for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", [])))
        cell = f"cell In [{failed.execution_count}] ({first_line(failed.source)})"
        raise ValueError(f"{_short(source)}: {cell}: {error.ename}: {error.evalue}; the file is unchanged") from error
    except DeadKernelError as error:
        raise ValueError(f"{_short(source)}: its kernel died, often for lack of memory; the file is unchanged") from error
    for text in clean(notebook):
        print(f"{_short(source)}: {text}", file=sys.stderr)
    temporary = source.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, source)
    print(f"{_short(source)}: finished in {time.monotonic() - started:.0f} s, {source.stat().st_size / 1000:.0f} kB", flush=True)
    return source


def clean(notebook: NotebookNode) -> list[str]:
    """Take from an executed notebook what differs from run to run; returns the texts on its error stream, which go, too."""
    said: list[str] = []
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type != "code":
            continue
        errors = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
        said += [o.text.strip() for o in errors if o.text.strip()]
        widgets = [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
        cell.outputs = [o for o in cell.outputs if o not in errors and o not in widgets]
    return said


def notebook_path(name: str, folder: Path = NOTEBOOKS) -> Path:
    """Path of the notebook called `name`.

    Raises:
        ValueError: `folder` has none of that name; lists those it has.
    """
    path = Path(folder) / f"{name.removesuffix('.ipynb')}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in Path(folder).glob("*.ipynb")))
        raise ValueError(f"notebook: expected one of {known or '(none there)'}; {_short(Path(folder))} has no {path.name!r}")
    return path


def notebook_parameters(notebook: NotebookNode, where: str = "notebook") -> dict[str, Any]:
    """Names and defaults of the cell tagged `parameters`, in order; empty without such a cell.

    Choice: read by Python's own parser, since papermill's takes a text with `=` in it or an annotation for something else.

    Raises:
        ValueError: two such cells, or a line that is not `name = literal`; names it. A value made from another would keep its
            old value after papermill has set the other.

    >>> cell = nbformat.v4.new_code_cell("steps = 100  # few", metadata={"tags": ["parameters"]})
    >>> notebook_parameters(nbformat.v4.new_notebook(cells=[cell]))
    {'steps': 100}
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise ValueError(f"{where}: expected one cell tagged `parameters`, got {len(cells)}")
    values: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body if cells else []:
        try:
            (target,) = statement.targets  # type: ignore[attr-defined]
            values[target.id] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            raise ValueError(f"{where}: parameters: expected `name = literal`, got `{ast.unparse(statement)}`") from None
    return values


def read_params(path: Path, known: dict[str, Any], notebook: str) -> dict[str, Any]:
    """Parameters in a YAML file, checked against those that a notebook has.

    Raises:
        ValueError: no such file, not YAML, not `name: value` lines, a name that is not in `known`, or a value of another type
            than the default (a whole number may stand for a decimal one); names file and parameter.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of parameters")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `name: value` lines, got {type(values).__name__}")
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{path}: {notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
        default = known[name]
        same = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if default is not None and not same:
            hint = "; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(default, float) and isinstance(value, str) else ""
            raise ValueError(f"{path}: {name}: expected {type(default).__name__} like {default!r}, got {value!r}{hint}")
    return values


def run_hash(notebook: NotebookNode, values: dict[str, Any]) -> str:
    """Ten hex digits that change with the code of a notebook or the parameters, not with its text or its outputs."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps([code, values], sort_keys=True, default=str).encode()).hexdigest()[:10]


def first_line(code: str) -> str:
    """The first line of a cell that is not blank, at most 60 characters."""
    return next((line.strip() for line in code.splitlines() if line.strip()), "")[:60]


def _short(path: Path) -> str:
    """`path` relative to the project where it lies in it."""
    path = Path(path).resolve()
    return str(path.relative_to(PROJECT_ROOT)) if path.is_relative_to(PROJECT_ROOT) else str(path)


def main() -> None:
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        execute_in_place(Path(name).name)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
