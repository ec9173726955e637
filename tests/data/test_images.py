"""`dealkit.data.images`: files, PIL images, arrays and tensors are read by one set of rules, and say what was left out."""

import numpy as np
import pytest
import tifffile
import torch
from conftest import noise
from image_cases import save_rotated, truncate
from PIL import Image

import dealkit.data.images as images
from dealkit import files
from dealkit.data.images import as_image, read_image

# Files


def test_a_colour_image_keeps_its_pixels(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_one_bit_and_palette_images_become_rgb(tmp_path, mode):
    image = Image.new("L", (3, 2), 255).convert(mode)
    image.putpixel((0, 0), 0)
    if mode == "P":
        image = Image.new("P", (3, 2), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    out = read_image(tmp_path / "a.png")
    assert out.shape == (3, 2, 3)
    assert out[:, 1, 2].tolist() == ([200, 100, 50] if mode == "P" else [255, 255, 255])
    assert mode == "P" or out[:, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 65535, 257], [0, 255, 1]),  # 16 bits: 257 * 255 / 65535 = 1
        ([0, 4095, 2048], [0, 255, 128]),  # 12 bits: 2048 * 255 / 4095 = 127.5, to even
        ([100, 1000, 512], [25, 249, 128]),  # 10 bits: 1000 * 255 / 1023 = 249.3; 512: 127.6
        ([0, 200, 7], [0, 200, 7]),  # 8 bits in a 16-bit file
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_by_its_bit_depth(tmp_path, values, expected, suffix):
    Image.fromarray(np.array([values], dtype=np.uint16)).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[1, 0].tolist() == expected


def test_big_endian_sixteen_bit_grey_is_read_alike(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([257, 65535], dtype=">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0, 0].tolist() == [1, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_black(tmp_path, mode):
    for alpha, expected in ((255, 200), (0, 0), (51, 40)):  # 200 * 51 / 255 = 40
        Image.new(mode, (2, 2), (200, alpha) if mode == "LA" else (200, 200, 200, alpha)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == [expected] * 3


def test_a_transparent_palette_entry_is_laid_over_black(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png")[:, 0].T.tolist() == [[10, 20, 30], [0, 0, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "a.jpg")[:, 4, 4].tolist()
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_rotation_is_applied(tmp_path, suffix):
    save_rotated(tmp_path / f"a.{suffix}", size=(32, 16))
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (3, 32, 16)
    assert image[0, 2, 13] > 200 and image[0, 2, 2] < 50  # upper left goes to upper right


def test_broken_exif_does_not_hide_the_pixels(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage")
    assert read_image(tmp_path / "a.jpg")[0, 4, 4] == 90


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    truncate(path)
    with pytest.raises(ValueError, match=f"a.{suffix}: "):
        read_image(path)


def test_what_is_no_image_and_what_is_missing_are_named(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    (tmp_path / "b.png").write_bytes(b"")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=f"{name}: not an image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"c\.png: no such image"):
        read_image(tmp_path / "c.png")


def test_an_image_above_the_pixel_limit_is_refused_with_its_size(tmp_path, monkeypatch):
    Image.new("1", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"a\.png: .*40 x 30 pixels, expected at most 1000"):
        read_image(tmp_path / "a.png")


# Every form by one set of rules


def png_of(values, path):
    """A 16-bit colour PNG, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def tiff_of(values, path, *, planar=False, **options):
    """A TIFF of (H, W, C) values, all bands in one page."""
    options |= {"planarconfig": "separate" if planar else "contig"} if values.shape[2] > 1 else {}
    values = np.moveaxis(values, -1, 0) if planar else values
    tifffile.imwrite(path, values, photometric="rgb" if 3 in values.shape[::2] else "minisblack", **options)


def dots(bands=1, dtype=np.uint16, *, dark=400, bright=3000):
    """24 dots of 5 x 5 px on 12-bit ground, (64, 96, bands)."""
    values = np.full((64, 96, bands), dark, dtype=dtype)
    for i in range(24):
        y, x = 6 + 16 * (i // 6), 6 + 16 * (i % 6)
        values[y : y + 5, x : x + 5] = bright
    return values


def forms_of(values, folder):
    """The same values as files, PIL images, arrays and tensors, as far as each can hold them."""
    yield values
    yield torch.from_numpy(np.moveaxis(values, -1, 0).copy())
    tiff_of(values, folder / "a.tif")
    yield folder / "a.tif"
    if values.shape[2] > 1:
        tiff_of(values, folder / "planar.tif", planar=True)
        yield folder / "planar.tif"
        if values.dtype == np.uint16:
            png_of(values, folder / "a.png")
            yield str(folder / "a.png")
    elif values.dtype in (np.uint16, np.float32, np.int32):
        yield Image.fromarray(values[..., 0])
        yield values[..., 0]


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_twelve_bits_with_a_hot_pixel_are_read_alike_in_every_form(tmp_path, told, bands, dtype):
    values = dots(bands, dtype)
    values[60, 90] = 30000 if dtype == np.int16 else 65535
    for given in forms_of(values, tmp_path):
        files._told.clear()
        image = as_image(given)
        assert image.shape == (3, 64, 96) and image.dtype == torch.uint8
        assert image[:, 8, 8].tolist() == [187] * 3  # 3000 * 255 / 4095 = 186.8
        assert image[:, 0, 0].tolist() == [25] * 3  # 400 * 255 / 4095 = 24.9
        assert image[0, 60, 90] == 255
    assert f"{bands} outside 0 to 4095, the range shown; `window` sets another" in told()


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_from_zero_to_one_are_read_alike_in_every_form(tmp_path, told, bands, dtype):
    for given in forms_of(dots(bands, dtype, dark=0.1, bright=0.6), tmp_path):
        assert as_image(given)[:, 8, 8].tolist() == [153] * 3 and as_image(given)[:, 0, 0].tolist() == [26] * 3
    assert told() == ""
    half = torch.full((3, 4, 4), 0.5)
    assert as_image(half.bfloat16()).unique().tolist() == as_image(half.half()).unique().tolist() == [128]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.linspace(-1, 1, 6000).reshape(60, 100), "shown from -0.998 (black) to 0.998 (white)"),  # normalised floats
        (np.linspace(280.5, 300.5, 6000).reshape(60, 100), "shown from 280.52 (black) to 300.48 (white)"),  # kelvin
        (np.arange(-3000, 3000).reshape(60, 100), "shown from -2994 (black) to 2993 (white)"),  # heights; 6000 / 1000 = 6
        (np.arange(6000).reshape(60, 100) * 1000, "shown from 5999 (black) to 5.993e+06 (white)"),  # 32 bits
    ],
    ids=["normalised", "kelvin", "heights", "counts"],
)
def test_other_ranges_are_stretched_between_percentiles_and_told(told, values, shown):
    image = as_image(values)[0]
    assert (image[0, 0], image[-1, -1]) == (0, 255) and abs(int(image[30, 0]) - 128) <= 1
    assert shown in told()


def test_a_window_is_obeyed_in_silence(tmp_path, told):
    values = dots()
    values[60, 90] = 65535
    for given in [*forms_of(values, tmp_path), values.astype(np.float64)]:
        image = as_image(given, window=(400, 3000))
        assert (image[0, 0, 0], image[0, 8, 8], image[0, 60, 90]) == (0, 255, 255)
    assert as_image(np.full((4, 4), 100, dtype=np.uint8), window=(50, 150)).unique().tolist() == [128]
    assert told() == ""
    for bad in ((5, 5), (9, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match="window: expected two numbers, black below white"):
            as_image(values, window=bad)


def test_pixels_without_data_are_black_and_told(tmp_path, told):
    values = dots(1, np.float32, dark=0.1, bright=0.6)
    values[:8, :, 0] = np.nan
    values[8, 0, 0] = np.inf
    for given in forms_of(values, tmp_path):
        files._told.clear()
        image = as_image(given)
        assert not image[:, :8].any() and image[0, 8, 0] == 0
        assert image[0, 24, 8] == 153
    assert f"{8 * 96 + 1} of {64 * 96} pixels are no data" in told()
    assert not as_image(np.full((4, 4), np.nan)).any()

    heights = np.full((64, 96, 1), -9999, dtype=np.int16)
    heights[:32] = dots(1, np.int16)[:32]
    tiff_of(heights, tmp_path / "dem.tif", extratags=[(42113, "s", 0, "-9999", True)])
    image = read_image(tmp_path / "dem.tif")
    assert (image[0, 0, 0], image[0, 8, 8], image[0, 40, 40]) == (25, 187, 0)
    assert f"dem.tif: {32 * 96} of {64 * 96} pixels are no data" in told()


@pytest.mark.parametrize("bands", [2, 4, 5, 18])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_of_many_bands_the_first_three_are_read_and_told_or_those_asked_for(tmp_path, told, bands, dtype):
    values = np.broadcast_to(np.arange(bands, dtype=dtype) * 10, (40, 30, bands)).copy()
    tiff_of(values, tmp_path / "contig.tif")
    tiff_of(values, tmp_path / "planar.tif", planar=True)
    for name in ("contig", "planar"):
        image = read_image(tmp_path / f"{name}.tif")
        assert image.shape == (3, 40, 30) and image[:, 0, 0].tolist() == ([0, 0, 0] if bands == 2 else [0, 10, 20])
        assert f"{name}.tif: {bands} bands: " in told() and "`bands` chooses others" in told()
        assert read_image(tmp_path / f"{name}.tif", bands=[2])[:, 0, 0].tolist() == [10, 10, 10]
        assert read_image(tmp_path / f"{name}.tif", bands=[bands, 1, 2])[:, 0, 0].tolist() == [10 * bands - 10, 0, 10]
        for bad in ([0], [bands + 1], [1, 2]):
            with pytest.raises(ValueError, match=rf"{name}\.tif: bands: expected one or three of 1 to {bands}, got {bad[0]}"):
                read_image(tmp_path / f"{name}.tif", bands=bad)
    assert as_image(values, bands=[2])[:, 0, 0].tolist() == [10, 10, 10]


def test_of_several_pages_the_first_is_read_and_told_or_the_one_asked_for(tmp_path, told):
    pages = [np.full((20, 30), value, dtype=np.uint8) for value in (0, 70, 200)]
    tifffile.imwrite(tmp_path / "a.tif", np.stack(pages), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.stack(pages).astype(np.float64) / 255, photometric="minisblack")
    Image.fromarray(pages[0]).save(tmp_path / "c.gif", save_all=True, append_images=[Image.fromarray(p) for p in pages[1:]])
    for name in ("a.tif", "b.tif", "c.gif"):
        assert [int(read_image(tmp_path / name, page=k)[0, 0, 0]) for k in (1, 2, 3)] == [0, 70, 200]
        assert told().count(name) == 0
        assert not read_image(tmp_path / name).any()
        assert f"{name}: page 1 of 3 is read; `page` chooses another" in told()
        for bad in (0, 4):
            with pytest.raises(ValueError, match=rf"{name}: page: expected 1 to 3, got {bad}"):
                read_image(tmp_path / name, page=bad)
    with pytest.raises(ValueError, match="page: expected a file, got a ndarray"):
        as_image(pages[0], page=2)


def test_overviews_are_no_pages(tmp_path, told):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.full((64, 64), 90, dtype=np.uint8), subifds=0)
        file.write(np.full((32, 32), 90, dtype=np.uint8), subfiletype=1)
    assert read_image(tmp_path / "a.tif").shape == (3, 64, 64) and told() == ""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright_whoever_reads_it(tmp_path, orientation):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    tags = {"extratags": [(274, "H", 1, orientation, True)], "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", values, **tags)
    Image.fromarray(values).convert("P").save(
        tmp_path / "b.tif", tiffinfo={274: orientation}, compression="packbits"
    )  # by Pillow
    turned = read_image(tmp_path / "a.tif")
    assert torch.equal(turned, read_image(tmp_path / "b.tif"))
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(values).save(tmp_path / "c.png", exif=exif)
    assert torch.equal(turned, read_image(tmp_path / "c.png"))


def test_opacity_of_sixteen_bits_is_laid_over_black(tmp_path):
    values = np.full((4, 5, 4), 65535, dtype=np.uint16)
    values[..., 3] = 65535 // 5
    png_of(values, tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    png_of(values[..., 2:], tmp_path / "b.png")  # grey and opacity
    for name in ("a.png", "a.tif", "b.png"):
        assert read_image(tmp_path / name).unique().tolist() == [51]  # 255 / 5


@pytest.mark.parametrize("compression", ["lzw", "zlib", "jpeg", "packbits"])
def test_compressed_tiffs_are_read(tmp_path, compression):
    pytest.importorskip("imagecodecs", reason="tifffile reads and writes this with imagecodecs")
    values = dots(3, np.uint8 if compression == "jpeg" else np.uint16, dark=40, bright=200)
    tiff_of(values, tmp_path / "a.tif", compression=compression)
    assert abs(int(read_image(tmp_path / "a.tif")[0, 8, 8]) - 200) < 8


@pytest.mark.parametrize("form", ["pil", "path"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_pil_image_is_read_as_its_file(tmp_path, mode, form):
    base = Image.fromarray(np.tile(np.arange(0, 250, 10, dtype=np.uint8), (8, 1)))
    image = Image.fromarray(np.asarray(base, dtype=np.float32) / 255) if mode == "F" else base.convert(mode)
    image.save(tmp_path / "a.tif")
    given = image if form == "pil" else tmp_path / "a.tif"
    expected = [0, 0, 255, 255] if mode == "1" else [0, 50, 200, 240]
    got = as_image(given)[0, 0, [0, 5, 20, 24]] if mode != "1" else as_image(given)[0].float().mean()
    if mode == "1":
        assert 100 < got < 140  # dithered
    else:
        assert got.tolist() == expected


@pytest.mark.parametrize(
    "form",
    ["path", "string", "tensor", "array", "grey array", "grey tensor", "one band", "four bands", "pil", "pil grey", "pil turned"],
)
def test_eight_bits_may_come_in_any_usual_form(tmp_path, form):
    pixels = noise(5, 7)
    array = pixels.permute(1, 2, 0).numpy()
    grey = pixels[0].expand(3, -1, -1)
    Image.fromarray(array).save(tmp_path / "a.png")
    save_rotated(tmp_path / "turned.png")
    clear = np.concatenate([array, np.zeros((5, 7, 1), dtype=np.uint8)], 2)
    forms = {
        "path": (tmp_path / "a.png", pixels),
        "string": (str(tmp_path / "a.png"), pixels),
        "tensor": (pixels, pixels),
        "array": (array, pixels),
        "grey array": (array[..., 0], grey),
        "grey tensor": (pixels[0], grey),
        "one band": (array[..., :1], grey),
        "four bands": (clear, torch.zeros_like(pixels)),
        "pil": (Image.fromarray(array), pixels),
        "pil grey": (Image.fromarray(array[..., 0].copy()), grey),
        "pil turned": (Image.open(tmp_path / "turned.png"), read_image(tmp_path / "turned.png")),
    }
    given, expected = forms[form]
    got = as_image(given)
    assert got.dtype == torch.uint8 and torch.equal(got, expected)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"got \(1, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), r"got \(2, 4, 4\)"),
        (np.zeros((3, 48, 64), dtype=np.uint8), r"got \(3, 48, 64\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"got \(0, 4, 3\)"),
        ([[1, 2]], "a path, tensor, array or PIL image, got list"),
        (None, "got NoneType"),
        (np.zeros((4, 4), dtype=complex), "real numbers"),
    ],
    ids=str,
)
def test_anything_else_is_refused_by_what_it_is(bad, said):
    with pytest.raises(ValueError, match=f"image: .*expected .*{said}"):
        as_image(bad)


def test_lines_are_told_once_and_not_without_end(told):
    for i in range(100):
        files.tell(f"line {i}")
        files.tell(f"line {i}")
    lines = told().splitlines()
    assert lines[:2] == ["line 0", "line 1"] and len(lines) == files.MOST_LINES + 1 and lines[-1].startswith("more lines")
