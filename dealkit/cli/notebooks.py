"""Run notebooks with other parameters by papermill, and clean those that `jupyter nbconvert` has run in place.

`make notebooks` does the latter, then `python -m dealkit.cli.notebooks` takes from the files what differs from run to run.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dealkit.cli.checks import Maybe, check_place
from dealkit.files import PROJECT_ROOT

NOTEBOOKS = PROJECT_ROOT / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
"""All that a committed notebook says about its kernel: no version, which would change with every machine."""


def run_notebook(
    name: tyro.conf.Positional[str],
    params: Annotated[Maybe[Path], tyro.conf.arg(aliases=["-f"])] = None,
    param: Annotated[
        tuple[tuple[str, str], ...], tyro.conf.arg(aliases=["-p"], metavar="NAME VALUE"), tyro.conf.UseAppendAction
    ] = (),
    force: bool = False,
    folder: Path = NOTEBOOKS,
    out: Path = PROJECT_ROOT / "data" / "runs",
) -> Path:
    """Execute a notebook with papermill; the executed copy goes to `data/runs`.

    The copy is `<out>/<name>/<stem of params, or default>-<hash of code and parameters>.ipynb`. While it runs, and after a
    failure, its name ends in `.part.ipynb`: a run that was killed or failed is run again, a finished one is not.

    A claim (`assert`) that does not hold ends a run with the defaults or with a file of `notebooks/params`: these are published.
    With other parameters, such as fewer steps, it is a warning that names the line.

    Example: python -m dealkit run 02_train_deal -p steps 500

    Args:
        name: of the notebook, as `02_train_deal`.
        params: YAML file with one `name: value` per line.
        param: one parameter and its value, which wins over the file; repeatable.
        force: run it again although this run is finished.
        folder: where the notebook lies.
        out: where executed copies go.

    Raises:
        ValueError: no such notebook, or parameters that it does not take, both before anything runs; or a failing cell.
    """
    source = folder / f"{name.removesuffix('.ipynb')}.ipynb"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb")))
        raise ValueError(f"notebook: expected one of {known or '(none there)'}; {folder} has no {source.name!r}")
    check_place(out)
    if params and not params.is_file():
        raise ValueError(f"{params}: not a YAML file: No such file")
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    notebook = nbformat.read(source, as_version=4)
    values = check_parameters(notebook_parameters(notebook, source.name), params, param)
    target = out / source.stem / f"{params.stem if params else 'default'}-{run_hash(notebook, values)}.ipynb"
    if target.is_file() and not force:
        print(f"{target}: this run is finished; --force runs it again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.ipynb")
    if param or (params and params.resolve().parent != NOTEBOOKS / "params"):
        code = f"from dealkit.cli.notebooks import soften_claims\n\nsoften_claims({str(source.resolve())!r})"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(code))
    print(f"{source.stem}: running with {values or 'its defaults'}", flush=True)
    options = {"kernel_name": "python3", "language": "python", "cwd": str(PROJECT_ROOT), "progress_bar": sys.stderr.isatty()}
    try:
        done = papermill.execute_notebook(notebook, part, parameters=values, **options)
    except PapermillExecutionError as error:
        what = f"cell In [{error.exec_count}], {failing_line(error.traceback)}: {error.ename}: {error.evalue}"
        raise ValueError(f"{source.name}: {what}; the partial copy is {part}") from error
    except RuntimeError as error:  # the kernel died, often for lack of memory
        raise ValueError(f"{source.name}: {error}; the partial copy is {part}") from error
    os.replace(part, target)
    for cell in done.cells:
        said = "".join(output.text for output in cell.get("outputs", []) if output.get("name") == "stderr").splitlines()
        for line in said:
            if line.startswith(NOT_HELD):
                print(f"warning: cell In [{cell.execution_count}], {line}", file=sys.stderr)
    print(target)
    return target


NOT_HELD = "does not hold with these parameters: "


def soften_claims(source: str) -> None:
    """In a kernel: a claim of a notebook that does not hold prints its line from now on, and its cell goes on.

    Two kinds stay errors: a message that starts with the name of a parameter and a colon, and cells tagged `nbval-check-output`,
    whose checks hold with all parameters.
    """
    import nbformat
    from IPython import get_ipython

    notebook = nbformat.read(source, as_version=4)
    checks = [cell.source for cell in notebook.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    get_ipython().ast_transformers.append(_Soften(notebook_parameters(notebook), checks))


class _Soften(ast.NodeTransformer):
    """Assertions of parameters and of checks as they are, others as a line on stderr."""

    def __init__(self, parameters: Iterable[str], checks: Iterable[str]):
        self.names = tuple(f"{name}:" for name in parameters)
        self.checks = {ast.dump(ast.parse(source)) for source in checks}

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return node if ast.dump(node) in self.checks else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        said = ast.unparse(node.msg).lstrip("f'\"") if node.msg else ""
        if said.startswith(self.names):
            return node
        line = f"{NOT_HELD}line {node.lineno}: {ast.unparse(node)}"
        body = ast.parse(f"import sys\nprint({line!r}, file=sys.stderr)").body
        return ast.If(test=ast.UnaryOp(op=ast.Not(), operand=node.test), body=body, orelse=[])


def failing_line(traceback: Sequence[str]) -> str:
    """Number and text of the line of a cell that a traceback of IPython points at.

    >>> failing_line(["Traceback", "      1 x = 1\\n\\x1b[32m----> 2\\x1b[39m assert x > 2"])
    'line 2: assert x > 2'
    """
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(traceback))
    found = re.search(r"^-+> *(\d+) +(.+)$", plain, re.MULTILINE)
    return f"line {found[1]}: {found[2].strip()}" if found else "no line"


def notebook_parameters(notebook: Any, where: str = "notebook") -> dict[str, Any]:
    """Names and defaults of the cell tagged `parameters`, in order; empty without such a cell.

    Choice: read by Python's own parser, since papermill's takes a text with `=` in it or an annotation for something else.

    Raises:
        ValueError: two such cells, or a line that is not `name = literal`; names it. A value made from another would keep its
            old value after papermill has set the other.

    >>> from nbformat.v4 import new_code_cell, new_notebook
    >>> notebook_parameters(new_notebook(cells=[new_code_cell("steps = 100  # few", metadata={"tags": ["parameters"]})]))
    {'steps': 100}
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise ValueError(f"{where}: expected one cell tagged `parameters`, got {len(cells)}")
    values: dict[str, Any] = {}
    for line in ast.parse(cells[0].source).body if cells else []:
        if not (isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)):
            raise ValueError(f"{where}: parameters: expected `name = literal`, got `{ast.unparse(line)}`")
        try:
            values[line.targets[0].id] = ast.literal_eval(line.value)
        except ValueError:
            raise ValueError(f"{where}: parameters: expected `name = literal`, got `{ast.unparse(line)}`") from None
    return values


def check_parameters(known: dict[str, Any], params: Path | None, param: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Values in a YAML file and in `param`, checked against the parameters of a notebook; papermill itself only warns.

    Raises:
        ValueError: no such file, not `name: value` lines of YAML, a name that is not in `known`, or a value of another type
            than the default (a whole number may stand for a decimal one); names file and parameter.

    >>> check_parameters({"steps": 100, "lr": 1e-3, "shots": [1], "name": ""}, None, [("lr", "1e-4"), ("shots", "[1, 5]")])
    {'lr': 0.0001, 'shots': [1, 5]}
    """
    import yaml

    where = params or "--param"
    try:
        values = yaml.safe_load(params.read_text(encoding="utf-8")) or {} if params else {}
        given = {name: text if isinstance(known.get(name), str) else yaml.safe_load(text) for name, text in param}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected `name: value` lines, got {type(values).__name__}")
    for name, value in (values | given).items():
        if name not in known:
            raise ValueError(f"{where}: the notebook has no parameter {name!r}; it has {', '.join(known) or 'none'}")
        default = known[name]
        if isinstance(default, float) and type(value) in (int, str):  # YAML reads 1e-3 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        if default is not None and type(value) is not type(default):
            raise ValueError(f"{where}: {name}: expected {type(default).__name__} like {default!r}, got {value!r}")
        values[name] = value
    return values


def run_hash(notebook: Any, values: dict[str, Any]) -> str:
    """Ten hex digits that change with the code of a notebook or the parameters, not with its text or its outputs."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps([code, values], sort_keys=True, default=str).encode()).hexdigest()[:10]


def clean(notebook: Any) -> list[str]:
    """Take from an executed notebook what differs from run to run; returns the texts on its error stream, which go, too."""
    from nbformat import from_dict

    notebook.metadata, said = from_dict(METADATA), []
    for cell in notebook.cells:
        cell.metadata = from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            said += [output.text.strip() for output in cell.outputs if output.get("name") == "stderr"]
            kept = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in kept if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]
    return said


def main() -> None:
    """Clean the notebooks named, by default all, and print what stood on their error streams."""
    import nbformat

    for path in map(Path, sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb"))):
        notebook = nbformat.read(path, as_version=4)
        print(path.name, *clean(notebook), sep="\n", file=sys.stderr)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
