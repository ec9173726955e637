"""`dealkit.predict.tiles`: one tile is the untiled answer, an object on a seam is found once, a click reaches every tile."""

import pytest
import torch
from conftest import noise, same
from torchvision.ops import box_area, nms

import dealkit.predict.tiles
from dealkit.cli.predict import predict
from dealkit.clicks import make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import EVAL_SEED, make_scene
from dealkit.data.tiles import tile_windows
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.model.fuse import for_inference
from dealkit.predict.embedding import load_embedding
from dealkit.predict.predictor import Predictor, predict_prompts
from dealkit.predict.tiles import cores, merge_boxes, predict_coco_tiled, predict_large, predict_tiles
from dealkit.prompts import stack_prompts
from dealkit.studies.speed import crowded

pytestmark = pytest.mark.usefixtures("float32_cpu")


def test_one_tile_gives_the_untiled_answer(predictor):
    prompts = [([[20, 30]], None), ([[40, 30], [8, 50], [60, 12]], [1, 0, 1]), ([[70, 20]], None, [[40, 40, 50, 52]])]
    for tiled, whole in zip(
        predict_large(predictor, predictor.image, prompts), predictor.predict_categories(prompts), strict=True
    ):
        same(tiled, whole)
        assert tiled.count == pytest.approx(whole.count, rel=1e-4)
        assert torch.equal(tiled.points, whole.points) and tiled.clicked.sum() == whole.clicked.sum()


def test_one_tile_with_an_embedding_gives_the_untiled_answer(predictor):
    kind = predictor.embed(noise(60, 60, seed=4), [[30, 30]])
    [tiled] = predict_large(predictor, predictor.image, embedding=kind)
    same(tiled, predictor.predict_embedding(kind))
    assert tiled.clicked is None and tiled.points is None
    with pytest.raises(ValueError, match="expected prompts or an embedding, got both"):
        predict_large(predictor, predictor.image, [([[1, 1]], None)], embedding=kind)


def test_cores_share_the_image_without_gap_or_overlap():
    windows = tile_windows(150, 130, 64, 16)
    for x in (0.5, 55.9, 56.0, 100.0, 149.5):
        for y in (0.5, 60.0, 129.5):
            assert sum(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in cores(windows)) == 1


def test_the_count_of_tiles_is_that_of_the_image_where_the_density_is_even(tiny_model):
    predictor = Predictor(tiny_model, threshold=0.0)
    image = torch.full((3, 192, 192), 90, dtype=torch.uint8)
    predictor.set_image(image)
    whole = predictor.click(96, 96).count
    [tiled] = predict_large(predictor, image, [([[96, 96]], None)], tile=128, overlap=64)
    assert tiled.count == pytest.approx(whole, rel=0.2)  # borders differ; counting the overlaps twice would be 1.8 times as many


def test_the_limit_is_of_a_tile_and_told_when_it_is_reached(tiny_model, told):
    model, image = for_inference(tiny_model), noise(128, 256)
    prompts = stack_prompts([(torch.tensor([[20.0, 30.0]]), torch.tensor([1]))], [0])
    options = {"tile": 128, "overlap": 32}
    [free] = predict_tiles(model, image, prompts, **options)
    assert not free.full and told() == ""
    [found] = predict_tiles(model, image, prompts, **options, limit=10)
    assert found.full and 10 < len(found) <= 30  # three tiles
    assert "the most boxes of a prompt in one image or tile, 10, were reached" in told()


def test_a_cut_box_yields_to_a_whole_one_of_another_tile_only():
    boxes = torch.tensor([[90.0, 0, 100, 10], [88.0, 0, 110, 10]])
    scores, cut = torch.tensor([0.9, 0.5]), torch.tensor([True, False])
    assert merge_boxes(boxes, scores, torch.tensor([0, 1]), cut).tolist() == [1]  # 10 of its 10 px are covered
    assert merge_boxes(boxes, scores, torch.tensor([1, 1]), cut).tolist() == [0, 1]
    slight = torch.tensor([[88.0, 0, 108, 10], [88.0, 0, 110, 10]])  # IoU 20 / 22: the whole one stays, though weaker
    assert merge_boxes(slight, scores, torch.tensor([0, 1]), cut).tolist() == [1]
    parts = torch.tensor([[0.0, 0, 40, 10], [30.0, 0, 130, 10]])  # both cut: a quarter covered stays, half covered goes
    assert merge_boxes(parts, scores, torch.tensor([0, 1]), torch.tensor([True, True])).tolist() == [0, 1]
    parts[1, 0] = 20
    assert merge_boxes(parts, scores, torch.tensor([0, 1]), torch.tensor([True, True])).tolist() == [1]
    far = torch.tensor([[90.0, 0, 100, 10], [96.0, 0, 110, 10]])  # 4 of 10 px: not half
    assert merge_boxes(far, scores, torch.tensor([0, 1]), cut).tolist() == [0, 1]


def test_merging_in_cells_is_merging_of_all_with_all():
    boxes, scores, tiles, cut = crowded(600)
    keep = nms(boxes, scores + (~cut).float(), 0.7)
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    low, high = (f(boxes[:, None, s], boxes[None, :, s]) for f, s in ((torch.maximum, slice(2)), (torch.minimum, slice(2, 4))))
    area = box_area(boxes)
    covered = (high - low).clamp(min=0).prod(-1) / area[:, None]
    better = (tiles[:, None] != tiles) & cut[:, None] & (~cut | (area > area[:, None]))
    gone = (better & (covered >= 0.5))[:, keep].any(1)
    merged = merge_boxes(boxes, scores, tiles, cut)
    assert torch.equal(merged, keep[~gone[keep]]) and len(merged) < len(keep) < 600


@pytest.fixture
def trained(float32_cpu):
    return Predictor(device="cpu")


def test_an_object_on_a_seam_is_found_once_and_a_click_reaches_every_tile(trained):
    """Twelve equal discs, some on the seams at 96..128; tiles of 128 px sharing 32: every disc once, one click for all."""
    image = torch.full((3, 224, 320), 70, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(224) + 0.5, torch.arange(320) + 0.5, indexing="ij")
    centres = [(cx, cy) for cy in (40.0, 112.0, 180.0) for cx in (40.0, 112.0, 192.0, 280.0)]
    for cx, cy in centres:
        image[:, ((x - cx) ** 2 + (y - cy) ** 2) < 8**2] = 210
    [found] = predict_large(trained, image, [([centres[0]], None)], tile=128, overlap=32)
    middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    owner = torch.cdist(middle, torch.tensor(centres)).argmin(1)
    near = torch.cdist(middle, torch.tensor(centres)).amin(1) < 3
    assert near.all() and sorted(owner.tolist()) == list(range(12))
    assert found.clicked.sum() == 1 and owner[found.clicked].tolist() == [0]


def test_clicks_in_several_tiles_are_one_prompt(trained):
    sample = make_scene(3, size_hw=(160, 256), num_objects=20, num_categories=1, object_size=14, seed=EVAL_SEED)
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    left, right = centres[:, 0].argmin(), centres[:, 0].argmax()
    prompts = [([centres[left].tolist(), centres[right].tolist()], None)]
    [tiled] = predict_large(trained, sample.image, prompts, tile=160, overlap=64)
    [whole] = predict_large(trained, sample.image, prompts)
    assert tiled.clicked.sum() == 2 and abs(len(tiled) - len(whole)) <= 3
    with pytest.raises(ValueError, match="prompt set 0: no positive point"):
        predict_large(trained, sample.image, [([[10, 10]], [0])], tile=160, overlap=64)


def test_a_data_set_tiled_with_images_that_fit_is_the_data_set_untiled(tiny_model, tiny_coco):
    data = CocoFolder(tiny_coco, tiny_coco.parent / "images")
    lists = [make_clicks(tiny_coco, setting="1/category", seed=s) for s in (0, 1)]
    whole = {(k, p["image_id"], p["category_id"]): f for k, p, f in predict_prompts(tiny_model, data, lists)}
    [(image_id, found)] = predict_coco_tiled(tiny_model, data, lists)
    assert image_id == 1 and {(k, p["image_id"], p["category_id"]) for k, p, _ in found} == set(whole)
    for k, prompt, detections in found:
        same(detections, whole[k, prompt["image_id"], prompt["category_id"]])
    assert list(predict_coco_tiled(tiny_model, data, lists, done={1})) == []


def test_an_overlap_as_large_as_the_tile_is_refused(predictor):
    with pytest.raises(ValueError, match="overlap"):
        predict_large(predictor, predictor.image, [([[1, 1]], None)], tile=64, overlap=64)


def test_the_command_in_tiles_writes_what_it_writes_in_one_piece(tiny_model, tiny_coco, tmp_path):
    save_model(tiny_model, tmp_path / "tiny.safetensors")
    options = {"image": tiny_coco.parent / "images" / "0.png", "checkpoint": tmp_path / "tiny.safetensors", "threshold": 0.01}
    predict(point=[(13.0, 16.0)], out=tmp_path / "whole.json", **options)
    predict(point=[(13.0, 16.0)], out=tmp_path / "tiled.json", tile=256, overlap=32, **options)
    whole, tiled = (read_json(tmp_path / f"{name}.json") for name in ("whole", "tiled"))
    assert len(whole["boxes"]) == len(tiled["boxes"]) > 0 and whole["scores"] == pytest.approx(tiled["scores"], abs=1e-3)
    predict(point=[(13.0, 16.0)], tile=256, overlap=32, save_embedding=tmp_path / "kind.safetensors", **options)
    assert load_embedding(tmp_path / "kind.safetensors").clicks == 1


def test_tiles_that_are_black_all_over_are_not_looked_at(predictor, monkeypatch):
    seen, image = [], noise(64, 256)
    image[:, :, 64:] = 0
    kind = predictor.embed(image, [[30, 30]])
    encode = dealkit.predict.tiles.encode_images
    monkeypatch.setattr(
        "dealkit.predict.tiles.encode_images", lambda model, images: (seen.append(images), encode(model, images))[1]
    )
    [found] = predict_large(predictor, image, embedding=kind, tile=64, overlap=0)
    [part] = predict_large(predictor, image[:, :, :64], embedding=kind)
    assert len(seen) == 2 and torch.equal(found.scores, part.scores) and found.count == pytest.approx(part.count)
    assert len(predict_large(predictor, torch.zeros_like(image), embedding=kind, tile=64, overlap=0)[0]) == 0
