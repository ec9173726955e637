"""The command that finds: in one image, in every image of a folder, in a COCO data set."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dealkit.cli.checks import (
    FIGURES,
    Maybe,
    Outside,
    Several,
    check_coco,
    check_folder,
    check_graphs,
    check_image,
    check_json,
    check_map,
    check_out,
    check_place,
    check_points,
    check_weights,
    is_figure,
    is_weights,
    starts,
)
from dealkit.config import DEFAULT_CHECKPOINT, BuildConfig, check_range
from dealkit.files import sha_of, write_json, write_text
from dealkit.jobs import journal, stop_request
from dealkit.predict.folder import JOURNAL, FolderPrompt, list_images, predict_folder
from dealkit.predict.formats import FORMATS, Findings, check_names, write_formats
from dealkit.predict.threshold import ADAPTIVE, check_threshold

Points = Annotated[list[tuple[float, float]], tyro.conf.arg(metavar="X Y"), tyro.conf.UseAppendAction]

Boxes = Annotated[list[tuple[float, float, float, float]], tyro.conf.arg(metavar="X1 Y1 X2 Y2"), tyro.conf.UseAppendAction]

SHARED = {"point", "not_point", "box", "of", "embedding", "threshold", "tile", "overlap", "out", "rounds", "reading"}
MODES = {
    "IMAGE": SHARED | {"figure", "save_embedding", "page", "bands", "window", "lonlat", "map_crs"},
    "FOLDER": SHARED | {"format", "kind", "no_sheet", "engine", "workers"},
    "--coco": {"images", "clicks", "tile", "overlap", "out", "drop", "allow_outside", "rounds", "reading", "together"},
}
"""What `predict` is given -> the options that have an effect then."""
OUTPUTS = {".json": ('{"boxes"',), ".csv": ("image,kind,score",), ".geojson": ('{"type":"FeatureCollection"',)}
OUTPUTS[".gpkg"] = ("SQLiteformat3",)
"""Suffix of the output for one image -> what the file begins with."""


def predict(
    image: tyro.conf.Positional[Maybe[Path]] = None,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    point: Points = [],  # noqa: B006
    not_point: Points = [],  # noqa: B006
    box: Boxes = [],  # noqa: B006
    lonlat: Points = [],  # noqa: B006
    of: Maybe[Path] = None,
    threshold: Maybe[float | Literal["adaptive"]] = None,
    coco: Maybe[Path] = None,
    images: Maybe[Path] = None,
    clicks: Maybe[Path] = None,
    out: Maybe[Path] = None,
    figure: Maybe[Path] = None,
    embedding: Maybe[Path] = None,
    save_embedding: Maybe[Path] = None,
    tile: Maybe[int] = None,
    overlap: Maybe[int] = None,
    rounds: Maybe[int] = None,
    reading: Maybe[Literal["once", "again"]] = None,
    together: bool = False,
    format: Several[Literal["coco", "yolo", "voc", "labelstudio", "cvat", "csv", "geojson"]] = (),
    kind: Maybe[str] = None,
    sheet: bool = True,
    page: Maybe[int] = None,
    bands: Several[int] = (),
    window: Maybe[tuple[float, float]] = None,
    map_crs: bool = False,
    drop: bool = False,
    allow_outside: Outside = False,
    engine: Maybe[Literal["ray"]] = None,
    workers: Maybe[int] = None,
    overwrite: bool = False,
) -> None:
    """Detect everything of the clicked kind in one image, in every image of a folder, or in a COCO data set.

    The kind is what lies at each --point, of IMAGE or of the image --of, or the --embedding of a click made before.
    A folder and a data set go on where they were stopped.

    Example: python -m dealkit predict photo.jpg --point 120 85 --out boxes.json --figure out.png

    Example: python -m dealkit predict map.tif --tile 1024 --lonlat 9.0017 45.1502 --out found.gpkg

    Example: python -m dealkit predict photos --of first.jpg --point 120 85 --out found --format coco csv

    Args:
        image: an image file, or a folder of them, with those in its folders.
        checkpoint: model weights; or, for one image, the folder of `python -m dealkit export onnx`, which starts sooner.
        point: pixel of an object; repeat for several objects of one kind.
        not_point: pixel of something that is not meant; repeatable.
        box: corners x1 y1 x2 y2 of a box drawn round an object: it says where the edges of all objects are; repeatable.
        lonlat: longitude and latitude of an object, degrees, on a map with coordinates; repeatable.
        of: image that the points lie in, if it is not IMAGE; looked for in the folder, too.
        threshold: lowest score written, or `adaptive`: a cut for each image, as if not given.
        coco: COCO JSON of a data set.
        images: folder of its images; `images` beside it, or its own, if not given.
        clicks: click list of `python -m dealkit clicks`.
        out: boxes and scores of one image as .json, .csv or .geojson; of a map as .gpkg, too, in its own coordinates, and as
            .geojson in longitude and latitude; folder of results of a folder; COCO results of a data
            set as .json.
        figure: picture to write, for one image.
        embedding: file of --save-embedding, instead of points: finds the kind that was clicked in another image.
        save_embedding: file to keep what the points mean in, for other images.
        tile: read images in tiles of this side in pixels, for those too large for the memory; a map is never read whole.
        overlap: pixels that tiles share; 128 if not given.
        rounds: passes of detection; each but the first has the surest detections of the one before as further prompts.
        reading: `again` reads an image again, larger or smaller, where what was clicked is under 8 px or over 192. If not given,
            images and folders are read again, and a data set once.
        together: the kinds clicked in an image of a data set are rivals: each object goes to one.
        format: files to write for other tools, from the results of a folder.
        kind: what the found kind is called in them.
        sheet: write a contact sheet of a folder, pages to check by eye.
        page: of an image file of several pages or frames, from 1.
        bands: bands shown as red, green and blue, or one in grey, from 1, of an image that has more than three.
        window: pixel values shown as black and as white, of an image that has not eight bits.
        map_crs: a .geojson of a map has the coordinates of the map instead.
        drop: leave out annotations of a data set without a positive width and height, and say how many.
        engine: `ray` shares a folder among the workers of a Ray cluster, of this machine or named by the variable RAY_ADDRESS,
            and writes no contact sheet; with --format this process reads all that was found into its memory.
        workers: CPUs of this machine for Ray; all if not given.
        overwrite: write over files that this command has not made, and over results of another request.
    """
    if (image is None) == (coco is None):
        raise ValueError("predict: expected either IMAGE or FOLDER with --point X Y, or --coco with --clicks")
    mode = "--coco" if image is None else "FOLDER" if image.is_dir() else "IMAGE"
    given = {"point": point, "not_point": not_point, "of": of, "threshold": threshold, "images": images, "clicks": clicks}
    given |= {"out": out, "figure": figure, "embedding": embedding, "save_embedding": save_embedding, "tile": tile}
    given |= {"overlap": overlap, "format": format, "kind": kind, "no_sheet": not sheet, "box": box}
    given |= {"lonlat": lonlat, "map_crs": map_crs, "page": page, "bands": bands, "window": window, "drop": drop}
    given |= {"allow_outside": allow_outside, "engine": engine, "workers": workers}
    given |= {"rounds": rounds, "reading": reading, "together": together}
    for name, value in given.items():
        if value not in (None, [], (), False) and name not in MODES[mode]:
            places = " or ".join(other for other, names in MODES.items() if name in names)
            raise ValueError(f"predict {mode}: --{name.replace('_', '-')} has no effect; expected it with {places}")
    check_threshold(ADAPTIVE if threshold is None else threshold)
    if overlap is not None and not tile:
        raise ValueError("predict --overlap: has no effect without --tile")
    shared = BuildConfig.overlap if overlap is None else overlap
    if tile is not None and not 0 <= shared < tile:
        raise ValueError(f"predict --tile {tile}: expected more than the {shared} pixels that tiles share (--overlap)")
    tiles = {"tile": tile or 0, "overlap": shared}
    whole = {"rounds": rounds, "reading": coco and reading, "together": together}  # what asks for an image in one piece
    for name in [name for name, value in whole.items() if value and tile]:
        raise ValueError(f"predict --{name}: has no effect with --tile")
    if rounds is not None:
        check_range("--rounds", rounds, 1, 10)
    passes = {"rounds": rounds or 1, "rescale": reading == "again" if coco else reading != "once"}
    if coco is not None:
        check_coco("--coco", coco, outside=allow_outside)
        _predict_coco(coco, images, clicks, out, checkpoint, overwrite, drop, **tiles, **passes, together=together)
        return
    if embedding is not None and (point or not_point or box or lonlat or save_embedding or of):
        raise ValueError("predict --embedding: expected no --point, --not-point, --box, --lonlat, --of or --save-embedding")
    if embedding is None and not (point or box or lonlat):
        raise ValueError(f"predict {mode}: expected at least one --point X Y, a --box, or --embedding")
    if mode == "FOLDER" and embedding is None and of is None:
        raise ValueError("predict FOLDER: expected --of IMAGE, which the points lie in, or --embedding")
    if mode == "FOLDER" and out is None:
        raise ValueError("predict FOLDER: expected --out FOLDER")
    if of is not None and not of.exists() and (image / of).is_file():
        of = image / of
    size_wh = check_image(image) if mode == "IMAGE" else None
    if of is not None:
        size_wh = check_image(of, "--of")
    suffix = out.suffix.lower() if out and mode == "IMAGE" else ".json"
    if suffix == ".gpkg" or map_crs:
        check_map(image, "--map-crs" if map_crs else f"--out {out}")
    if lonlat:
        check_map(of or image, "--lonlat")
        from dealkit.data.raster import Raster

        point = [*point, *Raster(of or image).to_pixels(lonlat)]
    for x1, y1, x2, y2 in box:
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"--box {x1:g} {y1:g} {x2:g} {y2:g}: expected x1 < x2 and y1 < y2")
    check_points([*point, *not_point, *(corner for b in box for corner in (b[:2], b[2:]))], size_wh, of or image)
    points, labels = (*point, *not_point), (1,) * len(point) + (0,) * len(not_point)
    inputs = [image, checkpoint, of, embedding]
    if (graphs := checkpoint.is_dir()) and (tile or mode == "FOLDER"):
        raise ValueError(f"--checkpoint {checkpoint}: is a folder; graphs read one image, whole: expected weights (.safetensors)")
    if graphs and rounds:
        raise ValueError("predict --rounds: has no effect with graphs")
    if mode == "FOLDER":
        check_place(out)
        check_folder(out if out.exists() else None, "--out")
        check_weights(checkpoint)
        check_weights(embedding, "prompt embedding")
        cut = ADAPTIVE if threshold is None else threshold
        about = {"checkpoint": checkpoint, "of": of, "embedding": embedding, "points": points, "labels": labels}
        asked = FolderPrompt(**about, boxes=tuple(box), threshold=cut, **tiles, **passes)
        kind = kind or (embedding.stem if embedding else "object")
        if workers is not None and engine is None:
            raise ValueError("predict --workers: has no effect without --engine ray")
        several = {"engine": engine, "workers": os.cpu_count() or 1 if workers is None else workers} if engine else {}
        _predict_folder(image, out, asked, format, kind, sheet and not engine, overwrite, **several)
        return
    check_out(out, inputs, suffixes=list(OUTPUTS), ours=starts(*OUTPUTS.get(suffix, ())), overwrite=overwrite)
    check_out(figure, inputs, suffixes=FIGURES, ours=is_figure, overwrite=overwrite, option="--figure")
    embeddings = {"suffixes": (".safetensors",), "ours": is_weights, "option": "--save-embedding"}
    check_out(save_embedding, [*inputs, out], **embeddings, overwrite=overwrite)
    (check_graphs if graphs else check_weights)(checkpoint)
    check_weights(embedding, "prompt embedding")
    from dealkit.data.images import as_array, as_image
    from dealkit.predict.embedding import load_embedding

    if tile:
        from dealkit.data.raster import open_image
        from dealkit.predict.tiles import embed_large, predict_large
    cut = ADAPTIVE if threshold is None else threshold
    if graphs:
        from dealkit.predict.onnx import OnnxPredictor

        predictor = OnnxPredictor(checkpoint, threshold=cut, rescale=passes["rescale"])

        def read(path: Path, **how: Any) -> Any:
            return as_array(path, **how).transpose(1, 2, 0)
    else:
        from dealkit.predict.predictor import Predictor

        predictor, read = Predictor(checkpoint, threshold=cut, **passes), open_image if tile else as_image
    meant = load_embedding(embedding, "np" if graphs else "pt") if embedding else None
    if of is not None or save_embedding is not None:
        where = of or image
        pixels = read(where, page=page, bands=bands, window=window)
        example = (points, labels, box)
        clicked = embed_large(predictor, pixels, example, **tiles) if tile else predictor.embed(pixels, points, labels, boxes=box)
        meant = clicked if of is not None else None
    pixels = read(image, page=page, bands=bands, window=window)
    if tile:
        asked = {"embedding": meant} if meant else {"prompts": [(points, labels, box)]}
        detections = predict_large(predictor, pixels, **asked, **tiles)[0]
    else:
        predictor.set_image(pixels)
        detections = predictor.predict_embedding(meant) if meant else predictor.predict(points, labels, boxes=box)
    print(f"{len(detections)} objects")
    if detections.nothing_certain and not len(detections):
        hint = "point at the middle of an object, draw a --box round one, or see all there is with --threshold 0"
        print(f"nothing certain where the points lie (score {detections.certain:.2f}): {hint}", file=sys.stderr)
    if save_embedding is not None:
        clicked.save(save_embedding)
        print(save_embedding)
    on_map = None
    if suffix in (".geojson", ".gpkg"):
        from dealkit.data.raster import Raster, is_map

        on_map = pixels if isinstance(pixels, Raster) else Raster(image) if is_map(image) else None
    if out is not None and suffix == ".json":
        write_json(out, detections.to_dict())
    elif on_map is not None and on_map.crs is not None:
        from dealkit.predict.maps import write_map

        write_map(out, detections, on_map, map_crs=map_crs)
    elif out is not None:
        height, width = detections.image.shape[1:]
        found = Findings(image=image.name, width=width, height=height, **detections.to_dict(), adaptive=0)
        write_text(out, *FORMATS[suffix[1:]]([found], "object").values())
    if out is not None:
        print(out)
    if figure is not None:
        detections.save_figure(figure)
        print(figure)


def _predict_folder(
    folder: Path,
    out: Path,
    prompt: FolderPrompt,
    formats: tuple[str, ...],
    kind: str,
    sheet: bool,
    overwrite: bool,
    **several: Any,
) -> None:
    """Results of a folder, then its files and totals; exit code 1 if an image could not be read, 130 if it was stopped."""
    if out.is_dir() and any(out.iterdir()) and not (out / JOURNAL).is_file() and not overwrite:
        raise ValueError(f"--out {out}: holds files but no {JOURNAL}; expected a new folder, or --overwrite")
    names, others = list_images(folder, out)
    check_names(names, formats)
    result = predict_folder(folder, out, prompt, images=names, overwrite=overwrite, **several)
    if result.left:
        _stopped(result.left, out)
    found = sorted(result.found, key=lambda each: each.image) if formats or sheet else result.found
    written = write_formats(found, folder, out, kind, formats)
    if sheet:
        from dealkit.predict.sheet import write_sheet

        written += write_sheet(found, folder, out, kind, result.failed)
    print(result.table())
    if others:
        print("other files:", ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items())))
    print(*written, sep="\n")
    sys.exit(1 if result.failed else 0)


def _predict_coco(
    coco: Path,
    images: Path | None,
    clicks: Path | None,
    out: Path | None,
    checkpoint: Path,
    overwrite: bool,
    drop: bool,
    **options: int,
) -> None:
    """COCO results of a data set; what is finished lies beside them until all is."""
    if clicks is None or out is None:
        raise ValueError("predict --coco: expected --clicks and --out, too")
    check_json("--clicks", clicks)
    check_folder(images, "--images")
    check_out(out, [coco, clicks, checkpoint], ours=starts('[{"image_id"', "[]"), overwrite=overwrite)
    check_weights(checkpoint)
    part = out.with_suffix(".part.jsonl")
    request = {"coco": sha_of(coco), "clicks": sha_of(clicks), "checkpoint": sha_of(checkpoint), **options}
    with journal(part, request, overwrite=overwrite) as (rows, add), stop_request() as stop:
        from dealkit.clicks import load_clicks
        from dealkit.data.annotations import read_coco
        from dealkit.data.coco import CocoFolder
        from dealkit.model.checkpoint import load_model
        from dealkit.predict.detections import to_rows
        from dealkit.predict.tiles import predict_data_set

        asked, done = load_clicks(clicks, read_coco(coco, drop=drop)), {row["image_id"] for row in rows}
        data = CocoFolder(coco, images, drop=drop)
        left = len({prompt["image_id"] for prompt in asked["prompts"]} - done)
        for image_id, found in predict_data_set(load_model(checkpoint), data, asked, done, **options):
            made = [row for prompt, each in found for row in to_rows(each, image_id, prompt["category_id"])]
            add({"image_id": image_id, "rows": made})
            left -= 1
            if stop.is_set() and left:
                _stopped(left, part)
        found = [row for image in rows for row in image["rows"]]
        write_json(out, found)
        part.unlink()
    print(f"{out}: {len(found)} detections")


def _stopped(left: int, place: Path) -> Any:
    print(f"stopped: {left} images are left; the same command goes on from {place}", file=sys.stderr)
    sys.exit(130)
