"""Does it work on what it was not trained on? Trainings that leave sources, domains or categories out, and their scores.

A protocol is a list of cells: what is trained on, what is tested. Protocols share the trainings that are the same. A source is a
folder with `train.json`, `val.json` and `images/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dealkit.config import HELD_OUT, DataConfig, ModelConfig, PromptConfig, RunConfig, TrainConfig, portable
from dealkit.data.annotations import read_coco
from dealkit.data.subsets import find_sources, some_categories
from dealkit.evaluate.benchmark import benchmark
from dealkit.files import Results, sha_of
from dealkit.studies.runs import folder_of, trained

HELD, OTHERS = "held out", "others"
"""Groups of tested sources or categories."""

PROTOCOLS = ("heldout", "domains", "categories", "real")
"""`heldout`: fixed sources left out. `domains`: each domain left out in turn. `categories`: every second category of each source
left out. `real`: scenes only, real images only, both."""

SHARE = 0.5
"""Share of procedural scenes where a cell trains on both. Choice: that of the published model's last parts."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training and what is tested after it."""

    name: str
    train: tuple[str, ...] | None
    """Sources trained on; empty: procedural scenes only. None: not trained, the checkpoint that all cells start from."""
    test: Mapping[str, tuple[str, ...]]
    """Sources tested, by group: `held out` and `others`."""
    synthetic: float = SHARE
    """Share of procedural scenes."""
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Categories of each source that are not trained on."""
    by_category: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """If not empty, categories of each source that make the group `held out`; the group `others` is all the others."""


def left_out_run(
    *, model: ModelConfig, minutes: float = 0.0, steps: int = 25_000, size: int = 192, cycles: int = 1, lr: float = 4e-4
) -> RunConfig:
    """The training that cells change, ended by minutes or steps, whichever is first.

    >>> left_out_run(model=ModelConfig(), minutes=60).train.max_minutes
    60
    """
    schedule = TrainConfig(
        steps=steps, max_minutes=minutes, warmup=max(1, min(300, steps // 10)), lr=lr, checkpoint_every=100, ema_decay=0.995
    )
    return RunConfig(model=model, data=DataConfig(size=size), train=schedule, prompt=PromptConfig(cycles=cycles))


def cells_of(
    protocol: str,
    categories: Mapping[str, Sequence[str]],
    domains: Mapping[str, str],
    held: Sequence[str] = HELD_OUT,
) -> list[Cell]:
    """The cells of a protocol, the one that leaves nothing out first, for comparison.

    Args:
        protocol: one of `PROTOCOLS`. categories: names by source, of all sources there are.
        domains: of each source, for `domains`. held: sources left out, for `heldout`.

    Raises:
        ValueError: an unknown protocol, a held-out source that is not there, nothing left to train on, or a source without
            domain.

    >>> cells = cells_of("domains", {"a": ["x"], "b": ["x"]}, {"a": "sea", "b": "land"})
    >>> [(cell.name, cell.train) for cell in cells]
    [('all sources', ('a', 'b')), ('without land', ('a',)), ('without sea', ('b',))]
    """
    names = tuple(sorted(categories))
    if protocol == "heldout":
        missing = sorted(set(held) - set(names))
        if missing:
            raise ValueError(f"held out: no source {missing[0]!r}; there are {', '.join(names)}")
        rest = tuple(name for name in names if name not in held)
        if not rest:
            raise ValueError("held out: expected a source that is left to train on, got none")
        test = {HELD: tuple(sorted(held)), OTHERS: rest}
        return [Cell(name="all sources", train=names, test=test), Cell(name="some left out", train=rest, test=test)]
    if protocol == "domains":
        unknown = [name for name in names if name not in domains]
        if unknown:
            raise ValueError(f"domains: {unknown[0]!r} has none; data/domains.json says which domain a source is of")
        cells = [Cell(name="all sources", train=names, test={HELD: names})]
        for domain in sorted({domains[name] for name in names}):
            inside = tuple(name for name in names if domains[name] == domain)
            outside = tuple(name for name in names if domains[name] != domain)
            if outside:
                cells.append(Cell(name=f"without {domain}", train=outside, test={HELD: inside}))
        return cells
    if protocol == "categories":
        second = {name: tuple(sorted(categories[name])[1::2]) for name in names if len(categories[name]) > 1}
        if not second:
            raise ValueError("categories: expected a source with two categories, got none")
        test = {HELD: tuple(second), OTHERS: tuple(second)}
        every = Cell(name="all sources", train=names, test=test, by_category=second)
        return [every, replace(every, name="some left out", without=second)]
    if protocol == "real":
        test = {"real images": names}
        return [
            Cell(name="scenes only", train=(), test=test, synthetic=1.0),
            Cell(name="real images only", train=names, test=test, synthetic=0.0),
            Cell(name="scenes and real images", train=names, test=test),
        ]
    raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")


def source_categories(root: Path, sources: Sequence[str]) -> dict[str, list[str]]:
    """Categories of each source, as its `train.json` has them."""
    return {name: [c["name"] for c in read_coco(Path(root) / name / "train.json")["categories"]] for name in sources}


def left_out_scores(
    protocol: str,
    root: Path,
    out: Path,
    *,
    base: RunConfig,
    domains: Mapping[str, str],
    init: Path | None = None,
    held: Sequence[str] = HELD_OUT,
    seeds: int = 3,
    results: Path | None = None,
) -> Results:
    """Train every cell of a protocol and test it by one click per category: a row per cell, group, source and seed of clicks.

    A row holds `checkpoint` (hash), `run` (folder of the training), `steps` and `minutes`, and what a row of `benchmark` holds.

    Args:
        root: folder of the sources. out: folder of the runs. base: the training that cells change.
        domains: of each source. init: checkpoint that every cell starts from, trained on nothing but procedural scenes; it is
            tested, too, as the cell `before`. None: random weights.
        held: sources left out in `heldout`. seeds: click lists of each test.
        results: JSON to go on with; default: `<protocol>.json` in `out`.

    Raises:
        ValueError: as `cells_of`; a folder of `out` that holds another training.
    """
    root, out = Path(root), Path(out)
    categories = source_categories(root, find_sources(root))
    cells = cells_of(protocol, categories, domains, held)
    if init is not None:
        groups = {group: sources for cell in reversed(cells) for group, sources in cell.test.items()}
        cells = [replace(cells[0], name="before", train=None, test=groups), *cells]
    request = {"protocol": protocol, "base": portable(base), "init": sha_of(init) if init else None, "seeds": seeds}
    made = Results(results or out / f"{protocol}.json", request | {"cells": [asdict(cell) for cell in cells]})
    of_name = {cell.name: cell for cell in cells}
    for key in made.todo([{"cell": c.name, "group": group} for c in cells for group in c.test], f"protocol {protocol}"):
        cell, group = of_name[key["cell"]], key["group"]
        about, checkpoint = {"run": None, "steps": 0, "minutes": 0.0}, init
        if cell.train is not None:
            run = _run_of(cell, base, root, out / "parts", categories)
            folder = folder_of(run, init, out)
            training = trained(run, folder, init)
            about = {"run": folder.name, "steps": training["steps"], "minutes": training["minutes"]}
            checkpoint = folder / "model.safetensors"
        files = [_test_file(cell, group, root / name / "val.json", out / "parts", categories[name]) for name in cell.test[group]]
        rows = benchmark(checkpoint, files, None, prompts=("alone",), seeds=seeds).rows
        made.add(key | {"checkpoint": sha_of(checkpoint)} | about, *rows)
    return made


def _run_of(cell: Cell, base: RunConfig, root: Path, parts: Path, categories: Mapping[str, Sequence[str]]) -> RunConfig:
    entries = []
    for name in cell.train or ():
        file = root / name / "train.json"
        if cell.without.get(name):
            kept = [category for category in categories[name] if category not in cell.without[name]]
            file = some_categories(file, kept, parts / "without")
        entries.append(str(file))
    return replace(base, data=replace(base.data, coco=tuple(entries), synthetic=cell.synthetic))


def _test_file(cell: Cell, group: str, file: Path, parts: Path, categories: Sequence[str]) -> Path:
    """The file itself, or the part of it with the categories of the group."""
    held = cell.by_category.get(file.parent.name)
    if held is None:
        return file
    kept = held if group == HELD else [name for name in categories if name not in held]
    return some_categories(file, kept, parts / group.replace(" ", "-"))
