"""Image files of any kind as RGB tensors."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 2**30
"""Most pixels an image may have, 3 GiB as RGB.

Choice: Pillow's own limit, a sixth of this, refuses the largest aerial images; with none, a made file could fill the memory.
"""

if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


def read_image(path: str | Path | BinaryIO) -> Tensor:
    """Read an image file, or an open one, as RGB, upright: (3, H, W) uint8, contiguous.

    EXIF rotation is applied; grey, palette, CMYK and 1-bit images become RGB; of several frames or pages the first is read.

    Choice: 16-bit grey is taken to have 8, 10, 12, 14 or 16 bits, the fewest that hold its largest value, and all of that
    range is scaled to 0..255. Division by 257 would show 12-bit cameras nearly black; stretching from minimum to maximum
    would make one thing look different in every image. Choice: float pixels must lie in 0..1.

    Choice: transparent images are laid over black, which is how mosaics show ground that was not seen; the colour hidden
    under a transparent pixel never shows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, truncated, larger than `MAX_PIXELS`, or pixel values without a defined white; names the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("LA", (4, 2), (200, 255)).save(f"{folder}/grey.png")
    ...     read_image(f"{folder}/grey.png")[:, 0, 0]
    tensor([200, 200, 200], dtype=torch.uint8)
    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"{file.width} x {file.height} pixels, expected at most {MAX_PIXELS}: cut it into tiles")
            file.load()
            upright = ImageOps.exif_transpose(file)
            pixels = np.array(_to_rgb(upright))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image in any format that Pillow reads") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: Pillow's own conversion clips them at 255
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise ValueError(f"float pixels from {low} to {high}, expected 0 to 1")
        return np.rint(values * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high}, expected 0 to 65535")
    white = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return np.rint(values.astype(np.float32) * (255 / white)).astype(np.uint8)
