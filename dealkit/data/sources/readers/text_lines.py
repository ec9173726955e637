"""Sources with text files, one object per line: DOTA, VisDrone, WIDER FACE."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, box_of
from dealkit.data.sources.records import ImageRecord

DOTA_CATEGORIES = {
    "1.0": tuple(
        """plane ship storage-tank baseball-diamond tennis-court basketball-court ground-track-field harbor bridge large-vehicle
        small-vehicle helicopter roundabout soccer-ball-field swimming-pool""".split()  # noqa: SIM905
    )
}
"""Names by version. Tools order them differently: rely on names, never on an index."""
DOTA_CATEGORIES["1.5"] = (*DOTA_CATEGORIES["1.0"], "container-crane")
DOTA_CATEGORIES["2.0"] = (*DOTA_CATEGORIES["1.5"], "airport", "helipad")

VISDRONE_CATEGORIES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus"),
    *("motor", "others"),
)


def read_dota(root: str | Path, *, version: str = "2.0", on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """DOTA 1.0, 1.5 or 2.0: `{train,val}/images/*.png` and the version's labels beside them.

    Labels of 1.0 lie in `labelTxt/` or `labelTxt-v1.0/`, of 1.5 and 2.0 in `labelTxt-v1.5/DOTA-v1.5_train/` and the like, in
    `labelTxt-v1.5/` itself, or in `annotations/version1.5/`. Choice: labels of 1.5 and 2.0 are not looked for in a plain
    `labelTxt/`, which is 1.0's: the same images have fewer categories there. `difficult` objects are ignored ones. The labels of
    the test split are not public. 2.0 needs the images of 1.0 and further archives.

    Args:
        version: 1.0 has 15 categories, 1.5 has 16, 2.0 has 18.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = "imagesource:GoogleEarth" + chr(10) + "gsd:null" + chr(10) + "4 0 8 4 4 8 0 4 ship 1"
    >>> with example({"train/images/P1.png": (9, 9), "train/labelTxt/P1.txt": text}) as root:
    ...     [record] = read_dota(root, version="1.0")
    >>> record.boxes.tolist(), record.ignore
    ([[0.0, 0.0, 8.0, 8.0]], array([ True]))
    """
    if version not in DOTA_CATEGORIES:
        raise ValueError(f"version: expected one of {', '.join(DOTA_CATEGORIES)}, got {version!r}")
    reading = Reading(f"dota-v{version}", root, on_problem)
    folders: dict[str, Path | None] = {}
    for split in ("train", "val"):
        places = [f"labelTxt-v{version}/DOTA-v{version}_{split}", f"labelTxt-v{version}/labelTxt", f"labelTxt-v{version}"]
        places += [f"annotations/version{version}", *(["labelTxt"] if version == "1.0" else [])]
        folders[split] = reading.first(*(f"{split}/{place}" for place in places))
    form = "x1 y1 x2 y2 x3 y3 x4 y4 category [difficult]"
    for split, labels in reading.present(
        folders, f"{{}}/images and {{}}/labelTxt{'' if version == '1.0' else f'-v{version}'}"
    ).items():
        images = reading.images(reading.root / split / "images")
        files = {file.stem: file for file in sorted(labels.glob("*.txt"))}
        for stem in images.keys() - files.keys():
            reading.known(images[stem], "image", "labels", f"no {labels / stem}.txt, the image is left out")
        for stem, file in files.items():
            objects = []
            for where, line in reading.lines(file):
                words = line.split()
                if where in ("line 1", "line 2") and line.lower().startswith(("imagesource", "gsd")):
                    continue
                if len(words) not in (9, 10):
                    reading.wrong(file, where, "columns", f"expected {form}, got {line!r:.80}")
                elif words[8] not in DOTA_CATEGORIES[version]:
                    reading.wrong(file, where, "category", f"{words[8]!r} is no category of DOTA {version}")
                elif (values := reading.numbers(file, where, words[:8] + words[9:], form)) is not None:
                    corners = np.array(values[:8]).reshape(4, 2)
                    objects.append(Found(where, words[8], box_of(corners), ignore=values[8:] not in ([], [0.0]), polygon=corners))
            path = images.get(stem, reading.root / split / "images" / f"{stem}.png")
            yield from reading.record(path, objects, file=file, split=split)


def read_visdrone(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """VisDrone-DET: `VisDrone2019-DET-{train,val,test-dev}/{images,annotations}`.

    Ignored are what the authors' evaluation leaves out: category 0, ignored regions, category 11, others, and score 0. Images of
    one clip, whose names begin with the same number, are one group. The labels of test-challenge are not public.

    >>> from dealkit.data.sources.readers.reading import example
    >>> name = "0000002_00005_d_0000014"
    >>> folder = "VisDrone2019-DET-val"
    >>> with example({f"{folder}/images/{name}.jpg": (9, 9), f"{folder}/annotations/{name}.txt": "1,2,3,4,1,4,0,0,"}) as root:
    ...     [record] = read_visdrone(root)
    >>> record.categories, record.boxes.tolist(), record.group
    (('car',), [[1.0, 2.0, 4.0, 6.0]], '0000002')
    """
    reading = Reading("visdrone", root, on_problem)
    splits = {"train": "train", "val": "val", "test": "test-dev"}
    folders = {s: reading.first(f"VisDrone*DET-{d}", f"*/VisDrone2019-DET-{d}") for s, d in splits.items()}
    form = "left,top,width,height,score,category,truncation,occlusion"
    for split, folder in reading.present(folders, "VisDrone2019-DET-{}").items():
        images = reading.images(folder / "images")
        files = sorted((folder / "annotations").glob("*.txt"))
        if not files:
            reading.wrong(folder / "annotations", "file", "path", "expected *.txt")
        for file in files:
            objects = []
            for where, line in reading.lines(file):
                values = reading.numbers(file, where, line.rstrip(",").split(","), form, 8)
                if values is not None and values[5] not in range(len(VISDRONE_CATEGORIES)):
                    reading.wrong(file, where, "category", f"expected 0 to {len(VISDRONE_CATEGORIES) - 1}, got {values[5]:g}")
                elif values is not None:
                    x, y, width, height, score, category = values[:6]
                    ignore = score == 0 or category in (0, 11)
                    objects.append(Found(where, VISDRONE_CATEGORIES[int(category)], (x, y, x + width, y + height), ignore))
            path = images.get(file.stem, folder / "images" / f"{file.stem}.jpg")
            yield from reading.record(path, objects, file=file, group=file.stem.split("_")[0], split=split)


def read_widerface(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """WIDER FACE: `wider_face_split/wider_face_{train,val}_bbx_gt.txt` and `WIDER_{train,val}/images/<event>/*.jpg`.

    An image with 0 faces is followed by a line of zeros, or by none. A line is x, y, width, height, blur, expression,
    illumination, invalid, occlusion, pose, in the order of the readme of the files; `invalid` faces are ignored. Faces of no
    width or height are known defects. The labels of the test split are not public.

    >>> from dealkit.data.sources.readers.reading import example
    >>> rows = ["0--Parade/a.jpg", "1", "1 2 3 4 0 0 0 1 0 0"]
    >>> files = {"wider_face_split/wider_face_val_bbx_gt.txt": chr(10).join(rows), "WIDER_val/images/0--Parade/a.jpg": (9, 9)}
    >>> with example(files) as root:
    ...     [record] = read_widerface(root)
    >>> record.boxes.tolist(), record.ignore
    ([[1.0, 2.0, 4.0, 6.0]], array([ True]))
    """
    reading = Reading("widerface", root, on_problem)
    files = {s: reading.first(f"*/wider_face_{s}_bbx_gt.txt") for s in ("train", "val")}
    form = "x y width height blur expression illumination invalid occlusion pose"
    for split, file in reading.present(files, "wider_face_split/wider_face_{}_bbx_gt.txt").items():
        folder = reading.first(f"WIDER_{split}/images", f"*/WIDER_{split}/images") or reading.root / f"WIDER_{split}" / "images"
        lines = reading.lines(file)
        i = 0
        while i < len(lines):
            where, name = lines[i]
            count = lines[i + 1][1] if i + 1 < len(lines) else ""
            if not name.endswith(".jpg") or not count.isdigit() or i + 2 + int(count) > len(lines):
                got = f"{name!r:.60}, {count!r:.60}"
                reading.wrong(file, where, "image", f"expected a file name, a count and so many lines, got {got}")
                i += 1
                while i < len(lines) and not lines[i][1].endswith(".jpg"):
                    i += 1
                continue
            rows = lines[i + 2 : i + 2 + int(count)]
            i += 2 + int(count)
            if count == "0" and i < len(lines) and set(lines[i][1].split()) == {"0"}:
                i += 1
            objects = []
            for at, line in rows:
                if (values := reading.numbers(file, at, line.split(), form, 10)) is not None:
                    x, y, width, height = values[:4]
                    objects.append(Found(at, "face", (x, y, x + width, y + height), ignore=values[7] == 1))
            yield from reading.record(folder / name, objects, file=file, where=where, split=split)
