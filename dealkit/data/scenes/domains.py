"""Six procedural domains, after those of TinySet-9M: a fixed small data set that anyone can make again, bit by bit.

Each is a look of `dealkit.data.scenes.scene`: its grounds, kinds of objects and sizes. They are no photographs, and say of a
domain only what grounds, shapes, sizes and crowding say.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.files import read_json, write_text

DOMAIN_SEED = EVAL_SEED + 1_000_000
"""The first of twelve families of scenes: two for each domain, `domain_seed`. No published checkpoint is trained on any."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the scenes of a domain are drawn from."""

    title: str
    """Name of the domain in the paper."""
    grounds: tuple[str, ...]
    """Families of backgrounds."""
    shapes: tuple[str, ...]
    """Families of objects."""
    sizes: tuple[float, float]
    """Smallest and largest size of a category, pixels."""
    grey: bool | None = None
    """One channel; None: in some scenes."""

    def controls(self) -> dict[str, Any]:
        """Fields of `SceneControls`."""
        return {"grounds": self.grounds, "shapes": self.shapes, "sizes": self.sizes, "grey": self.grey}


DOMAINS: dict[str, Domain] = {
    "remote_sensing": Domain(
        title="remote sensing",
        grounds=("roofs", "fields", "water", "relief"),
        shapes=("vehicle", "rectangle", "rod", "wings", "crater"),
        sizes=(4, 24),
    ),
    "uav": Domain(
        title="unmanned aerial vehicle",
        grounds=("roads", "roofs", "vegetation"),
        shapes=("vehicle", "rounded", "figure"),
        sizes=(6, 32),
        grey=False,
    ),
    "daily_life": Domain(
        title="daily-life scenarios",
        grounds=("pitch", "plain", "bands", "gravel"),
        shapes=("figure", "polygon", "star", "ring", "bolt", "notched", "cross"),
        sizes=(8, 48),
        grey=False,
    ),
    "driving": Domain(
        title="autonomous driving",
        grounds=("street", "night", "roads"),
        shapes=("vehicle", "figure", "ellipse", "rectangle"),
        sizes=(6, 40),
        grey=False,
    ),
    "microscopy": Domain(
        title="microscopic observation",
        grounds=("tissue", "plain"),
        shapes=("blob", "two-lobed", "ring", "rod", "ellipse"),
        sizes=(5, 32),
    ),
    "agriculture": Domain(
        title="agriculture monitor",
        grounds=("soil", "vegetation", "fields"),
        shapes=("bunch", "blob", "ellipse", "crescent"),
        sizes=(5, 40),
        grey=False,
    ),
}
"""The domains, by the name of their folder."""


def domain_seed(name: str, split: str) -> int:
    """Family of scenes of a domain's `train` or `val`; all differ, so no two domains show the same scene in another dress.

    >>> domain_seed("uav", "val") - DOMAIN_SEED
    3
    """
    return DOMAIN_SEED + 2 * list(DOMAINS).index(name) + ("train", "val").index(split)


def write_domains(out: Path, *, train: int = 100, val: int = 40, size: int = 256) -> list[Path]:
    """Write the data set once: per domain a folder with `train.json`, `val.json` and `images/`; gives the paths of `train.json`.

    Splits that are there are kept, so a run that was stopped goes on.

    Args:
        train, val: scenes of each domain. size: height and width, pixels.

    Raises:
        ValueError: a split that is there was made with other numbers; names it.

    >>> import tempfile
    >>> files = write_domains(Path(tempfile.mkdtemp()), train=1, val=1, size=64)
    >>> [file.parent.name for file in files][:2], read_json(files[0])["images"][0]["file_name"]
    (['remote_sensing', 'uav'], 'train_000001.png')
    """
    for name, domain in DOMAINS.items():
        for split, count in (("train", train), ("val", val)):
            file, made = out / name / f"{split}.json", {"domain": domain.title, "split": split, "scenes": count, "size": size}
            made["seed"] = domain_seed(name, split)
            if file.is_file():
                if read_json(file).get("info") != made:
                    raise ValueError(f"{file}: made with other settings than {made}; choose another folder")
                continue
            _write_split(file, domain, count, size, made)
    return [out / name / "train.json" for name in DOMAINS]


def _write_split(file: Path, domain: Domain, count: int, size: int, info: dict[str, Any]) -> None:
    """Scenes as `images/<split>_000001.png` and the COCO file, which is written last."""
    split, images, part = file.stem, file.parent / "images", file.parent / f"{file.stem}.part"
    images.mkdir(parents=True, exist_ok=True)
    coco = read_json(write_coco(part, count, size=size, seed=domain_seed(file.parent.name, split), **domain.controls()))
    for row in coco["images"]:
        name = f"{split}_{row['id']:06d}.png"
        os.replace(part / row["file_name"], images / name)
        row["file_name"] = name
    write_text(file, json.dumps({"info": info, **coco}) + "\n")
    shutil.rmtree(part)
