"""`python -m dealkit COMMAND`: names mapped to library functions, help taken from their docstrings. `--help` after any
command."""

import sys
import time

import tyro

from dealkit.cli import data, model, scores, studies

COMMANDS = (
    *(model.demo, model.train, data.clicks, data.regime, model.predict, scores.evaluate, scores.errors, scores.benchmark),
    *(scores.templates, scores.failures, scores.controlled, scores.calibrate, scores.thresholds, scores.transfer),
    *(scores.rounds, scores.positions, studies.ablate, studies.race, studies.label_efficiency, studies.protocols),
    *(
        studies.adapt,
        studies.matrix,
        studies.public,
        model.average,
        model.publish,
        model.report,
        model.run,
        model.browse,
    ),
    model.bench,
)
GROUPS = {
    "data": {
        "check": data.data_check,
        "synth": data.data_synth,
        "domains": data.data_domains,
        "sources": data.data_sources,
        "get": data.data_get,
        "build": data.data_build,
    },
    "bench": {"index": model.bench_index},
}
"""Commands of two words; `bench` alone is a command, too."""


def main() -> None:
    app = tyro.extras.SubcommandApp()
    for function in COMMANDS:
        app.command(function)
    started = time.monotonic()
    first, second = [*sys.argv[1:3], "", ""][:2]
    try:
        if first == "bench" and second in GROUPS["bench"]:
            tyro.cli(GROUPS["bench"][second], prog=f"python -m dealkit bench {second}", args=sys.argv[3:])
        elif first == "data":
            group = tyro.extras.SubcommandApp()
            for name, function in GROUPS["data"].items():
                group.command(function, name=name)
            group.cli(prog="python -m dealkit data", description="Check, make and build data.", args=sys.argv[2:])
        else:
            also = ", ".join(f"`{group} {'|'.join(names)}`" for group, names in GROUPS.items())
            app.cli(prog="python -m dealkit", description=f"{__doc__} Also: {also}.")
    except (ValueError, FloatingPointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if time.monotonic() - started > 5:
        print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
