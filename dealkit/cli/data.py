"""Commands that check, make, fetch and build data."""

import os
import sys
from pathlib import Path
from typing import Literal

import tyro

from dealkit.cli.shared import Flat
from dealkit.config import BuildConfig
from dealkit.files import PROJECT_ROOT


def data_check(file: tyro.conf.Positional[Path], images: Path) -> None:
    """List everything that is wrong with a COCO file and its images; exit code 1 if there is anything.

    Args:
        file: COCO JSON.
        images: folder that its file names are relative to.
    """
    from dealkit.data.coco import check_report

    text, code = check_report(file, images)
    print(text)
    sys.exit(code)


def data_synth(out: Path, count: int = 500, size: int = 256, seed: int | None = None) -> None:
    """Write procedural scenes as PNG images and `annotations.json` (COCO).

    Args:
        out: folder to write.
        count: number of scenes.
        size: width and height in pixels.
        seed: family of scenes; the default is the one kept for evaluation, never trained on.
    """
    from dealkit.data.scenes.scene import EVAL_SEED, write_coco

    print(write_coco(out, count, size=size, seed=EVAL_SEED if seed is None else seed))


def data_domains(
    out: Path = PROJECT_ROOT / "data" / "processed" / "domains", train: int = 100, val: int = 40, size: int = 256
) -> None:
    """Write the procedural data set of six domains: a folder each with `train.json`, `val.json` and `images`; once, the same
    everywhere.

    Args:
        out: folder to write.
        train: scenes of each domain to train on.
        val: scenes of each domain to score on.
        size: width and height in pixels.
    """
    from dealkit.data.scenes.domains import write_domains

    print(*write_domains(out, train=train, val=val, size=size), sep="\n")


def data_sources(write: bool = False) -> None:
    """List the public data sets that can be read: domain, licence, how to get each, size, what it is known for.

    Args:
        write: also write the table of the data card, `data/README.md`.
    """
    from dealkit.data.sources.catalogue import sources_text, update_data_card

    if write:
        update_data_card()
    print(sources_text())


def data_get(name: tyro.conf.Positional[str], root: Path) -> None:
    """Fetch a source into ROOT/NAME and check it, or say how to get it by hand; exit code 2 if it is not there, 1 if nothing in
    it can be read. Run again after an interruption: what is complete is not fetched again.

    Args:
        name: key of `data sources`.
        root: folder that holds one folder per source.
    """
    from dealkit.data.sources.download import get

    text, code = get(name, root)
    print(text)
    sys.exit(code)


def data_build(
    root: Path,
    out: Path = PROJECT_ROOT / "data" / "processed" / "tinyset",
    build: Flat[BuildConfig] = BuildConfig(),  # noqa: B008 (frozen)
    workers: int = os.cpu_count() or 1,
    engine: Literal["processes", "ray"] = "processes",
) -> None:
    """Merge the sources under a folder into a TinySet: tiles, copies left out, splits, COCO files and a Parquet index.

    Goes on where it was stopped. What was left out, and why, is in `report.json`.

    Args:
        root: folder with one folder per source.
        out: folder to write.
        build: settings.
        workers: processes.
        engine: `ray` for Ray Data, on this machine or the cluster named by the variable RAY_ADDRESS.
    """
    from dealkit.data.sources.catalogue import SOURCES
    from dealkit.data.tinyset.build import build_tinyset as run_build
    from dealkit.data.tinyset.build import report_text
    from dealkit.files import read_json

    public = {name: source for name, source in SOURCES.items() if source.domain}
    readers, domains = ({name: getattr(source, part) for name, source in public.items()} for part in ("read", "domain"))
    domains |= read_json(PROJECT_ROOT / "data" / "domains.json")
    print(report_text(run_build(root, out, readers=readers, domains=domains, config=build, workers=workers, engine=engine)))
    print(f"{out}: train.json, val.json, test.json, index.parquet, report.json")


def regime(
    name: tyro.conf.Positional[str], coco: tyro.conf.Positional[Path], out: Path, seed: int = 0, training: bool = False
) -> None:
    """Write a COCO file with fewer or poorer labels: noise20 noise40 semi1 semi5 semi10 sparse1 sparse3 sparse5 point zero.

    Args:
        name: which, see `dealkit.data.regimes`.
        coco: COCO JSON with all labels.
        out: COCO JSON to write; its images are those of the file it is made from.
        seed: which labels.
        training: as detectors and their methods learn from it: points as boxes of one size, unlabelled images under a crowd box.
    """
    from dealkit.data.regimes import apply_regime, for_training
    from dealkit.files import read_json, write_json

    made = apply_regime(read_json(coco), name, seed=seed)
    write_json(out, for_training(made) if training else made)
    unlabelled = f", {len(made['unlabelled'])} images without" if "unlabelled" in made else ""
    print(f"{out}: {len(made['annotations'])} labels in {len(made['images'])} images{unlabelled}, {name}, seed {seed}")


def clicks(
    coco: tyro.conf.Positional[Path],
    out: Path,
    setting: Literal["1/category", "3/category", "5/category", "1/instance"] = "1/category",
    seed: int = 0,
    kind: Literal["centre", "jitter"] = "centre",
) -> None:
    """Draw a click list for a COCO file and write it; prints its hash.

    Args:
        coco: COCO JSON.
        out: click list to write.
        setting: clicks per category of an image, or one on every instance.
        seed: which instances are clicked.
        kind: at the box centre, or anywhere in the middle half of the box.
    """
    from dealkit.clicks import clicks_hash, make_clicks, save_clicks

    made = make_clicks(coco, setting=setting, seed=seed, kind=kind)
    save_clicks(made, out)
    print(f"{out}: {len(made['prompts'])} prompts, {setting}, {kind}, seed {seed}, hash {clicks_hash(made)}")
