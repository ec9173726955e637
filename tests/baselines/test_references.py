"""`baselines.references`: template matching, the estimate from a click, and open models with random tiny weights."""

import numpy as np
import pytest
import torch

from dealkit.baselines.references import (
    OPEN_MODELS,
    VARIANTS,
    benchmark_templates,
    cut_template,
    estimate_box,
    load_open_model,
    match_box,
    reference_rows,
    to_grey,
)
from dealkit.clicks import make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.coco import evaluate
from dealkit.files import read_json
from dealkit.predict.detections import Detections


def with_patches(patches, size_hw=(60, 90), seed=0):
    """A faint noise image (3, H, W) uint8 with grey patches {(x, y): (h, w) array}."""
    image = np.random.default_rng(seed).integers(80, 90, size_hw).astype(np.uint8)
    for (x, y), patch in patches.items():
        image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return torch.from_numpy(image).expand(3, -1, -1).clone()


ELL = np.array([[200] * 4 + [20] * 4] * 5 + [[200] * 8] * 5, np.uint8)  # 10 high, 8 wide, no symmetry


def found_at(found, least=0.9):
    return sorted(tuple(round(v) for v in box) for box in found.above(least).boxes.tolist())


# template matching


def test_copies_of_the_example_are_found_where_they_are():
    image = with_patches({(10, 10): ELL, (40, 30): ELL, (70, 5): ELL})
    found = match_box(image, torch.tensor([[10.0, 10.0, 18.0, 20.0]]))
    assert found_at(found) == [(10, 10, 18, 20), (40, 30, 48, 40), (70, 5, 78, 15)]
    assert found.scores[0] == 1 and (found.scores[:-1] >= found.scores[1:]).all()


def test_turned_and_scaled_copies_need_turns_and_scales():
    large = np.kron(ELL, np.ones((2, 2), np.uint8))
    image = with_patches({(8, 8): ELL, (40, 10): np.rot90(ELL), (60, 30): large})
    box = torch.tensor([[8.0, 8.0, 16.0, 18.0]])
    assert found_at(match_box(image, box)) == [(8, 8, 16, 18)]
    assert found_at(match_box(image, box, turns=4)) == [(8, 8, 16, 18), (40, 10, 50, 18)]
    assert (60, 30, 76, 50) in found_at(match_box(image, box, scales=(1.0, 2.0)), 0.8)


def test_a_cut_template_is_the_image_and_its_quarter_turns():
    grey = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    crop = grey[4:10, 5:9]
    turned = {k: cut_template(grey, [5, 4, 9, 10], angle=k * np.pi / 2) for k in range(4)}
    assert any(np.allclose(turned[1][0], np.rot90(crop, k), atol=1e-5) for k in (1, 3))
    np.testing.assert_allclose(turned[0][0], crop, atol=1e-6)
    np.testing.assert_allclose(turned[2][0], np.rot90(crop, 2), atol=1e-5)
    assert turned[0][1] == (4, 6) and turned[1][1] == pytest.approx((6, 4))
    # a margin of a quarter: 4 + 2 x 1 wide, 6 + 2 x 2 high (1.5 rounds to 2)
    wide, size_wh = cut_template(grey, [5, 4, 9, 10], margin=0.25)
    assert wide.shape == (10, 6) and size_wh == (4, 6)
    np.testing.assert_allclose(wide, grey[2:12, 4:10], atol=1e-6)


def test_an_eighth_turn_has_the_size_of_the_turned_ellipse():
    _, size_wh = cut_template(np.zeros((50, 50), np.float32), [10, 10, 16, 18], angle=np.pi / 4)
    assert size_wh == pytest.approx((50**0.5, 50**0.5))  # sqrt((6^2 + 8^2) / 2)


def test_what_cannot_be_matched_returns_the_example_alone():
    flat = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    box = torch.tensor([[5.0, 5.0, 15.0, 15.0]])
    assert match_box(flat, box).boxes.tolist() == box.tolist()
    tiny = torch.tensor([[5.0, 5.0, 6.0, 6.0]])
    assert match_box(with_patches({}), tiny, margin=0.0).boxes.tolist() == tiny.tolist()
    whole = torch.tensor([[0.0, 0.0, 90.0, 60.0]])
    assert match_box(with_patches({}), whole, scales=(2.0,)).boxes.tolist() == whole.tolist()
    assert len(match_box(flat, torch.zeros(0, 4))) == 0


def test_several_examples_are_pooled_and_no_more_returned_than_asked_for():
    image = with_patches({(10, 10): ELL, (40, 30): ELL, (70, 5): np.rot90(ELL)})
    boxes = torch.tensor([[10.0, 10.0, 18.0, 20.0], [70.0, 5.0, 80.0, 13.0]])
    assert found_at(match_box(image, boxes)) == [(10, 10, 18, 20), (40, 30, 48, 40), (70, 5, 80, 13)]
    assert len(match_box(image, boxes, least=0.0, max_dets=4)) == 4


def test_grey_is_luma():
    image = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    assert to_grey(image)[0, 0] == pytest.approx(0.299)


@pytest.mark.parametrize("side", [6, 16, 32])
def test_a_click_on_a_square_estimates_its_size(side):
    image = with_patches({(20, 10): np.full((side, side), 230, np.uint8)})
    box = estimate_box(image, [20 + side / 2, 10 + side / 2])
    assert box.tolist() == [20, 10, 20 + side, 10 + side]


def test_an_estimate_at_the_border_lies_in_the_image():
    for xy in ([0, 0], [90, 60], [0.5, 59.5]):
        box = estimate_box(with_patches({}), xy)
        assert (box[:2] >= 0).all() and box[2] <= 90 and box[3] <= 60 and (box[2:] > box[:2]).all()


# the protocol


def test_rows_are_those_of_the_click_list(tiny_coco):
    data = CocoFolder(tiny_coco, tiny_coco.parent / "images")
    clicks = make_clicks(tiny_coco, setting="3/category", seed=0)
    asked = []

    def find(image, boxes, name):
        asked.append((name, len(boxes)))
        return Detections(boxes=boxes, scores=torch.ones(len(boxes)))

    rows = reference_rows(find, data, clicks)
    assert sorted(asked) == [("bolt", 2), ("nut", 1)]  # one prompt per category, with all its examples
    assert evaluate(tiny_coco, rows, clicks)["all"]["ap50"] == pytest.approx(1)
    assert len(reference_rows(find, data, clicks, given="click")) == 3
    with pytest.raises(ValueError, match="given: expected box or click, got 'point'"):
        reference_rows(find, data, clicks, given="point")


def test_a_benchmark_is_resumed_and_extended(make_coco, tmp_path):
    files = [make_coco(name, [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 8], 0)], []]) for name in ("a", "b")]
    first = benchmark_templates(files[:1], tmp_path / "t.json")
    assert [(row["source"], row["variant"], row["seed"]) for row in first.rows] == [("a", "box", 0), ("a", "click", 0)]
    assert first.rows[0]["ap50"] == pytest.approx(1) and first.rows[0]["hit"] == 1 and first.rows[0]["objects"] == 2
    variants = list(VARIANTS)
    more = benchmark_templates(files, tmp_path / "t.json", variants=variants, seeds=2)
    assert (
        more.rows[:2] == first.rows and len(more.frame().drop_duplicates(["source", "variant", "seed"])) == len(more.rows) == 12
    )
    assert read_json(tmp_path / "t.json")["rows"] == more.rows
    with pytest.raises(ValueError, match="variants: expected some of .*got 'boxes'"):
        benchmark_templates(files, tmp_path / "t.json", variants=["boxes"])


# open models

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 2}


def letters():
    """A tokenizer of CLIP's kind that knows printable letters."""
    characters = [chr(i) for i in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{c}</w>" for c in characters)]
    return transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def tiny_owlv2():
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.Owlv2Config(
        text_config={**SMALL, **ends, "num_hidden_layers": 1, "vocab_size": 300},
        vision_config={**SMALL, "num_hidden_layers": 1, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    images = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    model = transformers.Owlv2ForObjectDetection(config)
    with torch.no_grad():
        for weights in model.box_head.parameters():
            weights.mul_(0.01)  # its random boxes have no width: each becomes one round its patch
    return model, transformers.Owlv2Processor(images, letters())


def tiny_grounding_dino():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "bolt", "nut"]
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_indices=[2, 3, 4]),
        text_config=transformers.BertConfig(**SMALL, num_hidden_layers=1, vocab_size=20),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=12,
        disable_custom_kernels=True,
        **heads,
    )
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return transformers.GroundingDinoForObjectDetection(config), transformers.GroundingDinoProcessor(images, tokenizer)


def tiny_sam3():
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 32, "projection_dim": 32}
    vit = {"model_type": "sam3_vit_model", "image_size": 112, "patch_size": 14, "window_size": 4, "global_attn_indexes": [1]}
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": {**SMALL, **vit, "num_hidden_layers": 2, "pretrain_image_size": 56},
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={**SMALL, **ends, "num_hidden_layers": 1, "vocab_size": 300},
        geometry_encoder_config={**SMALL, "num_layers": 1},
        detr_encoder_config={**SMALL, "num_layers": 1},
        detr_decoder_config={**SMALL, "num_layers": 1, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    images = transformers.Sam3ImageProcessor(size={"height": 112, "width": 112})
    return transformers.Sam3Model(config), transformers.Sam3Processor(images, letters())


TINY = {"owlv2": tiny_owlv2, "grounding_dino": tiny_grounding_dino, "sam3": tiny_sam3}


@pytest.mark.parametrize("kind", list(OPEN_MODELS))
def test_an_open_model_is_read_from_a_folder_and_scored_by_the_same_evaluator(kind, tiny_coco, tmp_path):
    """Random weights of a tiny configuration: what comes out is noise, but of the right form."""
    if not hasattr(transformers, OPEN_MODELS[kind][0]):
        pytest.skip(f"needs transformers {OPEN_MODELS[kind][3]}")
    torch.manual_seed(0)
    for part in TINY[kind]():
        part.save_pretrained(tmp_path / kind)
    find = load_open_model(kind, tmp_path / kind)
    data = CocoFolder(tiny_coco, tiny_coco.parent / "images")
    clicks = make_clicks(tiny_coco, setting="3/category", seed=0)
    rows = reference_rows(find, data, clicks)
    assert {row["category_id"] for row in rows} == {5, 9} and all(0 <= row["score"] <= 1 for row in rows)
    for row in rows:
        x, y, w, h = row["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 90.02 and y + h <= 70.02 and w > 0 and h > 0
    assert evaluate(tiny_coco, rows, clicks)["counts"]["clicked"] == 3


@pytest.mark.parametrize("kind", list(OPEN_MODELS))
def test_weights_that_are_not_there_are_named(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/the/cache")
    with pytest.raises(ValueError, match=rf"{kind}: {tmp_path}/none: no .* local cache \(/the/cache\).*hf download"):
        load_open_model(kind, tmp_path / "none")


def test_an_old_transformers_is_told_what_is_needed(monkeypatch):
    monkeypatch.setitem(OPEN_MODELS, "sam3", ("Sam99Model", "Sam99Processor", "facebook/sam3", "5.0"))
    with pytest.raises(ValueError, match=r"sam3: transformers .* has no Sam99Model: pip install 'transformers>=5.0'"):
        load_open_model("sam3")
    with pytest.raises(ValueError, match="reference: expected one of owlv2, grounding_dino, sam3, got 'sam'"):
        load_open_model("sam")
