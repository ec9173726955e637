"""Any image as RGB: files of all kinds, PIL images, arrays and tensors, read by one set of rules."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dealkit.files import tell

if TYPE_CHECKING:  # `as_array` reads images where there is no torch
    from torch import Tensor

AnyImage = Union[str, Path, "Tensor", np.ndarray, Image.Image]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in 0..1 with which torchvision's backbones were trained."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation that goes with `IMAGENET_MEAN`."""

MAX_PIXELS = 2**30
"""Most pixels an image may have, 3 GiB as RGB.

Choice: Pillow's own limit, a sixth of this, refuses the largest aerial images; with none, a made file could fill the memory.
"""

STRAY = 1000
"""One value in so many may lie outside what is shown, from black to white. Choice: hot pixels of a camera are fewer."""

_ORIENTATION, _NO_DATA = 0x0112, 42113  # TIFF tags; the second is GDAL's
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # axes to flip of an orientation; 5 to 8 swap the axes first

if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


def as_image(
    image: AnyImage,
    *,
    page: int | None = None,
    bands: Sequence[int] = (),
    window: tuple[float, float] | None = None,
) -> "Tensor":
    """Any form of an image as RGB, upright: (3, H, W) uint8. What was left out or rescaled is told in a line (`files.tell`).

    8-bit pixels stay as they are; EXIF rotation is applied; grey, palette, CMYK and 1-bit images become RGB. Transparent ones
    are laid over black, which is how mosaics show ground that was not seen. NaN and a raster's no-data value are black.

    Choice: other whole numbers have 8, 10, 12, 14 or 16 bits, the fewest that hold all values but one in `STRAY`, and
    that range becomes 0..255. Division by 257 shows 12-bit cameras nearly black; so does the largest value, if one pixel is hot.
    Stretching from minimum to maximum shows one thing differently in every image. Floats are taken as 0..1. Values that fit
    neither are shown from the 0.1 to the 99.9 percentile of all bands.

    Args:
        image: a path; a PIL image; an (H, W) or (H, W, C) array; an (H, W) or (C, H, W) tensor. Four uint8 bands are RGB and
            opacity. Any real numbers.
        page: of a file of several pages or frames, from 1; the first if not given.
        bands: one (grey) or three (red, green, blue) of C bands, from 1; the first three if not given.
        window: the values shown as black and as white, instead of the rules above.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, truncated, larger than `MAX_PIXELS`, without that page or band; names the file.

    >>> as_image(np.array([[0, 4095]], dtype=np.uint16))[0].tolist()
    [[0, 255]]
    >>> as_image(np.zeros((2, 4, 5)), bands=[5, 3, 1], window=(-1, 1)).shape
    torch.Size([3, 2, 4])
    """
    import torch

    plain = isinstance(image, torch.Tensor) and not bands and not window and page in (None, 1)
    if plain and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3 and image.numel():
        return image
    return torch.from_numpy(as_array(image, page=page, bands=bands, window=window))


def as_array(
    image: AnyImage, *, page: int | None = None, bands: Sequence[int] = (), window: tuple[float, float] | None = None
) -> np.ndarray:
    """`as_image` as an array, without torch but for PNG files of 16 bits and colours.

    >>> as_array(Image.new("L", (4, 2), 200)).shape
    (3, 2, 4)
    """
    if isinstance(image, str | Path):
        return _read(image, page, bands, window)
    if page not in (None, 1):
        raise ValueError(f"page: expected a file, got a {type(image).__name__}")
    opacity = False
    if isinstance(image, Image.Image):
        values, opacity = _of_pil(ImageOps.exif_transpose(image))
    elif isinstance(image, np.ndarray) or hasattr(image, "detach"):
        if hasattr(image, "detach"):  # a tensor
            values = image.detach().cpu()
            values = (values.float() if values.is_floating_point() and values.element_size() == 2 else values).numpy()
            values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
        else:
            values = image
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or not values.size or not (bands or values.shape[2] in (1, 3, 4)):
            form = "(H, W) or (3, H, W) tensor, (H, W) or (H, W, 3) array, or bands to choose"
            raise ValueError(f"image: expected {form}; got {tuple(image.shape)} {image.dtype}")
        opacity = values.dtype == np.uint8 and values.shape[2] == 4
    else:
        raise ValueError(f"image: expected a path, tensor, array or PIL image, got {type(image).__name__}")
    return _to_rgb(values, opacity, "image", bands, window)


def read_image(
    path: str | Path, *, page: int | None = None, bands: Sequence[int] = (), window: tuple[float, float] | None = None
) -> "Tensor":
    """`as_image` of a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("LA", (4, 2), (200, 255)).save(f"{folder}/grey.png")
    ...     read_image(f"{folder}/grey.png")[:, 0, 0]
    tensor([200, 200, 200], dtype=torch.uint8)
    """
    return as_image(path, page=page, bands=bands, window=window)


def _read(path: str | Path, page: int | None, bands: Sequence[int], window: tuple[float, float] | None) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        tiff = start[:2] in (b"II", b"MM") and start[2:] in (b"*\0", b"\0*", b"+\0", b"\0+")
        values, opacity = (_read_tiff if tiff else _read_file)(Path(path), page, bands)
        return _to_rgb(values, opacity, str(path), bands, window)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image in any format that Pillow or tifffile reads") from None
    except Exception as error:  # decoders raise anything on broken files
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error


def _read_file(path: Path, page: int | None, bands: Sequence[int]) -> tuple[np.ndarray, bool]:
    """Values (H, W, C) of a file, and whether the last band is opacity."""
    with Image.open(path) as file:
        _check_size(path, file.width, file.height, 1)
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # photographs with a preview
        file.seek(_index(path, page, frames))
        if file.format == "PNG" and file.tile and str(file.tile[0][3]).endswith("A;16B" if file.mode == "RGBA" else "RGB;16B"):
            import torch
            from torchvision.io import decode_image  # Pillow gives the upper eight bits only

            pixels = decode_image(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
            return _upright(pixels.permute(1, 2, 0).numpy(), file.getexif().get(_ORIENTATION)), file.mode == "RGBA"
        file.load()
        return _of_pil(ImageOps.exif_transpose(file))


def _read_tiff(path: Path, page: int | None, bands: Sequence[int]) -> tuple[np.ndarray, bool]:
    """As `_read_file`: grey and RGB of any depth and any number of bands by tifffile, palettes, bits and CMYK by Pillow."""
    import tifffile  # here: most data sets have none

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said by the error
    with tifffile.TiffFile(path) as file:
        pages = [i for i, p in enumerate(file.pages) if not p.is_reduced] or [0]  # overviews are no pages
        frame = pages[_index(path, page, len(pages))]
        about = file.pages[frame].aspage()
        samples, extra = about.samplesperpixel, about.extrasamples
        _check_size(path, about.imagewidth, about.imagelength, samples)
        if about.photometric <= 2 and about.bitspersample >= 8 or samples > 4:
            try:
                values = _of_page(about)
                if bands or not (len(extra) == 1 and extra[0] in (1, 2)):
                    return values, False
                return (values, True) if extra[0] == 2 else (values[..., :-1], False)  # 1: laid over black already
            except ValueError:  # without imagecodecs tifffile lacks LZW and others, of which Pillow reads what is usual
                if bands or samples > 1 and (about.bitspersample > 8 or samples > 3):
                    raise
    with Image.open(path) as image:
        image.seek(frame)
        image.load()
        return _of_pil(ImageOps.exif_transpose(image))


def _of_page(page: "tifffile.TiffPage") -> np.ndarray:  # noqa: F821 (imported when there is a TIFF)
    """(H, W, C) of a TIFF page, of any number of bands in any arrangement; NaN where the file says that there is no data."""
    values = page.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values[..., None] if page.axes == "YX" else values
    if values.ndim != 3:
        raise ValueError(f"axes {page.axes}, expected one image")
    if page.photometric == 0 and values.dtype.kind == "u":  # white is zero
        values = np.iinfo(values.dtype).max - values
    if _NO_DATA in page.tags:
        missing = values == np.array(float(page.tags[_NO_DATA].value)).astype(values.dtype)
        if missing.any():
            values = np.where(missing, np.nan, values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32))
    orientation = page.tags.get(_ORIENTATION)
    return _upright(values, orientation.value if orientation else 1)


def _upright(values: np.ndarray, orientation: int | None) -> np.ndarray:
    values = values.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else values
    return np.flip(values, _FLIPS.get(orientation, ()))


def _check_size(path: Path, width: int, height: int, samples: int) -> None:
    if width * height * max(samples / 4, 1) > MAX_PIXELS:
        of = f" of {samples} bands" if samples > 4 else ""
        raise ValueError(f"{path}: {width} x {height} pixels{of}, expected at most {MAX_PIXELS}: cut it into tiles")


def _index(path: Path, page: int | None, pages: int) -> int:
    if page is None and pages > 1:
        tell(f"{path}: page 1 of {pages} is read; `page` chooses another")
    page = 1 if page is None else page
    if not 1 <= page <= pages:
        raise ValueError(f"{path}: page: expected 1 to {pages}, got {page}")
    return page - 1


def _of_pil(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Values (H, W, C) of a PIL image, and whether the last band is opacity."""
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: Pillow's own conversion clips them at 255
        return np.asarray(image)[..., None], False
    opacity = image.has_transparency_data
    mode = "RGBA" if opacity else "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None], opacity


def _to_rgb(values: np.ndarray, opacity: bool, name: str, bands: Sequence[int], window: tuple[float, float] | None) -> np.ndarray:
    if values.dtype.kind not in "buif":
        raise ValueError(f"{name}: {values.dtype} pixels, expected real numbers")
    count, cover = values.shape[2], None
    if bands:
        if len(bands) not in (1, 3) or not all(1 <= band <= count for band in bands):
            raise ValueError(f"{name}: bands: expected one or three of 1 to {count}, got {', '.join(map(str, bands))}")
        values = values[..., [band - 1 for band in bands]]
    elif opacity:
        values, cover = values[..., :-1], values[..., -1:]
    elif count not in (1, 3):
        shown = "band 1 is shown in grey" if count == 2 else "bands 1, 2, 3 are shown as red, green, blue"
        tell(f"{name}: {count} bands: {shown}; `bands` chooses others")
        values = values[..., : 1 if count == 2 else 3]
    pixels = to_eight_bits(values, name, window)
    if cover is not None:
        white = np.iinfo(cover.dtype).max if cover.dtype.kind in "ui" else 1
        pixels = np.rint(pixels * (cover.astype(np.float32) / white)).clip(0, 255).astype(np.uint8)
    return np.array(np.broadcast_to(np.moveaxis(pixels, 2, 0), (3, *pixels.shape[:2])), order="C")


def to_eight_bits(values: np.ndarray, name: str, window: tuple[float, float] | None) -> np.ndarray:
    if values.dtype == np.uint8 and window is None:
        return values
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    missing = np.zeros(values.shape[:2], dtype=bool)
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values).all(-1)
        if missing.any():
            tell(f"{name}: {missing.sum()} of {missing.size} pixels are no data (NaN, infinite or so named): read as black")
            values = np.where(missing[..., None], 0, values)
    if window is None:
        low, high = shown_range(values[~missing] if missing.any() else values, name)
    else:
        low, high = window
        if not (np.isfinite(window).all() and low < high):
            raise ValueError(f"{name}: window: expected two numbers, black below white, got {low} and {high}")
    wide = values.dtype.itemsize > (4 if values.dtype.kind == "f" else 2)
    real = values.astype(np.float64 if wide else np.float32)
    pixels = np.rint(((real - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)
    pixels[missing] = 0
    return pixels


def shown_range(values: np.ndarray, name: str) -> tuple[float, float]:
    """The values that become 0 and 255, by the rules of `as_image`."""
    if not values.size:
        return 0, 1
    stray, low, high = values.size // STRAY, values.min(), values.max()
    whole = values.dtype.kind != "f" or (high > 1 and (values == np.rint(values)).all())
    for white in (255, 1023, 4095, 16383, 65535) if whole else (1,):
        out = int(np.count_nonzero(values < 0) + np.count_nonzero(values > white)) if low < 0 or high > white else 0
        if out <= stray:
            if out:
                tell(
                    f"{name}: values from {low:g} to {high:g}, {out} outside 0 to {white}, the range shown; `window` sets another"
                )
            return 0, white
    black, white = (float(v) for v in np.percentile(values.reshape(-1)[:: values.size // 2**20 + 1], (0.1, 99.9)))
    tell(
        f"{name}: values from {low:g} to {high:g}, shown from {black:g} (black) to {white:g} (white); `window` sets another range"
    )
    return black, white if white > black else black + 1
