"""Image files made odd or broken, for the tests of everything that reads them."""

from PIL import Image


def save_rotated(path, *, size=(20, 10)):
    """Black, white in the upper left quarter of the stored pixels; EXIF 6: turn clockwise to be upright."""
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, size[0] // 2, size[1] // 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
