"""Does it work on what it was not trained on? Trainings that leave sources, domains or categories out, and their scores.

A protocol is a list of cells: what is trained on, what is tested. Cells with the same training share it, whatever protocol asks;
what is finished is not run again, what was cut off goes on. Sources are folders with `train.json`, `val.json` and `images/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm.auto import tqdm

from dealkit.config import HELD_OUT, DataConfig, ModelConfig, PromptConfig, RunConfig, TrainConfig, portable
from dealkit.data.subsets import find_sources, some_categories
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.studies.runs import folder_of, scored, trained

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
    train: tuple[str, ...]
    """Sources trained on; none: procedural scenes only."""
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
    return {name: [c["name"] for c in read_json(Path(root) / name / "train.json")["categories"]] for name in sources}


def run_protocol(
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
) -> Json:
    """Train and test every cell of a protocol; writes `results` after each group and returns it.

    Args:
        root: folder of the sources. out: folder of the runs. base: the training that cells change.
        domains: of each source. init: checkpoint that every cell starts from, trained on nothing but procedural scenes; it is
            tested, too, as the cell `before`. None: random weights.
        held: sources left out in `heldout`. seeds: click lists of each test.
    """
    root, out = Path(root), Path(out)
    names = find_sources(root)
    categories = source_categories(root, names)
    cells = cells_of(protocol, categories, domains, held)
    summary: Json = {"protocol": protocol, "base": portable(base), "seeds": seeds, "rows": []}
    summary["init"] = sha_of(init) if init else None
    todo: list[tuple[Cell, RunConfig | None]] = []
    if init is not None:
        tests = {group: sources for cell in reversed(cells) for group, sources in cell.test.items()}
        every = names if protocol == "domains" else None
        before = Cell(name="before", train=(), test={HELD: tuple(every)} if every else tests, by_category=cells[0].by_category)
        todo.append((before, None))
    todo += [(cell, _run_of(cell, base, root, out / "parts", categories)) for cell in cells]
    for cell, run in tqdm(todo, desc=f"protocol {protocol}", unit="cell"):
        made = {"steps": 0, "minutes": 0.0}
        if run is None:
            folder, checkpoint = out / f"init-{summary['init']}", init
        else:
            folder = folder_of(run, init, out)
            made, checkpoint = trained(run, folder, init), folder / "model.safetensors"
        for group, sources in cell.test.items():
            files = [_test_file(cell, group, root / name / "val.json", out / "parts", categories[name]) for name in sources]
            scores = scored(checkpoint, files, folder / f"{protocol}-{group.replace(' ', '-')}.json", seeds=seeds)
            about = {"cell": cell.name, "group": group, "trained_on": list(cell.train), "synthetic": cell.synthetic}
            about |= {"without": {k: list(v) for k, v in cell.without.items()}, "checkpoint": sha_of(checkpoint)}
            about["run"] = folder.name
            summary["rows"].append({**about, "steps": made["steps"], "minutes": made["minutes"], **scores})
            summary["made_by"] = provenance()
            if results is not None:
                write_json(results, summary)
    return summary


def _run_of(cell: Cell, base: RunConfig, root: Path, parts: Path, categories: Mapping[str, Sequence[str]]) -> RunConfig:
    entries = []
    for name in cell.train:
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
