"""What was found on a map, where it lies on the earth: GeoJSON and GeoPackage."""

import io
from pathlib import Path

import numpy as np

from dealkit.data.raster import Raster
from dealkit.files import write_atomically
from dealkit.predict.detections import Detections

DRIVERS = {".geojson": "GeoJSON", ".gpkg": "GPKG"}
"""Suffix of a file -> what GDAL calls its format."""


def write_map(path: Path, found: Detections, raster: Raster, kind: str = "object", *, map_crs: bool = False) -> None:
    """Write boxes as outlines with `kind` and `score`.

    A `.gpkg` has the coordinates of the map, a `.geojson` longitude and latitude (WGS 84), as its standard, RFC 7946, wants. A
    box becomes the four-cornered outline of its pixels, also where the map is turned.

    Args:
        map_crs: a `.geojson` has the coordinates of the map, too, and names their system in `crs`, as before the standard.

    Raises:
        ValueError: the map has no coordinates; names it.
        OSError: the system refuses; names the file.
    """
    from pyogrio.raw import write

    if raster.crs is None:
        raise ValueError(f"{raster.path}: has no coordinates; expected a map, or --out as .json or .csv in pixels")
    polygon = np.zeros(len(found), [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
    polygon["order"], polygon["kind"], polygon["rings"], polygon["points"] = 1, 3, 1, 5  # well-known binary, little end first
    polygon["xy"] = raster.outlines(found.boxes)
    shapes = np.array([each.tobytes() for each in polygon] + [None], dtype=object)[:-1]  # objects, were it none
    fields = {"kind": np.array([kind] * len(found), dtype=object), "score": found.scores.double().numpy().round(4)}
    form = {"driver": DRIVERS[path.suffix.lower()], "geometry_type": "Polygon", "crs": raster.crs.to_wkt(), "layer": "found"}
    if form["driver"] == "GeoJSON":
        form["RFC7946"] = "NO" if map_crs else "YES"
    made = io.BytesIO()
    write(made, shapes, list(fields.values()), list(fields), **form)
    write_atomically(path, lambda temporary: temporary.write_bytes(made.getvalue()))
