"""Maps and images too large for the memory: read window by window, and where a pixel lies on the earth.

Pixels are those of the file, (0, 0) its top-left corner. Needs the extra `geo`.
"""

import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dealkit.data.images import AnyImage, as_image, shown_range, to_eight_bits
from dealkit.files import tell

MAPS = (".tif", ".tiff", ".jp2", ".vrt")
"""What the names of files end in that can be maps; a `.vrt` joins many sheets."""

WHOLE = 2**26
"""Pixels up to which a file without coordinates is read whole, as any image."""

PATCHES, PATCH = 16, 64
"""Rows and columns of patches, and their side in pixels, that tell which values of other than 8 bits become black and white.
Choice: the overviews in a file hold means, which lack the extremes; a whole file takes minutes to read."""

LONLAT = "EPSG:4326"


class Raster:
    """An image file that is read where it is sliced: `raster[:, y1:y2, x1:x2]` is (3, h, w) uint8 as of `as_image`.

    No-data, what a mask or an opacity of 0 hides, and NaN are black. Values of other than 8 bits are shown by the rules of
    `as_image`, applied to patches all over the file, so that every window is shown alike.

    >>> import tempfile, tifffile
    >>> file = Path(tempfile.mkdtemp(), "a.tif")
    >>> tifffile.imwrite(file, np.full((40, 60, 3), 7, dtype=np.uint8))
    >>> raster = Raster(file)
    >>> raster.shape, raster[:, 10:20, 50:60].shape, raster.crs is None
    ((3, 40, 60), torch.Size([3, 10, 10]), True)
    """

    def __init__(self, path: str | Path, *, bands: Sequence[int] = (), window: tuple[float, float] | None = None):
        """Open a file.

        Args:
            bands: one (grey) or three (red, green, blue), from 1; the first three, or the first of fewer, if not given.
            window: the values shown as black and as white.

        Raises:
            ValueError: rasterio is not installed, the file is not a raster, or it has not those bands; names the file.
        """
        os.environ.setdefault("GDAL_CACHEMAX", "200")  # MB; else a twentieth of the memory
        try:
            import rasterio
        except ImportError:
            raise ValueError(f"{path}: read in windows by rasterio; expected it: pip install 'dealkit[geo]'") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self.file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise ValueError(f"{path}: cannot be read as a map: {error}") from None
        self.path, self.crs, self.transform = Path(path), self.file.crs, self.file.transform
        kinds = [kind.name for kind in self.file.colorinterp]
        colours = [band for band, kind in enumerate(kinds, 1) if kind != "alpha"]
        if bands and (len(bands) not in (1, 3) or not all(1 <= band <= len(kinds) for band in bands)):
            raise ValueError(f"{path}: bands: expected one or three of 1 to {len(kinds)}, got {', '.join(map(str, bands))}")
        if not bands and len(colours) not in (1, 3):
            tell(f"{path}: {len(kinds)} bands: the first are shown; `bands` chooses others")
        self.bands = list(bands) or (colours[:3] if len(colours) > 2 else colours[:1])
        self.palette = None
        if kinds[self.bands[0] - 1] == "palette":
            colormap = self.file.colormap(self.bands[0])
            self.palette = np.uint8([colormap.get(value, (0, 0, 0, 0))[:3] for value in range(256)])
        self.window = window
        if window is None and {self.file.dtypes[band - 1] for band in self.bands} != {"uint8"}:
            self.window = shown_range(self._sample(), str(path))

    @property
    def shape(self) -> tuple[int, int, int]:
        """3, height, width."""
        return 3, self.file.height, self.file.width

    def __getitem__(self, window: tuple[slice, slice, slice]) -> Tensor:
        _, height, width = self.shape
        (y1, y2, _), (x1, x2, _) = window[1].indices(height), window[2].indices(width)
        return self._pixels(*self._values(x1, y1, x2, y2))

    def preview(self, side: int = 2000) -> Tensor:
        """The whole, its longer side at most `side` pixels, by every n-th pixel or the overviews in the file."""
        _, height, width = self.shape
        scale = min(1.0, side / max(height, width))
        return self._pixels(*self._values(0, 0, width, height, (max(round(height * scale), 1), max(round(width * scale), 1))))

    def to_pixels(self, lonlat: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """Points of (longitude, latitude) in degrees as x, y pixels.

        Raises:
            ValueError: the file has no coordinates, or a point lies outside it; names the file.
        """
        from rasterio.warp import transform

        if self.crs is None:
            raise ValueError(f"{self.path}: has no coordinates; expected clicks as pixels x y")
        points = []
        for place in lonlat:
            (east,), (north,) = transform(LONLAT, self.crs, [place[0]], [place[1]])
            x, y = ~self.transform * (east, north)
            if not (0 <= x <= self.shape[2] and 0 <= y <= self.shape[1]):
                raise ValueError(f"{self.path}: longitude {place[0]:g}, latitude {place[1]:g} lies outside the map")
            points.append((x, y))
        return points

    def outlines(self, boxes: Tensor) -> np.ndarray:
        """Boxes (N, 4) xyxy pixels as closed outlines (N, 5, 2) in the coordinates of the map, counterclockwise with north up."""
        x1, y1, x2, y2 = boxes.double().numpy().T
        x, y = np.stack([x1, x1, x2, x2, x1], axis=1), np.stack([y1, y2, y2, y1, y1], axis=1)
        return np.stack(self.transform * (x, y), axis=-1)

    def _values(self, x1: int, y1: int, x2: int, y2: int, out: tuple[int, int] | None = None) -> Any:
        """(h, w, C) values of a window, scaled to `out` if given, and (h, w) bool: no data."""
        out_shape = out and (len(self.bands), *out)
        values = self.file.read(self.bands, window=((y1, y2), (x1, x2)), out_shape=out_shape, masked=True)
        missing, values = np.ma.getmaskarray(values).any(0), np.moveaxis(values.data, 0, -1)
        if self.palette is not None:
            values = self.palette[values[..., 0]]
        if values.dtype.kind == "f":
            missing |= ~np.isfinite(values).all(-1)
        return values, missing

    def _pixels(self, values: np.ndarray, missing: np.ndarray) -> Tensor:
        if missing.any():
            values = np.where(missing[..., None], values.dtype.type(0), values)
        pixels = to_eight_bits(values, str(self.path), self.window).copy()
        pixels[missing] = 0
        return torch.from_numpy(pixels).permute(2, 0, 1).expand(3, -1, -1).contiguous()

    def _sample(self) -> np.ndarray:
        """(V, C) values that are data, of patches all over the file."""
        _, height, width = self.shape
        columns, rows = (np.unique(np.linspace(0, max(length - PATCH, 0), PATCHES).astype(int)) for length in (width, height))
        parts = [self._values(x, y, min(x + PATCH, width), min(y + PATCH, height)) for y in rows for x in columns]
        return np.concatenate([values[~missing] for values, missing in parts])


def open_image(
    image: AnyImage | Raster,
    *,
    page: int | None = None,
    bands: Sequence[int] = (),
    window: tuple[float, float] | None = None,
) -> Tensor | Raster:
    """`as_image`, but a file that is a map, or too large to be read whole, as a `Raster` if rasterio is installed."""
    if isinstance(image, Raster):
        return image
    if page is None and is_map(image):
        raster = Raster(image, bands=bands, window=window)
        if raster.crs is not None or raster.shape[1] * raster.shape[2] > WHOLE:
            return raster
    return as_image(image, page=page, bands=bands, window=window)


def is_map(image: Any) -> bool:
    """Whether this is the path of a file that rasterio, if it is installed, reads in windows."""
    return isinstance(image, str | Path) and Path(image).suffix.lower() in MAPS and bool(importlib.util.find_spec("rasterio"))
