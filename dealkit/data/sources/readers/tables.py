"""Sources with tables of their own: SODA-A, xView, BDD100K, TT100K (JSON), CityPersons (MATLAB)."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.data.sources.readers.reading import Found, OnProblem, Reading, box_of
from dealkit.data.sources.records import ImageRecord

SODAA_CATEGORIES = (
    "airplane",
    "helicopter",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "container",
    "storage-tank",
    "swimming-pool",
    "windmill",
    "ignore",
)
"""Names by `category_id`, which counts from 0."""

XVIEW_CATEGORIES = {
    11: "Fixed-wing Aircraft",
    12: "Small Aircraft",
    13: "Cargo Plane",
    15: "Helicopter",
    17: "Passenger Vehicle",
    18: "Small Car",
    19: "Bus",
    20: "Pickup Truck",
    21: "Utility Truck",
    23: "Truck",
    24: "Cargo Truck",
    25: "Truck w/Box",
    26: "Truck Tractor",
    27: "Trailer",
    28: "Truck w/Flatbed",
    29: "Truck w/Liquid",
    32: "Crane Truck",
    33: "Railway Vehicle",
    34: "Passenger Car",
    35: "Cargo Car",
    36: "Flat Car",
    37: "Tank car",
    38: "Locomotive",
    40: "Maritime Vessel",
    41: "Motorboat",
    42: "Sailboat",
    44: "Tugboat",
    45: "Barge",
    47: "Fishing Vessel",
    49: "Ferry",
    50: "Yacht",
    51: "Container Ship",
    52: "Oil Tanker",
    53: "Engineering Vehicle",
    54: "Tower crane",
    55: "Container Crane",
    56: "Reach Stacker",
    57: "Straddle Carrier",
    59: "Mobile Crane",
    60: "Dump Truck",
    61: "Haul Truck",
    62: "Scraper/Tractor",
    63: "Front loader/Bulldozer",
    64: "Excavator",
    65: "Cement Mixer",
    66: "Ground Grader",
    71: "Hut/Tent",
    72: "Shed",
    73: "Building",
    74: "Aircraft Hangar",
    76: "Damaged Building",
    77: "Facility",
    79: "Construction Site",
    83: "Vehicle Lot",
    84: "Helipad",
    86: "Storage Tank",
    89: "Shipping container lot",
    91: "Shipping Container",
    93: "Pylon",
    94: "Tower",
}
"""The 60 classes by `type_id`. Choice: the names of the authors' list; others write "Truck Tractor w/ Box Trailer" for 25."""

BDD100K_CATEGORIES = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)
BDD100K_OLD = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"}
"""Names of the first releases and today's."""
BDD100K_IGNORED = ("other person", "other vehicle", "trailer")

TT100K_COMMON = tuple(
    """i2 i4 i5 il100 il60 il80 io ip p10 p11 p12 p19 p23 p26 p27 p3 p5 p6 pg ph4 ph4.5 ph5 pl100 pl120 pl20 pl30 pl40 pl5 pl50
    pl60 pl70 pl80 pm20 pm30 pm55 pn pne po pr40 w13 w32 w55 w57 w59 wo""".split()  # noqa: SIM905
)
"""The 45 types with at least 100 signs, which papers use; the reader gives all types."""

CITYPERSONS_CATEGORIES = (
    "ignore region",
    "pedestrian",
    "rider",
    "sitting person",
    "person in unusual posture",
    "group of people",
)


def read_sodaa(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """SODA-A: `Annotations/{train,val,test}/*.json`, one per image, and `Images/*.jpg`.

    Polygons of more than four corners are kept (the authors' loader skips them): the box is around all corners. Empty files say
    nothing about their image, which is left out. Files of the authors' split tool (`cat_id`) are a problem: read the originals.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '{"annotations": [{"poly": [4, 0, 8, 4, 4, 8, 0, 4], "category_id": 0}]}'
    >>> with example({"Annotations/test/00001.json": text, "Images/00001.jpg": (9, 9)}) as root:
    ...     [record] = read_sodaa(root)
    >>> record.categories, record.boxes.tolist(), record.split
    (('airplane',), [[0.0, 0.0, 8.0, 8.0]], 'test')
    """
    reading = Reading("soda-a", root, on_problem)
    root = Path(root)
    folders = {split: root / "Annotations" / split for split in ("train", "val", "test")}
    for split, folder in reading.present(folders, "Annotations/{}/*.json").items():
        images = reading.images(root / "Images", root / "Images" / split)
        for file in sorted(folder.glob("*.json")):
            if file.stat().st_size == 0:
                reading.known(file, "file", "content", "an empty file, its image is left out")
                continue
            data = reading.json(file)
            if data is None:
                continue
            if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
                reading.wrong(file, "file", "annotations", "expected an object with the list annotations")
                continue
            objects = [o for i, row in enumerate(data["annotations"]) if (o := _sodaa_object(reading, file, i, row)) is not None]
            path = images.get(file.stem, root / "Images" / f"{file.stem}.jpg")
            record = reading.record(path, objects, file=file, split=split)
            if record is not None:
                yield record


def _sodaa_object(reading: Reading, file: Path, i: int, row: Any) -> Found | None:
    where = f"annotations[{i}]"
    poly, category = (row.get("poly"), row.get("category_id")) if isinstance(row, dict) else (None, None)
    if isinstance(row, dict) and category is None and "cat_id" in row:
        reading.wrong(file, where, "cat_id", "a file of the split tool, expected the original annotation with category_id")
    elif type(category) is not int or not 0 <= category < len(SODAA_CATEGORIES):
        reading.wrong(file, where, "category_id", f"expected 0 to {len(SODAA_CATEGORIES) - 1}, got {category!r}")
    elif not (isinstance(poly, list) and len(poly) >= 6 and len(poly) % 2 == 0 and all(type(v) in (int, float) for v in poly)):
        reading.wrong(file, where, "poly", f"expected x1, y1, x2, y2, ... of at least three corners, got {poly!r:.80}")
    else:
        corners, name = np.array(poly, float).reshape(-1, 2), SODAA_CATEGORIES[category]
        return Found(where, name, box_of(corners), ignore=name == "ignore", polygon=corners)
    return None


def read_xview(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """xView: `xView_train.geojson` and `train_images/*.tif`; only the training labels are public.

    Boxes are cut to their image. Known defects: boxes that are empty or no four numbers, types that are in no list of classes,
    and the image 1395.tif, which has labels and was never published. Images without labels are images without objects.

    Choice: each feature is reduced to its three fields while the file is parsed, or its 600,000 features would fill the memory.

    >>> from dealkit.data.sources.readers.reading import example
    >>> row = '{"type": "Feature", "properties": {"image_id": "5.tif", "bounds_imcoords": "1,2,30,6", "type_id": 18}}'
    >>> with example({"xView_train.geojson": f'{{"features": [{row}]}}', "train_images/5.tif": (9, 9)}) as root:
    ...     [record] = read_xview(root)
    >>> record.categories, record.boxes.tolist()
    (('Small Car',), [[1.0, 2.0, 9.0, 6.0]])
    """
    reading = Reading("xview", root, on_problem)
    root = Path(root)
    file = reading.first("xView_train.geojson", "*/xView_train.geojson") or root / "xView_train.geojson"
    folder = reading.first("train_images", "*/train_images") or root / "train_images"

    def short(row: dict[str, Any]) -> Any:
        if "bounds_imcoords" in row:
            return row.get("image_id"), row["bounds_imcoords"], row.get("type_id")
        return row.get("properties") if row.get("type") == "Feature" else row

    data = reading.json(file, object_hook=short)
    if data is None:
        return
    if not isinstance(data, dict) or not isinstance(data.get("features"), list):
        reading.wrong(file, "file", "features", "expected GeoJSON, an object with the list features")
        return
    objects: dict[str, list[Found]] = defaultdict(list)
    for i, row in enumerate(data["features"]):
        where = f"features[{i}]"
        if not (isinstance(row, tuple) and isinstance(row[0], str)):
            reading.wrong(file, where, "properties", "expected image_id, bounds_imcoords and type_id")
            continue
        name, bounds, type_id = row
        words = str(bounds).split(",")
        category = XVIEW_CATEGORIES.get(type_id) if isinstance(type_id, int) else None
        if category is None:
            reading.known(file, where, "type_id", f"{type_id!r} is in no list of classes")
        elif len(words) != 4 or not all(word.strip().lstrip("-").replace(".", "", 1).isdigit() for word in words):
            reading.known(file, where, "bounds_imcoords", f"expected four numbers x1,y1,x2,y2, got {bounds!r:.60}")
        else:
            objects[name].append(Found(where, category, [float(word) for word in words]))
    images = {path.name for path in reading.images(folder).values()}
    for name in sorted(images | objects.keys(), key=lambda n: (len(n), n)):
        if name not in images and name == "1395.tif":
            reading.known(file, "image 1395.tif", "image_id", "was never published")
            continue
        record = reading.record(folder / name, objects[name], file=file, where=f"image {name}", split="train")
        if record is not None:
            yield record


def read_bdd100k(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """BDD100K detection: `labels/det_20/det_{train,val}.json` (or the first release's) and `images/100k/{train,val}`.

    Names of the first release (`person`, `bike`, `motor`) become today's. `other person`, `other vehicle`, `trailer` and crowds
    are ignored objects; lanes and drivable areas, which have no box, are no objects. Frames without `labels` are images without
    objects. The labels of the test split are not public.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''[{"name": "a.jpg", "labels": [{"category": "person", "box2d": {"x1": 1, "y1": 2, "x2": 4, "y2": 6}}]}]'''
    >>> with example({"labels/det_20/det_val.json": text, "images/100k/val/a.jpg": (9, 9)}) as root:
    ...     [record] = read_bdd100k(root)
    >>> record.categories, record.boxes.tolist()
    (('pedestrian',), [[1.0, 2.0, 4.0, 6.0]])
    """
    reading = Reading("bdd100k", root, on_problem)
    places = ("labels/det_20/det_{}.json", "det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json", "**/det_20/det_{}.json")
    files = {split: reading.first(*(place.format(split) for place in places)) for split in ("train", "val")}
    for split, file in reading.present(files, "labels/det_20/det_{}.json").items():
        folder = reading.first(f"images/100k/{split}", f"*/images/100k/{split}") or reading.root / "images" / "100k" / split
        frames = reading.json(file)
        if isinstance(frames, dict):
            frames = frames.get("frames")
        if frames is not None and not isinstance(frames, list):
            reading.wrong(file, "file", "content", "expected a list of frames")
            continue
        for i, frame in enumerate(frames or ()):
            where = f"frames[{i}]"
            if not isinstance(frame, dict) or not isinstance(frame.get("name"), str):
                reading.wrong(file, where, "name", f"expected a frame with a name, got {frame!r:.60}")
                continue
            objects = []
            for k, label in enumerate(frame.get("labels") or ()):
                at = f"{where}.labels[{k}]"
                box, name = (label.get("box2d"), label.get("category")) if isinstance(label, dict) else (None, None)
                if isinstance(label, dict) and box is None:
                    continue
                name = BDD100K_OLD.get(name, name)
                attributes = label.get("attributes") if isinstance(label, dict) else None
                crowd = isinstance(attributes, dict) and bool(attributes.get("crowd"))
                if name not in BDD100K_CATEGORIES + BDD100K_IGNORED:
                    reading.wrong(file, at, "category", f"expected one of {', '.join(BDD100K_CATEGORIES)}, got {name!r}")
                elif (corners := _corners(reading, file, at, box, ("x1", "y1", "x2", "y2"))) is not None:
                    objects.append(Found(at, name, corners, ignore=crowd or name in BDD100K_IGNORED))
            record = reading.record(folder / frame["name"], objects, file=file, where=where, split=split)
            if record is not None:
                yield record


def read_tt100k(root: str | Path, *, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """TT100K: `annotations_all.json` (2021) or `annotations.json` (2016) and the images it names, in `train`, `test` and `other`.

    All types of signs are given; `TT100K_COMMON` are the 45 that papers use. Numbers of `ids.txt` without an entry are known
    defects. Images of `other` have no split.

    >>> from dealkit.data.sources.readers.reading import example
    >>> text = '''{"types": ["i2"], "imgs": {"7": {"id": 7, "path": "test/7.jpg", "objects": [
    ...     {"category": "i2", "bbox": {"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6}}]}}}'''
    >>> with example({"annotations_all.json": text, "test/7.jpg": (9, 9)}) as root:
    ...     [record] = read_tt100k(root)
    >>> record.categories, record.boxes.tolist(), record.split
    (('i2',), [[1.0, 2.0, 4.0, 6.0]], 'test')
    """
    reading = Reading("tt100k", root, on_problem)
    names = ("annotations_all.json", "annotations.json")
    file = reading.first(*names, *(f"*/{name}" for name in names)) or reading.root / names[0]
    data = reading.json(file)
    if data is None:
        return
    if not isinstance(data, dict) or not isinstance(data.get("imgs"), dict):
        reading.wrong(file, "file", "imgs", "expected an object with imgs, the images by number")
        return
    images = data["imgs"]
    for split in ("train", "test", "other"):
        ids = file.parent / split / "ids.txt"
        for where, line in reading.lines(ids) if ids.is_file() else ():
            if line not in images:
                reading.known(ids, where, "id", f"{line} has no entry in {file.name}")
    for number in sorted(images, key=lambda n: (len(n), n)):
        row, where = images[number], f"image {number}"
        if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not isinstance(row.get("objects", []), list):
            reading.wrong(file, where, "record", f"expected a path and the list objects, got {row!r:.60}")
            continue
        objects = []
        for k, item in enumerate(row.get("objects", [])):
            at = f"{where}.objects[{k}]"
            name, box = (item.get("category"), item.get("bbox")) if isinstance(item, dict) else (None, None)
            if not (isinstance(name, str) and name):
                reading.wrong(file, at, "category", f"expected a name, got {name!r}")
            elif (corners := _corners(reading, file, at, box, ("xmin", "ymin", "xmax", "ymax"))) is not None:
                objects.append(Found(at, name, corners))
        split = row["path"].split("/")[0]
        split = split if split in ("train", "test") else ""
        record = reading.record(file.parent / row["path"], objects, file=file, where=where, split=split)
        if record is not None:
            yield record


def read_citypersons(root: str | Path, *, visible: bool = True, on_problem: OnProblem | None = None) -> Iterator[ImageRecord]:
    """CityPersons: `annotations/anno_{train,val}.mat` and Cityscapes' `leftImg8bit/{train,val}/<city>/*.png`.

    Regions to ignore and groups of people are ignored objects. Images of one city are one group. The authors' metric is the
    log-average miss rate of pedestrians, full body; ours is AP.

    Args:
        visible: boxes of the visible part. Choice: the other sources have such boxes, and a click on the centre of a full body
            can fall on what hides it. False gives the full bodies.

    >>> import io
    >>> from scipy.io import savemat
    >>> from dealkit.data.sources.readers.reading import example
    >>> cells = np.empty((1, 1), object)
    >>> cells[0, 0] = {"cityname": "ulm", "im_name": "ulm_0.png", "bbs": np.array([[1, 1, 1, 4, 8, 7, 2, 1, 2, 4]])}
    >>> savemat(file := io.BytesIO(), {"anno_train_aligned": cells})
    >>> with example({"annotations/anno_train.mat": file.getvalue(), "leftImg8bit/train/ulm/ulm_0.png": (9, 9)}) as root:
    ...     [record] = read_citypersons(root)
    >>> record.categories, record.boxes.tolist(), record.group
    (('pedestrian',), [[2.0, 1.0, 4.0, 5.0]], 'ulm')
    """
    from scipy.io import loadmat

    reading = Reading("citypersons", root, on_problem)
    files = {
        split: reading.first(f"anno_{split}.mat", f"*/anno_{split}.mat", f"*/*/anno_{split}.mat") for split in ("train", "val")
    }
    for split, file in reading.present(files, "annotations/anno_{}.mat").items():
        try:
            cells = loadmat(file, simplify_cells=True)[f"anno_{split}_aligned"]
        except KeyError:
            reading.wrong(file, "file", f"anno_{split}_aligned", "no such variable")
            continue
        except Exception as error:  # SciPy raises many kinds for a broken file
            reading.wrong(file, "file", "content", f"not a MATLAB file: {error}")
            continue
        for i, cell in enumerate([cells] if isinstance(cells, dict) else cells):
            where = f"cell {i + 1}"
            if not (isinstance(cell, dict) and {"cityname", "im_name", "bbs"} <= cell.keys()):
                reading.wrong(file, where, "cell", "expected cityname, im_name and bbs")
                continue
            city, name = str(cell["cityname"]), str(cell["im_name"])
            objects = []
            for k, row in enumerate(np.asarray(cell["bbs"], float).reshape(-1, 10)):
                at = f"{where}.bbs[{k + 1}]"
                if row[0] not in range(len(CITYPERSONS_CATEGORIES)):
                    reading.wrong(file, at, "class", f"expected 0 to {len(CITYPERSONS_CATEGORIES) - 1}, got {row[0]:g}")
                    continue
                x, y, width, height = row[6:] if visible and (row[8:] > 0).all() else row[1:5]
                category = CITYPERSONS_CATEGORIES[int(row[0])]
                objects.append(Found(at, category, (x, y, x + width, y + height), ignore=row[0] in (0, 5)))
            path = reading.root / "leftImg8bit" / split / city / name
            record = reading.record(path, objects, file=file, where=where, group=city, split=split)
            if record is not None:
                yield record


def _corners(reading: Reading, file: Path, where: str, box: Any, keys: tuple[str, ...]) -> list[float] | None:
    values = [box.get(key) for key in keys] if isinstance(box, dict) else []
    if len(values) == 4 and all(type(v) in (int, float) for v in values):
        return values
    reading.wrong(file, where, "box", f"expected the numbers {', '.join(keys)}, got {box!r:.80}")
    return None
