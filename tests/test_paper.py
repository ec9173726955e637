"""What the paper (arXiv 2604.02773) states and the code keeps to; each test names the place it comes from."""

from dataclasses import replace

import pytest
import torch
from conftest import ONE_CLICK, normal

from dealkit.boxes import SIZE_BINS, size_bin
from dealkit.config import BACKBONES, MODELS, ModelConfig
from dealkit.evaluate.coco import IOU_THRESHOLDS, evaluate
from dealkit.model.deal import build_model
from dealkit.model.decoder import DeformableAttention
from dealkit.model.encoder import HybridFeatureEnhancement
from dealkit.model.loss import poisson_density
from dealkit.model.queries import DensityActivation, allocate_queries, local_peaks
from dealkit.prompts import stack_prompts

# TinySet-9M: benchmark and metrics


@pytest.mark.parametrize(("name", "low", "high"), [("vt", 2, 8), ("t", 8, 16), ("s", 16, 32), ("m", 32, 64)])
def test_size_bins_are_those_of_the_benchmark(name, low, high):
    """Metrics: very tiny 2 to 8 px, tiny to 16, small to 32, medium to 64, by the square root of the area.

    AI-TOD's code has no lower end at 2 and no upper end at 64; the bins do not either.
    """
    assert SIZE_BINS[name][0] <= low**2 and SIZE_BINS[name][1] >= high**2
    assert size_bin(torch.tensor([((low + high) / 2) ** 2, high**2])) == [name, name]
    assert name == "vt" or SIZE_BINS[name][0] == low**2
    assert name == "m" or SIZE_BINS[name][1] == high**2


def truth_of(category, *boxes):
    """Ground truth of one image with two categories; boxes xywh."""
    rows = [{"id": k, "image_id": 1, "category_id": category, "bbox": box} for k, box in enumerate(boxes, 1)]
    return {"images": [{"id": 1}], "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "ship"}], "annotations": rows}


def test_precision_is_read_at_the_three_overlaps_of_the_table():
    """Main table: AP at IoU 0.25, 0.5 and 0.75. Of boxes with IoU 0.6 and 0.3 both count at 0.25, one at 0.5, none at 0.75."""
    assert {0.25, 0.5, 0.75} <= {round(float(v), 2) for v in IOU_THRESHOLDS}
    truth, found = truth_of(1, [0, 0, 10, 10], [50, 50, 10, 10]), [([0, 0, 10, 6], 0.9), ([50, 50, 10, 3], 0.8)]
    scores = evaluate(truth, [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in found])["all"]
    # at 0.5 half of the objects are found, at precision 1: 51 of COCO's 101 recall levels
    assert [round(scores[k], 3) for k in ("ap25", "ap50", "ap75")] == [1.0, round(51 / 101, 3), 0.0]


def test_the_benchmark_is_class_agnostic():
    """TinySet-9M: "benchmarked class-agnostic", one foreground class: a box of the wrong category is right."""
    truth = truth_of(1, [0, 0, 10, 10])
    found = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.9}]
    assert evaluate(truth, found)["all"]["ap50"] == 0
    assert evaluate(truth, found, class_agnostic=True)["all"]["ap50"] == pytest.approx(1)


# P2SOD: the task


def test_one_click_asks_for_a_kind_and_not_for_an_instance(tiny_model):
    """P2SOD: "a point is a category anchor": many boxes may answer one point, all over the image."""
    out = tiny_model(normal(1, 3, 96, 128), stack_prompts([ONE_CLICK], [0]))
    boxes = out.pred_boxes[out.valid]
    assert len(boxes) > 20 and (boxes[:, 0].amax() - boxes[:, 0].amin()) > 64


# DEAL: the network


def test_the_backbones_of_the_paper_are_there():
    """DEAL: Swin-T and ResNet-50."""
    assert {"swin_t", "resnet50"} <= set(BACKBONES)


def reaches_the_other_corner(config):
    """Whether a change of the last cell of the coarsest map changes the first cell of the finest, 224 px away."""
    torch.manual_seed(0)
    enhance = HybridFeatureEnhancement([8, 8, 8, 8], config).eval()
    maps = [normal(1, 8, 256 // s, 256 // s, seed=s) for s in (4, 8, 16, 32)]
    changed = [m.clone() for m in maps]
    changed[3][..., -1, -1] += 5
    keep = torch.ones(1, 8, 8, dtype=torch.bool)
    with torch.no_grad():
        a, b = enhance(maps, keep)[0], enhance(changed, keep)[0]
    return bool((a - b)[..., 0, 0].abs().max() > 1e-6)


def test_global_context_is_fused_with_fine_spatial_detail(tiny_config):
    """HFE: the stride-4 map knows of the whole image, and only by attention: without it the fusion does not reach so far."""
    assert reaches_the_other_corner(tiny_config)
    assert not reaches_the_other_corner(replace(tiny_config, context_layers=0))


def test_a_prompt_attends_to_the_features_of_its_image(tiny_model):
    """PE: "cross-attention with the image features": tokens out of the click's window change its vector; ours up to 96 px."""
    prompts = stack_prompts([ONE_CLICK], [0])
    features = tiny_model.encode(normal(1, 3, 256, 256))

    def change_of(first):
        tokens = features.maps[-1].clone()
        tokens[..., first:, first:] += 3
        changed = replace(features, maps=[*features.maps[:-1], tokens])
        return (tiny_model.embed(features, prompts) - tiny_model.embed(changed, prompts)).abs().max()

    assert change_of(2) > 1e-4  # cells from 64 px on; the window reaches from -12 to 62
    assert change_of(5) == 0  # from 160 px on


def test_the_prompt_generates_the_kernel_that_lights_up_the_map(tiny_config):
    """DGQA: "the point embedding generates a kernel, convolved with the feature map": without it the prompt has no say."""
    torch.manual_seed(0)
    activate = DensityActivation(tiny_config).eval()
    torch.nn.init.zeros_(activate.film.weight)
    fine, keep, none = normal(2, 16, 8, 8)[:1].expand(2, -1, -1, -1), torch.ones(2, 8, 8, dtype=torch.bool), torch.zeros(2).bool()
    embedding, keys = normal(2, 2, 32), [normal(2, 4, 8 // k, 8 // k) for k in (1, 2, 4)]
    alike = keys, torch.zeros(2, 2, 12)  # nothing to compare with
    with torch.no_grad():
        lit = activate(fine, embedding, none, keep, *alike).peak_logits
        assert (lit[0] - lit[1]).abs().max() > 1e-4
        torch.nn.init.zeros_(activate.kernels.weight)
        lit = activate(fine, embedding, none, keep, *alike).peak_logits
        assert torch.equal(lit[0], lit[1])


@pytest.mark.parametrize("count", [0.0, 7.3, 500.0])
def test_the_integral_of_the_density_sets_the_number_of_queries(count):
    """DGQA (a): the density "by its integral estimates how many objects there are and so sets the number of queries"."""
    config = ModelConfig()
    _, valid = allocate_queries(local_peaks(normal(1, 64, 64)), torch.tensor([count]), config)
    assert valid.sum() >= count  # every object that is counted has a query
    wanted = -(-config.queries_per_object * count // 1) + config.extra_queries
    assert valid.sum() == max(wanted, config.min_queries)


def test_the_density_is_trained_to_sum_to_the_count():
    """DGQA: three objects in 8 x 8 cells; the uniform density that the loss likes best sums to three."""
    centres = torch.tensor([[2.0, 2, 4, 4], [14, 14, 4, 4], [26, 18, 4, 4]])
    sums = torch.linspace(0.5, 8, 76)
    cost = [poisson_density((s / 64).expand(1, 8, 8), [centres], torch.ones(1, 8, 8, dtype=torch.bool)) for s in sums]
    assert sums[torch.stack(cost).argmin()].item() == pytest.approx(3.0, abs=0.06)


def test_the_density_modulates_what_the_decoder_reads():
    """DGQA (b): "modulates the features the decoder reads"."""
    torch.manual_seed(0)
    attention = DeformableAttention(32, 2, 4, 4)
    x, reference = normal(1, 3, 32), torch.tensor([[[32.0, 32, 8, 8], [20, 40, 6, 6], [40, 20, 9, 5]]])
    values, first = normal(1, 340, 32), torch.tensor([0])
    with torch.no_grad():
        dark, lit = (attention(x, reference, values, torch.full((1, 16, 16), a), first) for a in (0.0, 1.0))
        plain = attention.out.bias
    # lit everywhere, with a gain of 1 at the start, everything that is read counts twice
    torch.testing.assert_close(lit - plain, 2 * (dark - plain), rtol=1e-4, atol=1e-5)


# Limits it names, which we build


def test_dense_scenes_are_not_cut_at_the_usual_300_boxes():
    """TinySet-9M is dense; AI-TOD counts 1500 detections per image, and a model may return as many."""
    assert all(config.max_queries >= 1500 for config in MODELS.values())


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"enhancement": False}, {"enhance.context", "enhance.top_down", "enhance.down"}),
        ({"point_embedding": False}, {"embed_points.attention", "embed_points.ffn", "embed_points.norm1", "embed_points.norm2"}),
        ({"fixed_queries": 30}, set()),
    ],
    ids=["without HFE", "without PE", "without DGQA"],
)
def test_each_component_can_be_switched_off(tiny_config, off, gone):
    """Ablations: the rest of the model stays, and still answers; of one click, 30 queries and the click's own three."""
    whole, part = build_model(tiny_config), build_model(replace(tiny_config, **off)).eval()
    names, left = ({".".join(name.split(".")[:2]) for name in model.state_dict()} for model in (whole, part))
    assert names - left == gone
    out = part(normal(1, 3, 64, 64), stack_prompts([ONE_CLICK], [0]))
    assert torch.isfinite(out.pred_boxes).all() and out.valid.sum() == (33 if "fixed_queries" in off else 27)


def test_without_dgqa_the_activation_does_not_touch_what_the_decoder_reads(tiny_config):
    torch.manual_seed(0)
    model = build_model(replace(tiny_config, fixed_queries=30)).eval()
    with torch.no_grad():
        before = model(normal(1, 3, 64, 64), stack_prompts([ONE_CLICK], [0])).pred_logits
        for layer in model.decoder.layers:
            layer.cross_attention.gain.add_(5.0)
        after = model(normal(1, 3, 64, 64), stack_prompts([ONE_CLICK], [0])).pred_logits
    torch.testing.assert_close(before, after)
