"""Sources with text files, one object per line: DOTA, VisDrone, VEDAI, UAVDT, WIDER FACE."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
    "ignored regions",
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
    "others",
)
VEDAI_CATEGORIES = {
    1: "car",
    2: "truck",
    4: "tractor",
    5: "camping car",
    7: "motorcycle",
    8: "bus",
    9: "van",
    10: "other",
    11: "pickup",
    23: "boat",
    31: "plane",
}
"""Choice: public readers disagree about 3, 6 and 9 to 11; this is what most of them hold. Pass another to `read_vedai`."""
UAVDT_CATEGORIES = {1: "car", 2: "truck", 3: "bus"}


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
            record = reading.record(path, objects, file=file, split=split)
            if record is not None:
                yield record


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
    folders = {
        s: reading.first(f"VisDrone2019-DET-{d}", f"VisDrone*DET-{d}", f"*/VisDrone2019-DET-{d}") for s, d in splits.items()
    }
    form = "left,top,width,height,score,category,truncation,occlusion"
    for split, folder in reading.present(folders, "VisDrone2019-DET-{}").items():
        images = reading.images(folder / "images")
        files = sorted((folder / "annotations").glob("*.txt"))
        if not files:
            reading.wrong(folder / "annotations", "file", "path", "expected *.txt")
        for file in files:
            objects = []
            for where, line in reading.lines(file):
                values = reading.numbers(file, where, line.rstrip(",").split(","), form)
                if values is None:
                    continue
                if len(values) != 8 or values[5] not in range(len(VISDRONE_CATEGORIES)):
                    reading.wrong(file, where, "columns", f"expected {form} with category 0 to 11, got {line!r:.80}")
                    continue
                x, y, width, height, score, category = values[:6]
                ignore = score == 0 or category in (0, 11)
                objects.append(Found(where, VISDRONE_CATEGORIES[int(category)], (x, y, x + width, y + height), ignore))
            path = images.get(file.stem, folder / "images" / f"{file.stem}.jpg")
            record = reading.record(path, objects, file=file, group=file.stem.split("_")[0], split=split)
            if record is not None:
                yield record


def read_vedai(
    root: str | Path,
    *,
    infrared: bool = False,
    categories: Mapping[int, str] = VEDAI_CATEGORIES,
    on_problem: OnProblem | None = None,
) -> Iterator[ImageRecord]:
    """VEDAI: `Vehicules1024/00000000_co.png` and `Annotations1024/annotation1024.txt`, or the same with 512.

    A line of that file is image, centre x, y, angle, the corners' four x, then four y, class, contained, occluded. Without it,
    files of one image each are read, whose columns are in another order: centre x, y, angle, class, contained, occluded, four x,
    four y; a few have no corners (five columns) and their images are left out. Colour and infrared images share their numbers and
    are one group. The folds are for cross-validation, so no split is stated.

    Choice: 1024 where both are there; corners as given (one public reader counts them from 1, half a pixel of doubt); images that
    no line names are left out, since nothing says that they were searched.

    Args:
        infrared: the `_ir` images instead of the `_co` ones.
        categories: name by class number; objects of other classes are known defects.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = "00000007 4 4 0.5 2 6 6 2 3 3 5 5 11 1 0"
    >>> with example({"Annotations512/annotation512.txt": text, "Vehicules512/00000007_co.png": (9, 9)}) as root:
    ...     [record] = read_vedai(root)
    >>> record.categories, record.boxes.tolist(), record.group
    (('pickup',), [[2.0, 3.0, 6.0, 5.0]], '00000007')
    """
    reading = Reading("vedai", root, on_problem)
    for size in ("1024", "512"):
        table = reading.first(f"annotation{size}.txt", f"*/annotation{size}.txt")
        folder = reading.first(f"Vehicules{size}", f"*/Vehicules{size}", f"Vehicles{size}")
        single = reading.first(f"Annotations{size}", f"*/Annotations{size}")
        if folder is not None and (table is not None or single is not None):
            break
    else:
        reading.present({"": None}, "Vehicules1024/ and Annotations1024/annotation1024.txt")
        return
    rows: dict[str, list[tuple[Path, str, list[str]]]] = defaultdict(list)
    if table is not None:
        for where, line in reading.lines(table):
            number, *words = line.split()
            rows[number.zfill(8)].append((table, where, [*words[:3], *words[11:14], *words[3:11], *words[14:]]))
    else:
        for file in sorted(single.glob("*.txt")) if single is not None else ():
            if re.fullmatch(r"\d{8}", file.stem):
                rows[file.stem] = [(file, where, line.split()) for where, line in reading.lines(file)]
    images = reading.images(folder)
    ending = "ir" if infrared else "co"
    unnamed = sum(name.endswith(ending) and name.removesuffix(f"_{ending}") not in rows for name in images)
    if unnamed:
        reading.known(folder, "file", "images", f"{unnamed} images have no line of annotation and are left out")
    for number in sorted(rows):
        objects = _vedai_objects(reading, rows[number], categories)
        if objects is not None:
            path = images.get(f"{number}_{ending}", folder / f"{number}_{ending}.png")
            file, where = rows[number][0][:2] if rows[number] else (single / f"{number}.txt", "file")
            record = reading.record(path, objects, file=file, where=where, group=number)
            if record is not None:
                yield record


def _vedai_objects(
    reading: Reading, rows: Sequence[tuple[Path, str, list[str]]], categories: Mapping[int, str]
) -> list[Found] | None:
    """Objects of one image, columns in the order of the files of one image; None if a line has no corners."""
    objects = []
    form = "centre x, y, angle, class, contained, occluded, four x and four y"
    for file, where, words in rows:
        if len(words) == 5:
            reading.known(file, where, "columns", "no corners, the image is left out")
            return None
        values = reading.numbers(file, where, words, form)
        if values is None:
            continue
        if len(values) != 14:
            reading.wrong(file, where, "columns", f"expected {form}, got {len(values)} columns")
            continue
        name = categories.get(int(values[3]))
        if name is None:
            reading.known(file, where, "class", f"expected one of {', '.join(map(str, categories))}, got {int(values[3])}")
            continue
        corners = np.array(values[6:]).reshape(2, 4).T
        objects.append(Found(where, name, box_of(corners), polygon=corners))
    return objects


def read_uavdt(root: str | Path, *, every: int = 10, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """UAVDT detection: `UAV-benchmark-M/M0101/img000001.jpg`, `GT/M0101_gt_whole.txt`, `M_attr/{train,test}` for the split.

    `M0101_gt_ignore.txt` holds ignored regions. A sequence is one group. Objects more than half out of view have no label. The
    authors' AP is at IoU 0.7.

    Args:
        every: read one frame in so many. Choice: 10, three a second; neighbouring frames are near-duplicates.

    >>> from dealkit.data.sources.readers.reading import example
    >>> files = {"UAV-benchmark-M/M0101/img000001.jpg": (9, 9), "GT/M0101_gt_whole.txt": "1,7,1,2,3,4,1,1,3",
    ...          "GT/M0101_gt_ignore.txt": "1,-1,5,5,4,4,1,-1,-1", "M_attr/test/M0101_attr.txt": "1,0,0"}
    >>> with example(files) as root:
    ...     [record] = read_uavdt(root)
    >>> record.categories, record.ignore.tolist(), record.group, record.split
    (('bus', 'ignored region'), [False, True], 'M0101', 'test')
    """
    reading = Reading("uavdt", root, on_problem)
    depths = ("", "*/", "*/*/")
    sequences = sorted(p for d in depths for p in reading.root.glob(f"{d}M[0-9][0-9][0-9][0-9]") if p.is_dir())
    truth = reading.first(*(f"{d}GT" for d in depths))
    if not sequences or truth is None:
        reading.present({"": None}, "UAV-benchmark-M/M0101/img000001.jpg and GT/M0101_gt_whole.txt")
        return
    splits = {}
    for split in ("train", "test"):
        for depth in depths:
            for file in reading.root.glob(f"{depth}M_attr/{split}/*_attr.txt"):
                splits[file.name.replace(" ", "").split("_")[0]] = split  # some names have a blank before the underscore
    form = "frame,target,left,top,width,height,out of view,occlusion,class"
    for sequence in sequences:
        whole, ignored = (truth / f"{sequence.name}_gt_{kind}.txt" for kind in ("whole", "ignore"))
        objects: dict[int, list[Found]] = defaultdict(list)
        rows = [(whole, row) for row in reading.lines(whole)]
        if not rows:
            continue
        for file, (where, line) in rows + [(ignored, row) for row in (reading.lines(ignored) if ignored.is_file() else ())]:
            values = reading.numbers(file, where, line.rstrip(",").split(","), form)
            if values is None:
                continue
            name = "ignored region" if file is ignored else UAVDT_CATEGORIES.get(int(values[8]) if len(values) > 8 else 0)
            if len(values) < 6 or name is None:
                reading.wrong(file, where, "columns", f"expected {form} with class 1, 2 or 3, got {line!r:.80}")
                continue
            x, y, width, height = values[2:6]
            objects[int(values[0])].append(Found(where, name, (x, y, x + width, y + height), ignore=file is ignored))
        for path in [p for p in sorted(sequence.glob("img*.jpg")) if p.stem[3:].isdigit()][::every]:
            found = objects.get(int(path.stem[3:]), [])
            split = splits.get(sequence.name, "")
            record = reading.record(path, found, file=whole, where=path.name, group=sequence.name, split=split)
            if record is not None:
                yield record


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
    files = {
        s: reading.first(f"wider_face_split/wider_face_{s}_bbx_gt.txt", f"*/wider_face_{s}_bbx_gt.txt") for s in ("train", "val")
    }
    form = "x y width height blur expression illumination invalid occlusion pose"
    for split, file in reading.present(files, "wider_face_split/wider_face_{}_bbx_gt.txt").items():
        folder = reading.first(f"WIDER_{split}/images", f"*/WIDER_{split}/images") or reading.root / f"WIDER_{split}" / "images"
        lines = reading.lines(file)
        i = 0
        while i < len(lines):
            where, name = lines[i]
            count = lines[i + 1][1] if i + 1 < len(lines) else ""
            if not name.endswith(".jpg") or not count.isdigit() or i + 2 + int(count) > len(lines):
                reading.wrong(
                    file, where, "image", f"expected a file name, a count and so many lines, got {name!r:.60}, {count!r:.60}"
                )
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
                values = reading.numbers(file, at, line.split(), form)
                if values is not None and len(values) != 10:
                    reading.wrong(file, at, "columns", f"expected {form}, got {line!r:.80}")
                elif values is not None:
                    x, y, width, height = values[:4]
                    objects.append(Found(at, "face", (x, y, x + width, y + height), ignore=values[7] == 1))
            record = reading.record(folder / name, objects, file=file, where=where, split=split)
            if record is not None:
                yield record
