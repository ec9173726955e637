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

from dealkit.data.coco import NOT_STATED
from dealkit.data.sources.readers.coco_json import read_aitod, read_coco, read_sodad, read_tinyperson
from dealkit.data.sources.readers.tables import read_gwhd, read_sodaa, read_tt100k
from dealkit.data.sources.readers.text_lines import read_dota, read_visdrone, read_widerface
from dealkit.data.sources.readers.voc_xml import read_bccd, read_dior, read_sirst, read_voc
from dealkit.data.sources.readers.yolo_txt import read_yolo
from dealkit.data.sources.records import ImageRecord
from dealkit.files import PROJECT_ROOT

REMOTE, UAV, DAILY, DRIVING = "remote sensing", "unmanned aerial vehicle", "daily-life scenarios", "autonomous driving"
MICROSCOPE, FIELD, INFRARED = "microscopic observation", "agriculture monitor", "infrared"
DATA_DOMAINS = (REMOTE, UAV, DAILY, DRIVING, MICROSCOPE, FIELD, "industrial inspection", INFRARED)
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


ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download/v0.0.0/VisDrone2019-DET-{}.zip"
WIDERFACE = "https://huggingface.co/datasets/CUHK-CSE/wider_face/resolve/main/data/{}"
DIOR = "https://huggingface.co/datasets/torchgeo/dior/resolve/0b8439a538b66457e553a8bd9105ef093cce8169/{}"
DOTA = "https://huggingface.co/datasets/isaaccorley/dota/resolve/672e63236622f7da6ee37fca44c50ac368b77cab/{}"
DOTA_MD5 = {
    "dotav1.0_images_train.tar.gz": "363b472dc3c71e7fa2f4a60223b437ea",
    "dotav1.0_images_val.tar.gz": "42293219ba61d61c417ae558bbe1f2ba",
    "dotav2.0_images_train.tar.gz": "91ae5212d170330ab9f65ccb6c675763",
    "dotav2.0_images_val.tar.gz": "737f65edf54b5aa627b3d48b0e253095",
    "dotav1.0_annotations_train.tar.gz": "f6788257bcc4d29018344a4128e3734a",
    "dotav1.0_annotations_val.tar.gz": "28155c05b1dc3a0f5cb6b9bdfef85a13",
    "dotav1.5_annotations_train.tar.gz": "0da97e5623a87d7bec22e75f6978dbce",
    "dotav1.5_annotations_val.tar.gz": "85bf945788784cf9b4f1c714453178fc",
    "dotav2.0_annotations_train.tar.gz": "04d3d626df2203053b7f06581b3b0667",
    "dotav2.0_annotations_val.tar.gz": "ec53c1dbcfc125d7532bd6a065c647ac",
}
"""Source: torchgeo 0.8.1, which reads the same mirror."""


def _dota(version: str, folder: str, archives: tuple[str, ...], images: int, boxes: int | None, note: str) -> Source:
    """DOTA of a version; `archives` are the versions whose images it needs, `folder` is that of its labels."""
    names = [f"dotav{v}_images_{s}.tar.gz" for v in archives for s in ("train", "val")]
    names += [f"dotav{version}_annotations_{split}.tar.gz" for split in ("train", "val")]
    return Source(
        title=f"DOTA {version}",
        domain=REMOTE,
        licence="academic use only; Google Earth terms",
        page="https://captain-whu.github.io/DOTA/dataset.html",
        downloads=tuple(Download(url=DOTA.format(name), md5=DOTA_MD5[name]) for name in names),
        images=images,
        boxes=boxes,
        layout=f"{{train,val}}/images/*.png, {{train,val}}/{folder}/*.txt",
        note=note,
        read=partial(read_dota, version=version),
    )


AITOD_BY_HAND = (
    "annotations and part of the images from the OneDrive share on its page, the xView training images from xviewdataset.org "
    "(registration), then make the other images with the authors' aitodtoolkit"
)

SOURCES: dict[str, Source] = {
    "aitod": Source(
        title="AI-TOD",
        domain=REMOTE,
        licence="CC BY-NC-SA 4.0",
        page="https://github.com/jwwangchn/AI-TOD",
        by_hand=AITOD_BY_HAND,
        images=28_036,
        boxes=700_621,
        layout="annotations/aitod_{train,val,test}_v1.json, images/{train,val,test}/*.png",
        note="mean size 12.8 px, 800 x 800; a third of the images are tiles of xView, the rest of other aerial sets",
        read=read_aitod,
    ),
    "aitod-v2": Source(
        title="AI-TOD-v2",
        domain=REMOTE,
        licence="CC BY-NC-SA 4.0",
        page="https://chasel-tsui.github.io/AI-TOD-v2/",
        by_hand=AITOD_BY_HAND,
        images=28_036,
        layout="annotations/aitodv2_{train,val,test}.json, images/{train,val,test}/*.png",
        note="the images of AI-TOD, annotated anew; use one of the two",
        read=partial(read_aitod, version="2"),
    ),
    "soda-d": Source(
        title="SODA-D",
        domain=DRIVING,
        licence=NOT_STATED,
        page="https://shaunyuan22.github.io/SODA",
        by_hand="shares linked on its page",
        images=24_828,
        boxes=278_433,
        layout="Annotations/{train,val,test}.json, Images/*.jpg",
        note="large street images; an earlier version has 24,704 images and 277,596 objects; regions to ignore are a category",
        read=read_sodad,
    ),
    "soda-a": Source(
        title="SODA-A",
        domain=REMOTE,
        licence="CC BY-NC 4.0",
        page="https://shaunyuan22.github.io/SODA",
        by_hand="shares linked on its page",
        images=2_513,
        boxes=872_069,
        layout="Annotations/{train,val,test}/*.json, Images/*.jpg",
        note="large aerial images, oriented polygons; an earlier version has 2,510 images and 800,203 objects",
        read=read_sodaa,
    ),
    "dota-v1.0": _dota(
        *("1.0", "labelTxt", ("1.0",), 2_806, 188_282),
        "large images, oriented polygons, 15 categories; test labels are not public; downloads are torchgeo's mirror",
    ),
    "dota-v1.5": _dota(
        *("1.5", "labelTxt-v1.5", ("1.0",), 2_806, None),
        "the images of 1.0, with objects under 10 px and container cranes annotated, too; use one version",
    ),
    "dota-v2.0": _dota(
        *("2.0", "labelTxt-v2.0", ("1.0", "2.0"), 11_268, 1_793_658),
        "18 categories; the paper's second unseen data set; use one version; test labels are not public",
    ),
    "dior": Source(
        title="DIOR",
        domain=REMOTE,
        licence="academic use",
        page="https://ieee-dataport.org/documents/dior",
        downloads=(
            Download(url=DIOR.format("Images_trainval.zip"), md5="070e9314120403e5c965d12fe5321cb0"),
            Download(url=DIOR.format("Annotations_trainval.zip"), md5="90e045de37255c5919bbecf659b72c1a"),
        ),
        images=23_463,
        boxes=192_472,
        layout="Annotations/Horizontal Bounding Boxes/*.xml, ImageSets/Main/*.txt, JPEGImages-{trainval,test}; or the mirror's "
        "Annotations/trainval, Images/trainval",
        note="20 categories, 800 x 800, many large objects; the paper's first unseen data set; downloads are torchgeo's "
        "mirror, which has no test labels: those are in the authors' share",
        read=read_dior,
    ),
    "visdrone": Source(
        title="VisDrone-DET 2019",
        domain=UAV,
        licence=NOT_STATED,
        page="https://github.com/VisDrone/VisDrone-Dataset",
        downloads=tuple(Download(url=ULTRALYTICS.format(split)) for split in ("train", "val", "test-dev")),
        images=8_629,
        layout="VisDrone2019-DET-{train,val,test-dev}/{images,annotations}",
        note="crowded streets; ignored regions must be honoured; 1.8 GB from a mirror of Ultralytics",
        read=read_visdrone,
    ),
    "tinyperson": Source(
        title="TinyPerson",
        domain=UAV,
        licence="no spreading of identifiable faces, no commercial use",
        page="https://github.com/ucas-vg/PointTinyBenchmark/tree/TinyBenchmark",
        downloads=(Download(url="http://vision.ucas.ac.cn/resource/tiny_set.zip"),),
        images=1_610,
        boxes=72_651,
        layout="tiny_set/annotations/tiny_set_{train,test}.json, tiny_set/{train,test}/labeled_images/*.jpg",
        note="persons at the seaside, seen from afar; over 5,000 regions to ignore; its page links a share, too",
        read=read_tinyperson,
    ),
    "tt100k": Source(
        title="TT100K 2021",
        domain=DRIVING,
        licence="CC BY-NC",
        page="https://cg.cs.tsinghua.edu.cn/traffic-sign/",
        downloads=(Download(url="https://cg.cs.tsinghua.edu.cn/traffic-sign/tt100k_2021.zip"),),
        images=100_000,
        boxes=30_000,
        layout="annotations_all.json, {train,test,other}/*.jpg",
        note="traffic signs, 2048 x 2048, over 200 types; the counts are of the whole benchmark, images without signs included; "
        "the annotated images are about a tenth",
        read=read_tt100k,
    ),
    "widerface": Source(
        title="WIDER FACE",
        domain=DAILY,
        licence=NOT_STATED,
        page="http://shuoyang1213.me/WIDERFACE/",
        downloads=(
            Download(
                url=WIDERFACE.format("wider_face_split.zip"),
                sha256="c7561e4f5e7a118c249e0a5c5c902b0de90bbf120d7da9fa28d99041f68a8a5c",
            ),
            Download(
                url=WIDERFACE.format("WIDER_train.zip"),
                sha256="e23b76129c825cafae8be944f65310b2e1ba1c76885afe732f179c41e5ed6d59",
            ),
            Download(
                url=WIDERFACE.format("WIDER_val.zip"),
                sha256="f9efbd09f28c5d2d884be8c0eaef3967158c866a593fc36ab0413e4b2a58a17a",
            ),
        ),
        images=32_203,
        boxes=393_703,
        layout="wider_face_split/wider_face_{train,val}_bbx_gt.txt, WIDER_{train,val}/images/<event>/*.jpg",
        note="faces of all sizes; invalid faces are flagged; test labels are not public; 1.8 GB",
        read=read_widerface,
    ),
    "sirst": Source(
        title="SIRST",
        domain=INFRARED,
        licence="no licence file",
        page="https://github.com/YimianDai/sirst",
        downloads=(Download(url="https://github.com/YimianDai/sirst.git"),),
        images=427,
        layout="images/*.png, masks/*.xml, idx_427/{train,val,test}.txt",
        note="single infrared frames with a target of a few pixels; contained in SIRST-v2: use one of the two",
        read=read_sirst,
    ),
    "sirst-v2": Source(
        title="SIRST-v2",
        domain=INFRARED,
        licence="no licence file",
        page="https://github.com/YimianDai/open-sirst-v2",
        downloads=(Download(url="https://github.com/YimianDai/open-sirst-v2.git"),),
        images=1_024,
        layout="images/{targets,backgrounds}/*.png, annotations/bboxes/*.xml, splits/{train,val,test}_full.txt",
        note="510 images are backgrounds without a target",
        read=partial(read_sirst, version="2"),
    ),
    "bccd": Source(
        title="BCCD",
        domain=MICROSCOPE,
        licence="MIT",
        page="https://github.com/Shenggan/BCCD_Dataset",
        downloads=(Download(url="https://github.com/Shenggan/BCCD_Dataset.git"),),
        images=364,
        layout="BCCD/Annotations/*.xml, BCCD/JPEGImages/*.jpg, BCCD/ImageSets/Main/{train,val,test}.txt",
        note="red and white blood cells and platelets, 640 x 480; cells are about 100 px: shrink it for small objects",
        read=read_bccd,
    ),
    "gwhd": Source(
        title="Global Wheat Head 2021",
        domain=FIELD,
        licence="CC BY 4.0",
        page="https://zenodo.org/records/5092309",
        downloads=(
            Download(
                url="https://zenodo.org/records/5092309/files/gwhd_2021.zip?download=1",
                md5="22b4b542c9ae7e056d7fcdeae9ecaed5",
            ),
        ),
        images=6_512,
        boxes=275_187,
        layout="gwhd_2021/competition_{train,val,test}.csv, gwhd_2021/images/*.png",
        note="wheat heads from above, 1024 x 1024, crowded",
        read=read_gwhd,
    ),
    "coco": Source(
        title="A COCO folder",
        domain="",
        licence="yours",
        page="https://cocodataset.org/#format-data",
        layout="{train,val,test}.json or annotations/*.json, images/",
        note="checked by `python -m dealkit data check`",
        read=read_coco,
    ),
    "voc": Source(
        title="A Pascal VOC folder",
        domain="",
        licence="yours",
        page="http://host.robots.ox.ac.uk/pascal/VOC/",
        layout="Annotations/*.xml, JPEGImages/, ImageSets/Main/{train,val,test}.txt; or XML beside images",
        note="corners count from 1 and include the last pixel",
        read=read_voc,
    ),
    "yolo": Source(
        title="A YOLO folder",
        domain="",
        licence="yours",
        page="https://docs.ultralytics.com/datasets/detect/",
        layout="data.yaml or classes.txt, images/{train,val,test}/, labels/{train,val,test}/*.txt",
        note="an image without a label file is one without objects",
        read=read_yolo,
    ),
}
"""Key, also the name of its folder under the root, and what is known. Choice: counts are the authors', and "not stated" or empty
where no document says; ours after reading can be lower, since labels of test splits are often closed."""

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
    card.write_text(text, encoding="utf-8")
    return text
