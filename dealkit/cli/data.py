"""Commands that check, make, fetch and look at data."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Literal

import tyro

from dealkit.cli.checks import (
    Maybe,
    Outside,
    Several,
    check_coco,
    check_effect,
    check_folder,
    check_json,
    check_out,
    check_place,
    check_weights,
    starts,
)
from dealkit.config import COUNT_RANGE, DEFAULT_THRESHOLD, SEED_RANGE, SHARE_RANGE, BuildConfig, check_range
from dealkit.files import PROJECT_ROOT, find_files


def data_check(
    file: tyro.conf.Positional[Path],
    images: Maybe[Path] = None,
    drop: bool = False,
    allow_outside: Outside = False,
    out: Maybe[Path] = None,
) -> None:
    """List everything that is wrong with a COCO file and its images; exit code 1 if there is anything.

    Example: python -m dealkit data check val.json

    Args:
        file: COCO JSON.
        images: folder that its file names are relative to; `images` beside it, or its own, if not given.
        drop: leave out annotations without a positive width and height, and say how many.
        out: COCO JSON to write if nothing is wrong: with boxes from masks, without what is left out.
    """
    check_coco("FILE", file, outside=allow_outside)
    check_folder(images, "--images")
    check_out(out, [file], ours=starts('{"images"', '{"info"'), overwrite=False)
    from dealkit.data.annotations import read_coco
    from dealkit.data.coco import check_report
    from dealkit.files import write_json

    text, code = check_report(file, images, drop=drop)
    print(text)
    if out is not None and not code:
        write_json(out, read_coco(file, drop=drop))
        print(out)
    sys.exit(code)


def data_sources(write: bool = False) -> None:
    """List the public data sets that can be read: domain, licence, size, how to get each.

    Example: python -m dealkit data sources

    Args:
        write: also write the table of the data card, `data/README.md`.
    """
    from dealkit.data.sources.catalogue import sources_text, update_data_card

    if write:
        update_data_card()
    print(sources_text())


def data_get(name: tyro.conf.Positional[str], root: Path) -> None:
    """Fetch a source and check it, or say how to get it by hand; what is complete is not fetched again.

    Exit code 2 if it is not there, 1 if nothing in it can be read.

    Example: python -m dealkit data get bccd --root data/raw

    Args:
        name: key of `data sources`; it goes into ROOT/NAME.
        root: folder that holds one folder per source.
    """
    check_place(root, "--root")
    from dealkit.data.sources.download import get

    text, code = get(name, root)
    print(text)
    sys.exit(code)


def data_build(
    root: Path,
    out: Path = PROJECT_ROOT / "data" / "processed" / "tinyset",
    build: BuildConfig = BuildConfig(),  # noqa: B008 (frozen)
    workers: int = os.cpu_count() or 1,
    engine: Literal["processes", "ray"] = "processes",
    allow_outside: Outside = False,
) -> None:
    """Merge sources into a TinySet: tiles, no copies, splits, COCO files and a Parquet index.

    Goes on where it was stopped. What was left out, and why, is in `report.json`.

    Example: python -m dealkit data build --root data/raw --out data/processed/tinyset

    Args:
        root: folder with one folder per source.
        out: folder to write.
        build: settings.
        workers: processes.
        engine: `ray` for the workers of Ray, on this machine or the cluster named by the variable RAY_ADDRESS.
    """
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such folder of sources")
    if out.resolve() == root.resolve():
        raise ValueError(f"--out {out}: is an input of this command; expected another folder")
    check_place(out)
    check_coco("--root", outside=allow_outside)
    from dealkit.data.sources.catalogue import SOURCES
    from dealkit.data.tinyset.build import build_tinyset as run_build
    from dealkit.data.tinyset.build import report_text
    from dealkit.files import read_json

    public = {name: source for name, source in SOURCES.items() if source.domain}
    readers, domains = ({name: getattr(source, part) for name, source in public.items()} for part in ("read", "domain"))
    domains |= read_json(PROJECT_ROOT / "data" / "domains.json")
    print(report_text(run_build(root, out, readers=readers, domains=domains, config=build, workers=workers, engine=engine)))
    print(f"{out}: train.json, val.json, test.json, index.parquet, report.json")


def data_scenes(out: Path, count: int = 500, size: int = 256, seed: Maybe[int] = None, domains: bool = False) -> None:
    """Write procedural scenes as images and COCO, or the procedural data set of six domains.

    Example: python -m dealkit data scenes --out scenes --count 100

    Args:
        out: folder to write: `annotations.json` and `images`.
        count: number of scenes.
        size: width and height in pixels.
        seed: family of scenes; the default is the one kept for evaluation, never trained on.
        domains: instead a folder for each of six domains, with `train.json` (100 scenes), `val.json` (40) and `images`.
    """
    if domains:
        check_effect(data_scenes, locals(), ["count", "seed"], "with --domains")
    check_range("--count", count, *COUNT_RANGE)
    check_range("--size", size, 16, 8192)
    check_range("--seed", seed, *SEED_RANGE)
    check_place(out)
    if domains:
        from dealkit.data.scenes.domains import write_domains

        print(*write_domains(out, size=size), sep="\n")
        return
    from dealkit.data.scenes.scene import EVAL_SEED, write_coco

    print(write_coco(out, count, size=size, seed=EVAL_SEED if seed is None else seed))


def clicks(
    coco: tyro.conf.Positional[Path],
    out: Path,
    setting: Literal["1/category", "3/category", "5/category", "1/instance"] = "1/category",
    seed: int = 0,
    kind: Literal["centre", "jitter", "box"] = "centre",
    drop: bool = False,
    allow_outside: Outside = False,
    overwrite: bool = False,
) -> None:
    """Draw a click list for a COCO file and write it; prints its hash.

    Example: python -m dealkit clicks val.json --setting 1/category --seed 0 --out clicks.json

    Args:
        coco: COCO JSON.
        out: click list to write.
        setting: clicks per category of an image, or one on every instance.
        seed: which instances are clicked.
        kind: at the box centre, anywhere in the middle half of the box, or the box itself.
        drop: leave out annotations without a positive width and height, and say how many.
        overwrite: write over a file that this command has not made.
    """
    check_range("--seed", seed, *SEED_RANGE)
    check_coco("COCO", coco, outside=allow_outside)
    check_out(out, [coco], ours=starts('{"setting"'), overwrite=overwrite)
    from dealkit.clicks import clicks_hash, make_clicks, save_clicks
    from dealkit.data.annotations import read_coco

    made = make_clicks(read_coco(coco, drop=drop), setting=setting, seed=seed, kind=kind)
    save_clicks(made, out)
    print(f"{out}: {len(made['prompts'])} prompts, {setting}, {kind}, seed {seed}, hash {clicks_hash(made)}")


def browse(
    files: tyro.conf.Positional[Several[str]],
    name: Maybe[str] = None,
    domains: Path | None = PROJECT_ROOT / "data" / "domains.json",
    predictions: Several[str] = (),
    clicks: Maybe[str] = None,
    score: float = DEFAULT_THRESHOLD,
    map_with: Maybe[Path] = None,
    view: Maybe[str] = None,
    port: int = 5151,
    app: bool = True,
    remote: bool = False,
    allow_outside: Outside = False,
    verbose: bool = False,
) -> None:
    """Look at COCO data sets, and at the mistakes of one or two models, in FiftyOne's App; find all of a kind in it.

    Only images that have changed since the last time are read. In the App select an object in an opened image, press the
    backquote key and choose "Find all like this". Other machines cannot reach the App.

    Example: python -m dealkit browse val.json --predictions preds.json --clicks clicks.json

    Args:
        files: COCO files, glob patterns allowed; images in `images` beside each, or beside it.
        name: of the FiftyOne data set; default: of the folder that holds all files.
        domains: JSON of source -> domain, for files that do not say it.
        predictions: COCO results of one or two models; "{source}" stands for the folder of each COCO file.
        clicks: click list that they were made from; "{source}" as above.
        score: lowest score shown; the mistakes are those of the detections shown.
        map_with: checkpoint that lays out the missed objects of the first predictions on a map, panel Embeddings.
        view: saved view to start with, such as "very tiny".
        port: of the App.
        app: --no-app brings the data set up to date and ends.
        remote: serve the App without opening a browser, and print the command that makes a tunnel to it.
        verbose: print what FiftyOne says of itself and its database, too.
    """
    if not app:
        check_effect(browse, locals(), ["view", "port", "remote"], "with --no-app")
    if not predictions:
        check_effect(browse, locals(), ["clicks", "score", "map_with"], "without --predictions")
    found = find_files(list(files), "FILES")
    check_range("--score", score, *SHARE_RANGE)
    check_range("--port", port, 1, 65535)
    check_coco("FILES", *found, outside=allow_outside)
    for option, patterns in (("--predictions", predictions), ("--clicks", (clicks,) if clicks else ())):
        for pattern in patterns:
            check_json(option, *(Path(pattern.replace("{source}", file.resolve().parent.name)) for file in found))
    check_weights(map_with)
    if verbose:
        os.environ["FIFTYONE_LOGGING_LEVEL"] = "INFO"
    from dealkit.browse.dataset import build_dataset
    from dealkit.data.objects import load_domains, read_table

    made = build_dataset(found, name=name, domains=load_domains(domains) if domains else None)
    print(made, flush=True)
    if predictions:
        from dealkit.browse.mistakes import add_predictions

        table = read_table(found)
        added = add_predictions(made.dataset, table, predictions, clicks, score=score)
        print(added, flush=True)
        if map_with:
            from dealkit.browse.map import add_map

            print(f"{added.names[0]}_map: {add_map(made.dataset, table, added.names[0], map_with)} objects", flush=True)
    if app:
        from dealkit.browse.app import open_app, tunnel_command

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
        session = open_app(made.dataset, port=port, view=view, remote=remote)
        if remote:
            print(f"from another machine: {tunnel_command(port)}", flush=True)
        print(f"http://localhost:{port}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            session.wait(-1)


def export(
    file: tyro.conf.Positional[Path], out: Path, name: Maybe[str] = None, allow_outside: Outside = False, overwrite: bool = False
) -> None:
    """Write a COCO file with what was tagged (wrong, missing, fix) and edited in FiftyOne's App.

    Example: python -m dealkit export val.json --out corrected.json

    Args:
        file: COCO JSON that `browse` has shown.
        out: COCO JSON to write.
        name: of the FiftyOne data set, if the file is one of several in it.
        overwrite: write over a file that this command has not made.
    """
    check_coco("FILE", file, outside=allow_outside)
    heads = (f'{{"{key}"' for key in ("info", "licenses", "images", "annotations", "categories"))
    check_out(out, [file], ours=starts(*heads), overwrite=overwrite)
    from dealkit.browse.corrections import export_corrections
    from dealkit.browse.dataset import default_name

    print(f"{out}: {export_corrections(name or default_name([file]), file, out)}")
