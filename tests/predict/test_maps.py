"""`dealkit.predict.maps`: a click on a map finds what is there, at its longitude and latitude."""

import json
import sqlite3
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import same

rasterio = pytest.importorskip("rasterio", reason="maps need the extra geo")

from dealkit.config import DEFAULT_CHECKPOINT  # noqa: E402
from dealkit.data.raster import Raster  # noqa: E402
from dealkit.predict.detections import Detections  # noqa: E402
from dealkit.predict.maps import write_map  # noqa: E402
from dealkit.predict.tiles import predict_large  # noqa: E402

pytestmark = pytest.mark.usefixtures("float32_cpu")

NORTH = 4_984_944.38 * 0.9996
"""Metres on the map from the equator to 45 degrees north, on the middle meridian of UTM zone 32, 9 degrees east."""
METRE = np.array([1 / 78_846.8, 1 / 111_131.8]) / 0.9996
"""Degrees of a metre of the map there, to the east and to the north: a degree has 78,846.8 m and 111,131.8 m."""
DISCS = [(x, y) for y in (40.0, 112.0, 180.0) for x in (40.0, 112.0, 192.0, 280.0)]


@pytest.fixture
def discs(tmp_path):
    """A map of 320 x 224 m with twelve discs of 16 m; pixel (112, 112), the middle of one, lies at 9 east, 45 north."""
    y, x = np.mgrid[:224, :320] + 0.5
    image = np.full((3, 224, 320), 70, dtype=np.uint8)
    for cx, cy in DISCS:
        image[:, (x - cx) ** 2 + (y - cy) ** 2 < 64] = 210
    place = rasterio.transform.from_origin(500_000 - 112, NORTH + 112, 1, 1)
    form = {"driver": "GTiff", "width": 320, "height": 224, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(tmp_path / "discs.tif", "w", transform=place, **form) as file:
        file.write(image)
    return tmp_path / "discs.tif"


def test_one_click_by_coordinates_comes_out_at_the_right_longitude_and_latitude(cli, discs, tmp_path):
    options = ("--checkpoint", DEFAULT_CHECKPOINT, "--tile", 128, "--overlap", 32)
    code, out, err = cli("predict", discs, "--lonlat", 9, 45, *options, "--out", tmp_path / "found.geojson")
    assert code == 0 and "12 objects" in out, err
    features = json.loads((tmp_path / "found.geojson").read_text(encoding="utf-8"))["features"]
    middles = np.array([np.mean(feature["geometry"]["coordinates"][0][:4], axis=0) for feature in features])
    expected = np.array([[9, 45]]) + (np.array(DISCS) - 112) * [1, -1] * METRE
    apart = np.abs((middles[:, None] - expected) / METRE).max(-1)  # metres, which are pixels
    assert sorted(apart.argmin(1)) == list(range(12)) and apart.min(1).max() < 3
    assert cli("predict", discs, "--lonlat", 9, 45, *options, "--out", tmp_path / "found.gpkg")[0] == 0
    rows = sqlite3.connect(tmp_path / "found.gpkg").execute("select kind, score from found").fetchall()
    assert len(rows) == 12 and {kind for kind, _ in rows} == {"object"}
    code, _, err = cli("predict", discs, "--lonlat=-70.5,10", *options)
    assert code == 2 and "discs.tif: longitude -70.5, latitude 10 lies outside the map" in err


def test_a_map_is_predicted_as_the_image_in_memory(discs, predictor):
    asked = {"prompts": [([[112, 112]], None)], "tile": 128, "overlap": 32}
    raster, read = Raster(discs), []
    file = raster.file
    raster.file = SimpleNamespace(
        height=file.height,
        width=file.width,
        read=lambda *a, window, **o: (read.append(window), file.read(*a, window=window, **o))[1],
    )
    [windows], [whole] = predict_large(predictor, raster, **asked), predict_large(predictor, Raster(discs)[:, :, :], **asked)
    same(windows, whole)
    assert {(y2 - y1, x2 - x1) for (y1, y2), (x1, x2) in read} == {(128, 128)}, "never more than a tile"
    assert windows.image is raster and windows.plot().get_xlim() == (0, 320)


def test_formats_hold_the_corners_by_hand(discs, tmp_path):
    raster, found = Raster(discs), Detections(boxes=torch.tensor([[112.0, 12.0, 122.0, 112.0]]), scores=torch.tensor([0.5]))
    write_map(tmp_path / "a.geojson", found, raster, "bolt")
    made = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert "crs" not in made and made["features"][0]["properties"] == {"kind": "bolt", "score": 0.5}
    ring = np.array(made["features"][0]["geometry"]["coordinates"][0])
    east, north = np.array([9, 45]) + [10, 100] * METRE
    assert ring == pytest.approx(np.array([[9, north], [9, 45], [east, 45], [east, north], [9, north]]), abs=2e-7)  # 2 cm
    write_map(tmp_path / "b.geojson", found, raster, map_crs=True)
    made = json.loads((tmp_path / "b.geojson").read_text(encoding="utf-8"))
    assert made["crs"]["properties"]["name"].endswith("EPSG::32632")
    ring = np.array(made["features"][0]["geometry"]["coordinates"][0])
    assert ring[[0, 2]] == pytest.approx(np.array([[500_000, NORTH + 100], [500_010, NORTH]]), abs=0.01)
    write_map(tmp_path / "a.gpkg", found, raster)
    with sqlite3.connect(tmp_path / "a.gpkg") as file:
        bounds = file.execute("select min_x, min_y, max_x, max_y, srs_id from gpkg_contents").fetchone()
        assert bounds == pytest.approx((500_000, NORTH, 500_010, NORTH + 100, 32632), abs=0.01)
        assert file.execute("select organization from gpkg_spatial_ref_sys where srs_id = 32632").fetchone() == ("EPSG",)
        kind, column = file.execute("select geometry_type_name, column_name from gpkg_geometry_columns").fetchone()
        [shape] = file.execute(f"select {column} from found").fetchone()
    assert kind == "POLYGON" and shape[:2] == b"GP"
    assert np.frombuffer(shape[-80:]).reshape(5, 2) == pytest.approx(raster.outlines(found.boxes)[0])


@pytest.mark.parametrize("name", ["none.geojson", "none.gpkg"])
def test_nothing_found_is_a_file_without_boxes(discs, tmp_path, name):
    write_map(tmp_path / name, Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0)), Raster(discs))
    if name.endswith("gpkg"):
        assert sqlite3.connect(tmp_path / name).execute("select count(*) from found").fetchone() == (0,)
    else:
        assert json.loads((tmp_path / name).read_text(encoding="utf-8"))["features"] == []
