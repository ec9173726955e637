"""The public data sets of small objects: what each is, where it comes from, under which terms, and the function that reads it.

Every reader takes the folder of one source and gives an `ImageRecord` per image, one at a time, in the same order every time:
`read_x(root, on_problem=None)`. Without `on_problem` the first problem is raised as a `ValueError`; with it, problems are handed
over, what they concern is left out and reading goes on (see `readers.reading.Reading`). Nothing is downloaded and no
pixels are decoded: of images only the header is opened.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dealkit.data.sources.readers.coco_json import read_aitod, read_coco, read_sodad, read_tinyperson
from dealkit.data.sources.readers.tables import read_gwhd, read_tt100k
from dealkit.data.sources.readers.text_lines import DOTA_CATEGORIES, read_dota, read_visdrone, read_widerface
from dealkit.data.sources.readers.voc_xml import read_bccd, read_dior, read_sirst, read_voc
from dealkit.data.sources.readers.yolo_txt import read_yolo
from dealkit.data.sources.records import ImageRecord
from dealkit.files import PROJECT_ROOT, Json, read_json, write_text

DATA_DOMAINS = (
    *("remote sensing", "unmanned aerial vehicle", "daily-life scenarios", "autonomous driving", "microscopic observation"),
    *("agriculture monitor", "industrial inspection", "infrared"),
)
"""The six domains of TinySet-9M and two more.

Source: arXiv 2604.02773, abstract (the six)."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file, or one git repository, that can be fetched without a login."""

    url: str
    sha256: str | None = None
    """Its checksum, where it is known."""
    md5: str | None = None
    """The same, where only this one is published."""
    commit: str | None = None
    """Of a repository: the commit that is fetched, all 40 digits."""

    @property
    def pinned(self) -> bool:
        """Whether what comes is known beforehand: by a checksum, or by a commit."""
        return bool(self.sha256 or self.md5 or self.commit)

    @property
    def name(self) -> str:
        """Name of the file.

        >>> Download(url="https://example.org/a/b.zip?x=1").name
        'b.zip'
        """
        return self.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is known of one source; texts that nothing states are "not stated"."""

    title: str
    domain: str
    """One of `DATA_DOMAINS`; empty for folders of one's own."""
    licence: str
    page: str
    """Where its owners describe it."""
    images: int | None = None
    """Images as documented, all splits."""
    boxes: int | None = None
    """Objects as documented."""
    layout: str
    """Files that the reader expects under the source's folder."""
    note: str
    """What it is known for, and what to know before using it."""
    read: Callable[..., Iterator[ImageRecord]]
    downloads: tuple[Download, ...] = ()
    """Empty if it lies behind a login, a form or a share that only a browser opens."""
    by_hand: str = ""
    """How to get it, where there are no downloads."""

    @property
    def how(self) -> str:
        """How to get it, in a word: `git`, `http`, `by hand`, or `your own`."""
        if not self.downloads:
            return "by hand" if self.by_hand else "your own"
        return "git" if self.downloads[0].url.endswith(".git") else "http"


READERS: dict[str, Callable[..., Iterator[ImageRecord]]] = {
    "aitod": read_aitod,
    "aitod-v2": partial(read_aitod, version="2"),
    "soda-d": read_sodad,
    **{f"dota-v{version}": partial(read_dota, version=version) for version in DOTA_CATEGORIES},
    "dior": read_dior,
    "visdrone": read_visdrone,
    "tinyperson": read_tinyperson,
    "tt100k": read_tt100k,
    "widerface": read_widerface,
    "sirst": read_sirst,
    "sirst-v2": partial(read_sirst, version="2"),
    "bccd": read_bccd,
    "gwhd": read_gwhd,
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
}
"""The function that reads each source."""


_FACTS: dict[str, Json] = read_json(Path(__file__).with_name("catalogue.json"))
for _facts in _FACTS.values():
    _facts["downloads"] = tuple(Download(**item) for item in _facts.get("downloads", ()))
SOURCES: dict[str, Source] = {key: Source(**_FACTS[key], read=read) for key, read in READERS.items()}
"""Key, also the name of its folder under the root, and what is known: the facts stand in `catalogue.json`.

Choice: counts are the authors', and "not stated" or empty where no document says; ours after reading can be lower, since labels
of test splits are often closed. Checksums of DOTA are those of torchgeo 0.8.1, which reads the same mirror."""

CARD_COLUMNS = ("key", "title", "domain", "licence", "how to get", "images", "objects", "note")


def sources_text() -> str:
    """What `python -m dealkit data sources` prints.

    >>> print(sources_text().splitlines()[0])
    aitod      remote sensing           by hand   28,036 images     700,621 objects  AI-TOD
    """
    rows = []
    for key, s in SOURCES.items():
        counts = f"{_count(s.images):>7} images  {_count(s.boxes):>10} objects"
        rows.append(f"{key:9}  {s.domain:23}  {s.how:8} {counts}  {s.title}")
        rows += [f"{'':9}  {s.licence}; {s.page}", f"{'':9}  {s.note}"]
    return "\n".join(rows)


def sources_markdown() -> str:
    """The table of the data card, `data/README.md`.

    >>> print(sources_markdown().splitlines()[0])
    | key | title | domain | licence | how to get | images | objects | note |
    """
    rows = [CARD_COLUMNS, ("---",) * len(CARD_COLUMNS)]
    for key, s in SOURCES.items():
        counts = (_count(s.images), _count(s.boxes))
        rows.append((f"`{key}`", f"[{s.title}]({s.page})", s.domain or "–", s.licence, s.how, *counts, s.note))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def update_data_card(card: Path = PROJECT_ROOT / "data" / "README.md") -> str:
    """Write the table of sources between `<!-- table sources -->` and `<!-- end -->` of the data card; gives the new text.

    Raises:
        ValueError: the card has no such marks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     card = Path(folder, "README.md")
    ...     _ = card.write_text("# Card <!-- table sources -->XYZ<!-- end --> more")
    ...     text = update_data_card(card)
    >>> text.startswith("# Card <!-- table sources -->") and "XYZ" not in text and text.endswith("<!-- end --> more")
    True
    """
    start, end = "<!-- table sources -->", "<!-- end -->"
    head, mark, rest = card.read_text(encoding="utf-8").partition(start)
    if not mark or end not in rest:
        raise ValueError(f"{card}: expected the marks {start} and {end}")
    text = f"{head}{start}\n{sources_markdown()}\n{end}{rest.split(end, 1)[1]}"
    write_text(card, text)
    return text
