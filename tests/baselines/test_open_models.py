"""`baselines.open_models`: open models with random tiny weights, read from a folder, scored by the same evaluator."""

import pytest
import torch

from dealkit.baselines.open_models import OPEN_MODELS, load_open_model
from dealkit.baselines.scoring import reference_rows
from dealkit.clicks import make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.coco import evaluate

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
