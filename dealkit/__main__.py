"""python -m dealkit COMMAND: click one small object, get all of its kind. `--help` after a command lists its options."""

import os
import sys
import time
from collections.abc import Sequence

import tyro

from dealkit import __version__
from dealkit.cli import data, evaluate, model, notebooks, predict

GROUPS = {
    "Use": {
        **{"demo": model.demo, "click": model.click, "predict": predict.predict},
        **{"browse": data.browse, "export": data.export, "export onnx": model.export_onnx, "serve": model.serve},
    },
    "Train and score": {
        **{"train": model.train, "clicks": data.clicks, "evaluate": evaluate.evaluate, "errors": evaluate.errors},
        **{"benchmark": evaluate.benchmark, "bench": model.bench},
    },
    "Data": {
        **{"data check": data.data_check, "data sources": data.data_sources, "data get": data.data_get},
        **{"data build": data.data_build, "data scenes": data.data_scenes},
    },
    "Notebooks and pages": {"run": notebooks.run_notebook, "report": model.report, "publish": model.publish},
}
"""Group -> command -> function; the docstring of the function is the help."""


POINT_OPTIONS = ("--point", "--not-point", "--not_point", "--box", "--lonlat")


def overview() -> str:
    """Every command with the first line of its docstring, by group."""
    lines = [__doc__]
    for group, commands in GROUPS.items():
        lines += ["", group, *(f"  {name:14}{function.__doc__.splitlines()[0]}" for name, function in commands.items())]
    return "\n".join(lines)


def with_points(args: Sequence[str]) -> list[str]:
    """The arguments with points as two numbers each, however they were written.

    >>> with_points(["a,b.png", "--point", "228,28", "--not-point=3,4", "--point", "5", "6"])
    ['a,b.png', '--point', '228', '28', '--not-point', '3', '4', '--point', '5', '6']
    """
    made: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in POINT_OPTIONS and equals:
            made += [name, *value.split(",")]
        else:
            made += filter(None, arg.split(",")) if made and made[-1] in POINT_OPTIONS else [arg]
    return made


def system_error(error: OSError) -> str:
    """What the system refused, in a line: path, what was wanted, what it said.

    >>> system_error(OSError(28, "cannot be written: No space left on device", "found.json"))
    'found.json: cannot be written: No space left on device'
    >>> system_error(PermissionError(13, "Permission denied", "photos"))
    'photos: cannot be opened: Permission denied'
    """
    if error.errno is None:
        return str(error)
    said = error.strerror or os.strerror(error.errno)
    return f"{error.filename or 'a file'}: {said if 'cannot be' in said else f'cannot be opened: {said}'}"


def main(args: Sequence[str] | None = None) -> None:
    """Run one command line, by default that of the process; exit code 2 after a mistake in it, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    commands = {name: function for group in GROUPS.values() for name, function in group.items()}
    name = next((name for name in (" ".join(args[:2]), " ".join(args[:1])) if name in commands), None)
    started, leads = time.monotonic(), os.environ.get("RANK", "0") == "0"  # of the processes of a training one speaks
    try:
        if name is not None:
            options = {"prog": f"python -m dealkit {name}", "args": with_points(args[len(name.split()) :])}
            tyro.cli(commands[name], **options, config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone))
        elif args == ["--version"]:
            print("dealkit", __version__)
        elif args and args[-1] not in ("-h", "--help"):
            raise ValueError(f"command: expected one of {', '.join(commands)}; got {' '.join(args[:2])!r}")
        else:
            print(overview())
    except (ValueError, FloatingPointError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(system_error(error), 2)
    except KeyboardInterrupt as stop:
        if leads:
            print(str(stop) or "stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    if leads and time.monotonic() - started > 5:
        print(f"done in {time.monotonic() - started:.0f} s")


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
