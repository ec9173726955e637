"""`dealkit.predict.embedding` and `Predictor.embed`: a click kept, saved, averaged and asked of other images."""

import pytest
import torch
from conftest import noise
from safetensors.torch import save_file

from dealkit.model.checkpoint import load_model, save_model
from dealkit.predict.embedding import PromptEmbedding, load_embedding, mean_embedding, model_hash
from dealkit.predict.predictor import Predictor, detect, embed
from dealkit.predict.tiles import predict_large
from dealkit.prompts import stack_prompts, without_clicks

pytestmark = pytest.mark.usefixtures("float32_cpu")


def embedding(meant, unmeant=0.0, clicks=1, model="0123456789ab"):
    return PromptEmbedding(vectors=torch.tensor([[meant] * 3, [unmeant] * 3]), clicks=clicks, model=model)


def test_an_embedding_finds_what_its_click_finds_apart_from_the_clicks_own_query(predictor):
    click = predictor.click(20, 30)
    asked = predictor.predict_embedding(predictor.embed(None, [[20, 30]]))
    assert asked.points is None and asked.clicked is None and asked.count == pytest.approx(click.count, rel=1e-4)
    assert len(asked) >= 20 and torch.equal(asked.image, predictor.image)


def test_the_model_computes_the_same_from_an_embedding_handed_to_it(predictor):
    points = torch.tensor([[20.0, 30.0], [60.0, 40.0]])
    prompts = stack_prompts([(points, torch.tensor([1, 0])), (points, torch.tensor([1, 1]))], [0, 0])
    vectors = embed(predictor.model, predictor.features, prompts)
    own, handed = (detect(predictor.model, predictor.features, prompts, e) for e in (None, vectors))
    assert torch.equal(own.pred_boxes, handed.pred_boxes) and torch.equal(own.pred_logits, handed.pred_logits)
    elsewhere = detect(predictor.model, predictor.features, without_clicks([0, 0]), vectors)
    assert torch.equal(elsewhere.activation.peak_logits, own.activation.peak_logits)
    assert elsewhere.valid.sum() == own.valid.sum() - 3 * own.starts  # three clicks on objects have queries of their own


def test_the_image_that_is_set_stays_set(predictor):
    before, image = predictor.click(20, 30), predictor.image
    made = predictor.embed(noise(40, 50, seed=3), [[10, 10]])
    assert predictor.image is image and torch.equal(predictor.click(20, 30).boxes, before.boxes)
    elsewhere = Predictor(predictor.model, threshold=0.0)
    elsewhere.set_image(noise(40, 50, seed=3))
    torch.testing.assert_close(elsewhere.embed(None, [[10, 10]]).vectors, made.vectors)
    assert not torch.allclose(made.vectors, predictor.embed(None, [[10, 10]]).vectors)


def test_negative_clicks_are_part_of_an_embedding(predictor):
    plain, against = predictor.embed(None, [[20, 30]]), predictor.embed(None, [[20, 30], [60, 40]], [1, 0])
    assert (plain.has_negative, against.has_negative) == (False, True) and (plain.clicks, against.clicks) == (1, 2)
    count = predictor.predict_embedding(against).count
    assert count != predictor.predict_embedding(plain).count
    assert count == pytest.approx(predictor.predict([[20, 30], [60, 40]], [1, 0]).count, rel=1e-4)


def test_an_embedding_survives_its_file(predictor, tmp_path):
    made = predictor.embed(None, [[20, 30], [60, 40]], [1, 0])
    made.save(tmp_path / "new" / "prompt.safetensors")
    read = load_embedding(tmp_path / "new" / "prompt.safetensors")
    assert torch.equal(read.vectors, made.vectors) and (read.clicks, read.model) == (2, made.model)
    assert torch.equal(predictor.predict_embedding(read).boxes, predictor.predict_embedding(made).boxes)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["prompt.safetensors"]


def test_the_mean_weighs_images_alike_and_negatives_where_there_are_any():
    made = mean_embedding([embedding(1.0, clicks=3), embedding(2.0, 4.0), embedding(6.0, 8.0)])
    assert made.vectors.tolist() == [[3.0] * 3, [6.0] * 3]  # (1 + 2 + 6) / 3; (4 + 8) / 2
    assert made.clicks == 5 and made.has_negative
    assert torch.equal(mean_embedding([embedding(1.5, 2.0)]).vectors, embedding(1.5, 2.0).vectors)


def test_embeddings_of_different_models_or_none_have_no_mean():
    with pytest.raises(ValueError, match="embeddings: expected all of one model, got a, b"):
        mean_embedding([embedding(1.0, model="b"), embedding(1.0, model="a")])
    with pytest.raises(ValueError, match="embeddings: expected all of one model, got none"):
        mean_embedding([])


def test_another_model_refuses_an_embedding(predictor, make_tiny):
    other = Predictor(make_tiny(seed=1))
    other.set_image(noise(40, 40))
    made = predictor.embed(None, [[20, 30]])
    with pytest.raises(ValueError, match=f"prompt embedding: made by model {made.model}, this is {other.model_hash}"):
        other.predict_embedding(made)


def test_a_model_has_the_same_hash_however_it_was_loaded(make_tiny, tmp_path):
    model = make_tiny()
    save_model(model, tmp_path / "model.safetensors")
    assert model_hash(load_model(tmp_path / "model.safetensors")) == model_hash(model) == Predictor(model).model_hash
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert model_hash(load_model(tmp_path / "model.safetensors")) != model_hash(model)


def test_an_embedding_needs_an_image_a_positive_click_inside_it_and_no_more(predictor, tiny_model):
    fresh = Predictor(tiny_model)
    for call in (lambda: fresh.embed(None, [[1, 1]]), lambda: fresh.predict_embedding(embedding(1.0))):
        with pytest.raises(ValueError, match="no image: call set_image first"):
            call()
    with pytest.raises(ValueError, match=r"point \[41.0, 5.0\] is outside the image; expected x in 0..40, y in 0..30"):
        predictor.embed(noise(30, 40), [[41, 5]])
    with pytest.raises(ValueError, match="no positive point"):
        predictor.embed(None, [[5, 5]], [0])
    assert fresh.embed(noise(30, 40), [[5, 5]]).clicks == 1  # without any image set


@pytest.mark.parametrize(
    ("vectors", "clicks", "said"),
    [
        (torch.zeros(3, 4), 1, r"vectors: expected finite \(2, D\) float32, got \(3, 4\)"),
        (torch.zeros(2, 4).half(), 1, "torch.float16"),
        (torch.full((2, 4), float("nan")), 1, "vectors: expected finite"),
        (torch.zeros(2, 4), 0, "clicks: expected at least 1, got 0"),
    ],
)
def test_an_embedding_of_another_form_is_refused(vectors, clicks, said):
    with pytest.raises(ValueError, match=said):
        PromptEmbedding(vectors=vectors, clicks=clicks, model="m")


def test_an_embedding_of_another_width_is_refused(checkpoint):
    predictor = Predictor(checkpoint)
    predictor.set_image(noise(40, 40))
    width = predictor.embed(None, [[5, 5]]).vectors.shape[1]
    narrow = PromptEmbedding(vectors=torch.ones(2, 7), clicks=1, model=predictor.model_hash)
    for ask in (predictor.predict_embedding, lambda e: predict_large(predictor, noise(80, 80), embedding=e, tile=64, overlap=16)):
        with pytest.raises(ValueError, match=rf"vectors: expected \(2, {width}\) of this model, got \(2, 7\)"):
            ask(narrow)


def test_a_file_that_is_no_embedding_is_named_with_its_fault(tmp_path, tiny_model):
    path = tmp_path / "prompt.safetensors"
    with pytest.raises(ValueError, match="prompt.safetensors: no such prompt embedding"):
        load_embedding(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="prompt.safetensors: not a safetensors prompt embedding"):
        load_embedding(path)
    save_model(tiny_model, path)
    with pytest.raises(ValueError, match="prompt.safetensors: no vectors; expected a file written by"):
        load_embedding(path)
    good = {"clicks": "1", "model": "m"}
    for about, said in (({"model": "m"}, "no clicks"), (good | {"clicks": "-1"}, "clicks: expected a whole number, got '-1'")):
        save_file({"vectors": torch.zeros(2, 4)}, path, metadata=about)
        with pytest.raises(ValueError, match=f"prompt.safetensors: {said}"):
            load_embedding(path)
    save_file({"vectors": torch.zeros(5)}, path, metadata=good)
    with pytest.raises(ValueError, match="prompt.safetensors: vectors: expected finite"):
        load_embedding(path)
