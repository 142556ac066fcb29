"""Operations of the zoo's models: counted again, by hand, and against published multiply-adds."""

import pytest

from jaxkd import models

KNOWN = {info.name: info for info in models.names()}
# One of each kind, of those that are traced fast.
AGAIN = ("mlp_32", "cnn_16_32_64", "resnet8", "vgg8", "shufflenet_v2")
AGAIN += ("resnet18", "mobilenet_v1", "efficientnet_b0", "vit_tiny", "bert_tiny", "distilgpt2", "t5_small")


@pytest.mark.parametrize("name", AGAIN)
def test_the_table_has_what_is_counted(name):
    info = KNOWN[name]
    assert models.flops(models.create(name, info.classes), info.image_shape) == pytest.approx(info.flops, rel=1e-3)


def test_an_mlp_by_hand():
    # 64 pixels to 8 units to 10 classes: products, biases, ReLUs.
    assert models.flops(models.MLP((8,), 10), (8, 8, 1)) == 2 * (64 * 8 + 8 * 10) + (8 + 10) + 8


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # Multiply-adds as torchvision has them for images of 224 pixels.
        ("resnet18", 1.814),
        ("resnet50", 4.089),
        ("resnet152", 11.514),
        ("mobilenet_v2", 0.301),
        ("efficientnet_b0", 0.386),
        ("vit_base", 17.564),
    ],
)
def test_operations_are_about_twice_the_published_multiply_adds(name, billions):
    assert KNOWN[name].flops == pytest.approx(2e9 * billions, rel=0.08)
