"""python -m dealkit COMMAND: click one small object, get all of its kind. `--help` after a command lists its options."""

import sys
import time
from collections.abc import Sequence

import tyro

from dealkit.cli import data, evaluate, model, notebooks

GROUPS = {
    "Use": {
        **{"demo": model.demo, "click": model.click, "predict": model.predict},
        **{"browse": data.browse, "export": data.export},
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


def overview() -> str:
    """Every command with the first line of its docstring, by group."""
    lines = [__doc__]
    for group, commands in GROUPS.items():
        lines += ["", group, *(f"  {name:14}{function.__doc__.splitlines()[0]}" for name, function in commands.items())]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command line, by default that of the process; exit code 2 after a mistake in it."""
    args = list(sys.argv[1:] if args is None else args)
    commands = {name: function for group in GROUPS.values() for name, function in group.items()}
    name = next((name for name in (" ".join(args[:2]), " ".join(args[:1])) if name in commands), None)
    started = time.monotonic()
    try:
        if name is not None:
            rest = args[len(name.split()) :]
            tyro.cli(commands[name], prog=f"python -m dealkit {name}", args=rest, config=(tyro.conf.OmitArgPrefixes,))
        elif args and args[-1] not in ("-h", "--help"):
            raise ValueError(f"command: expected one of {', '.join(commands)}; got {' '.join(args[:2])!r}")
        else:
            print(overview())
    except (ValueError, FloatingPointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if time.monotonic() - started > 5:
        print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
