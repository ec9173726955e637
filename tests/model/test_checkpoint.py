"""`dealkit.model.checkpoint`: weights and config that come back, whole, halved or in parts, and files that are refused."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import ONE_CLICK, normal
from safetensors.torch import save_file

import dealkit.model.checkpoint
from dealkit.config import to_dict
from dealkit.files import files_of, sha_of
from dealkit.model.checkpoint import load_model, save_model
from dealkit.prompts import stack_prompts


def test_a_loaded_model_gives_the_same_output(make_tiny, tmp_path):
    model = make_tiny(3)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config and not loaded.training
    out, again = (m(normal(1, 3, 64, 96), stack_prompts([ONE_CLICK], [0])) for m in (model, loaded))
    assert torch.equal(out.pred_boxes, again.pred_boxes) and torch.equal(out.pred_logits, again.pred_logits)


def test_a_half_precision_checkpoint_is_half_the_size_and_nearly_the_same(make_tiny, tmp_path):
    model = make_tiny(3)
    for name, half in (("full", False), ("half", True)):
        save_model(model, tmp_path / name, half=half)
    assert (tmp_path / "half").stat().st_size < 0.52 * (tmp_path / "full").stat().st_size
    loaded = load_model(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    a, b = (m(normal(1, 3, 64, 96), stack_prompts([ONE_CLICK], [0])).activation.density for m in (model, loaded))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)


def test_a_large_published_model_lies_in_parts(make_tiny, tmp_path, monkeypatch):
    path, model = tmp_path / "model.safetensors", make_tiny().half().float()  # exact in float16
    save_model(model, path, half=True)
    whole = sha_of(path)
    monkeypatch.setattr(dealkit.model.checkpoint, "LARGEST_FILE", path.stat().st_size * 2 // 5)
    save_model(model, path, half=True)
    names = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [file.name for file in sorted(tmp_path.iterdir())] == names == [file.name for file in files_of(path)]
    loaded = load_model(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    assert sha_of(path) != whole and sha_of(path) == sha_of(path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: only 2 of its 3 parts: model-00001"):
        load_model(path)
    monkeypatch.undo()
    save_model(model, path, half=True)  # smaller again: what is left of the parts would be read no more
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"] and sha_of(path) == whole


def test_a_file_that_is_missing_cut_short_or_of_another_kind_is_named(checkpoint, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    whole = checkpoint.read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    for name, said in (("none", "no such checkpoint"), ("model.pt", "not a safetensors"), ("half", "not a safetensors")):
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "no model config in its metadata"),
        ({"config": "nano"}, "metadata: config is not a JSON object"),
        ({"config": "[1]"}, "metadata: config is not a JSON object"),
        ({"config": '{"depth": 3}'}, "metadata: ModelConfig has no field 'depth'"),
        ({"config": '{"hidden_dim": 30}'}, "metadata: ModelConfig.hidden_dim: expected a multiple of"),
        ({"config": '{"hidden_dim": -16}'}, "metadata: ModelConfig.hidden_dim: expected 1 to 4,096, got -16"),
        ({"config": '{"num_heads": 0}'}, "metadata: ModelConfig.num_heads: expected 1 to 64, got 0"),
        ({"config": '{"edge_dim": -1}'}, "metadata: ModelConfig.edge_dim: expected 0 to 4,096, got -1"),
        ({"config": '{"decoder_layers": 1000000}'}, "metadata: ModelConfig.decoder_layers: expected 1 to 64, got 1000000"),
    ],
)
def test_a_checkpoint_without_a_good_config_is_refused(tmp_path, metadata, said):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=f"model.safetensors: {said}"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("fault", ["shape", "missing", "unknown"])
def test_weights_that_do_not_fit_their_config_are_refused(tiny_model, tmp_path, fault):
    tensors = {k: v.contiguous() for k, v in tiny_model.state_dict().items()}
    name = "decoder.extra" if fault == "unknown" else "decoder.clicked"
    tensors[name] = torch.zeros(33)
    if fault == "missing":
        del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"config": json.dumps(to_dict(tiny_model.config))})
    with pytest.raises(ValueError, match=rf"model.safetensors: weights do not fit their config: .*{name}"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), torch.int8, torch.int64, torch.bool])
def test_weights_that_are_no_finite_floats_are_refused_by_name(tiny_model, tmp_path, bad):
    tensors = {k: v.contiguous().clone() for k, v in tiny_model.state_dict().items()}
    weights = tensors["decoder.clicked"]
    if isinstance(bad, float):
        weights.view(-1)[-1] = bad
    else:
        tensors["decoder.clicked"] = weights.to(bad)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"config": json.dumps(to_dict(tiny_model.config))})
    said = "expected finite numbers" if isinstance(bad, float) else f"expected torch.float32, got {bad}"
    with pytest.raises(ValueError, match=rf"model.safetensors: decoder.clicked: {said}"):
        load_model(tmp_path / "model.safetensors")


def test_loading_never_asks_for_pretrained_weights(make_tiny, tiny_config, tmp_path):
    model = make_tiny()
    model.config = replace(tiny_config, pretrained=True)
    save_model(model, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors", expected=model.config).config == tiny_config
