"""What a forward pass of each model costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from jaxkd.models._inputs import inputs_of


def flops(module: nn.Module, image_shape: Sequence[int]) -> float:
    """Counts the floating-point operations of one example's forward pass, as XLA does, without compiling it.

    A multiplication and an addition are two, so that it is about twice the number of multiply-adds (MACs), which papers
    often call FLOPs: up to 8 percent less, as XLA leaves out what convolutions multiply with padding, or some percent
    more, by activations and norms. A loop's body would be counted once; no model of the zoo has a loop.

    Args:
      module: a model of the zoo.
      image_shape: (height, width, channels); () of models of text, which are counted for texts of 128 words.

    Returns:
      The number, 0 or more.
    """
    inputs = inputs_of(module, image_shape)
    variables = jax.eval_shape(module.init, jax.random.key(0), **inputs)

    def forward(variables: Any, inputs: Any) -> Any:
        return module.apply(variables, **inputs)

    cost: Any = jax.jit(forward).lower(variables, inputs).cost_analysis()
    return float(cost["flops"])


# What `flops` gives at the usual number of classes and image size, to four digits: to count them all takes a minute.
FLOPS: Mapping[str, float] = {
    "mlp_8": 1.210e03,
    "mlp_32": 4.810e03,
    "mlp_512_512": 6.021e05,
    "cnn_4_8_16": 2.528e04,
    "cnn_16_32_64": 3.223e05,
    "resnet8": 2.353e07,
    "resnet14": 4.943e07,
    "resnet20": 7.533e07,
    "resnet32": 1.271e08,
    "resnet44": 1.789e08,
    "resnet56": 2.308e08,
    "resnet110": 4.639e08,
    "resnet8x4": 3.281e08,
    "resnet32x4": 1.973e09,
    "wrn_16_1": 4.939e07,
    "wrn_16_2": 1.858e08,
    "wrn_40_1": 1.530e08,
    "wrn_40_2": 5.981e08,
    "vgg8": 1.493e08,
    "vgg11": 3.177e08,
    "vgg13": 4.600e08,
    "vgg16": 6.284e08,
    "vgg19": 7.969e08,
    "resnet50_cifar": 2.455e09,
    "mobilenet_v2_half": 1.362e07,
    "shufflenet_v1": 8.133e07,
    "shufflenet_v2": 9.092e07,
    "resnet18": 3.373e09,
    "resnet34": 6.768e09,
    "resnet50": 7.947e09,
    "resnet101": 1.503e10,
    "resnet152": 2.216e10,
    "bit_50x1": 8.084e09,
    "bit_152x2": 8.923e10,
    "mobilenet_v1": 1.161e09,
    "mobilenet_v2": 6.319e08,
    "efficientnet_b0": 8.135e08,
    "efficientnet_b1": 1.197e09,
    "efficientnet_b2": 1.378e09,
    "efficientnet_b3": 2.005e09,
    "efficientnet_b4": 3.110e09,
    "efficientnet_b5": 4.855e09,
    "efficientnet_b6": 6.900e09,
    "efficientnet_b7": 1.058e10,
    "vit_tiny": 2.646e09,
    "vit_small": 9.475e09,
    "vit_base": 3.568e10,
    "vit_large": 1.246e11,
    "deit_tiny": 2.661e09,
    "deit_small": 9.527e09,
    "deit_base": 3.587e10,
    "bert_tiny": 1.275e08,
    "bert_mini": 9.121e08,
    "bert_small": 3.435e09,
    "bert_medium": 6.869e09,
    "bert_base": 2.270e10,
    "bert_large": 7.986e10,
    "distilbert": 1.135e10,
    "distilroberta": 1.135e10,
    "roberta_base": 2.270e10,
    "roberta_large": 7.986e10,
    "tinybert_4": 1.296e09,
    "tinybert_6": 1.135e10,
    "minilm_6": 2.961e09,
    "minilm_12": 5.921e09,
    "distilgpt2": 2.110e10,
    "gpt2": 3.231e10,
    "gpt2_medium": 9.231e10,
    "gpt2_large": 2.011e11,
    "t5_small": 1.611e10,
    "t5_base": 5.894e10,
    "t5_large": 1.938e11,
    "t5_v1_1_small": 1.613e10,
    "t5_v1_1_base": 5.898e10,
    "t5_v1_1_large": 1.972e11,
}
