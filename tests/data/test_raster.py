"""`dealkit.data.raster`: windows are those of the image read whole, and a pixel lies where the file says."""

import sys

import numpy as np
import pytest
import torch

rasterio = pytest.importorskip("rasterio", reason="maps need the extra geo")

import dealkit.data.raster  # noqa: E402
from dealkit.data.images import as_image  # noqa: E402
from dealkit.data.raster import Raster, open_image  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def write(tmp_path):
    """Writes a GeoTIFF of values (C, H, W); by default 0.001 degrees a pixel from 71 degrees west, 11 degrees north on."""

    def make(values, crs="EPSG:4326", place=(-71, 11, 0.001, 0.001), colours=None, palette=None, **form):
        count, height, width = values.shape
        form = {"driver": "GTiff"} | form | {"crs": crs, "transform": rasterio.transform.from_origin(*place) if place else None}
        size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(tmp_path / "map.tif", "w", **size, **form) as file:
            if palette:
                file.write_colormap(1, palette)
            file.write(values)
            if colours:
                file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        return tmp_path / "map.tif"

    return make


def numbers(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (numbers(3, 70, 90), {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        (numbers(3, 70, 90), {"driver": "COG"}),
        (numbers(1, 70, 90), {}),
        (numbers(3, 70, 90, high=4096, dtype=np.uint16), {}),  # 12 bits
        (numbers(1, 70, 90, high=1000).astype(np.float32) / 1000, {}),
        (np.where(numbers(3, 70, 90) < 50, 0, numbers(3, 70, 90, high=900, dtype=np.uint16)), {"nodata": 0}),
        (numbers(1, 70, 90, high=4), {"palette": {n: (50 * n, 10, 255 - n, 255) for n in range(4)}}),
    ],
    ids=["rgb", "cloud-optimised", "grey", "12 bits", "floats", "no data", "palette"],
)
def test_a_window_is_that_of_the_image_read_whole(write, values, form):
    file = write(values, **form)
    whole, raster = as_image(file), Raster(file)
    assert raster.shape == tuple(whole.shape) == (3, 70, 90)
    for x1, y1, x2, y2 in ((0, 0, 90, 70), (13, 5, 40, 70), (80, 60, 90, 61)):
        assert torch.equal(raster[:, y1:y2, x1:x2], whole[:, y1:y2, x1:x2])
    assert raster.preview(45).shape == (3, 35, 45) and torch.equal(raster.preview(), whole)


def test_what_is_hidden_is_black_and_has_no_part_in_what_is_white(write):
    values = np.full((4, 70, 90), 60000, dtype=np.uint16)
    values[:3, :, 45:], values[3] = 1023, 65535
    values[3, :, :45] = 0  # the left half is hidden: what is left has 10 bits
    raster = Raster(write(values, colours=["red", "green", "blue", "alpha"]))
    assert not raster[:, :, :45].any() and (raster[:, :, 45:] == 255).all()
    nan = numbers(1, 70, 90).astype(np.float32) / 255
    nan[0, :9, :9] = np.nan
    assert not Raster(write(nan))[:, :9, :9].any()


def test_bands_and_values_that_are_shown_can_be_chosen(write):
    values = np.stack([np.full((20, 30), 100 * band, dtype=np.uint16) for band in range(1, 6)])
    chosen = Raster(write(values), bands=(5, 3, 1), window=(100, 500))
    assert chosen[:, :1, :1].flatten().tolist() == [255, 128, 0]  # 300 is half-way: 127.5
    with pytest.raises(ValueError, match=r"map.tif: bands: expected one or three of 1 to 5, got 6"):
        Raster(write(values), bands=(6,))


def test_longitude_and_latitude_are_pixels_by_hand(write):
    raster = Raster(write(numbers(3, 800, 600)))
    assert raster.to_pixels([(-70.5, 10.25)])[0] == pytest.approx((500, 750))  # 0.5 and 0.75 degrees from the corner
    with pytest.raises(ValueError, match="longitude -70, latitude 10.25 lies outside the map"):
        raster.to_pixels([(-70, 10.25)])
    assert raster.outlines(torch.tensor([[100.0, 200.0, 300.0, 250.0]]))[0] == pytest.approx(
        np.array([[-70.9, 10.8], [-70.9, 10.75], [-70.7, 10.75], [-70.7, 10.8], [-70.9, 10.8]])
    )
    # the middle meridian of zone 32 is 9 degrees east; 45 degrees north of the equator are 4,984,944.38 m, on the map x 0.9996
    utm = Raster(write(numbers(3, 300, 300), crs="EPSG:32632", place=(500_000 - 112, 4_984_944.38 * 0.9996 + 200, 1, 1)))
    assert utm.to_pixels([(9, 45)])[0] == pytest.approx((112, 200), abs=0.01)


def test_only_maps_and_large_files_are_read_in_windows(write, tmp_path, monkeypatch):
    assert isinstance(open_image(write(numbers(3, 20, 30))), Raster)
    plain = write(numbers(3, 20, 30), crs=None, place=None)
    assert isinstance(open_image(plain), torch.Tensor)
    with pytest.raises(ValueError, match="map.tif: has no coordinates; expected clicks as pixels"):
        Raster(plain).to_pixels([(0, 0)])
    monkeypatch.setattr(dealkit.data.raster, "WHOLE", 20 * 30 - 1)
    assert isinstance(open_image(plain), Raster) and open_image(Raster(plain)).path == plain
    (tmp_path / "no.tif").write_bytes(b"II*\0 no map")
    with pytest.raises(ValueError, match=r"no.tif: cannot be read as a map"):
        Raster(tmp_path / "no.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ValueError, match=r"map.tif: read in windows by rasterio; expected it: pip install"):
        Raster(plain)
