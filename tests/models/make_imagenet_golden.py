"""Makes ``golden/*.npz`` with the original implementations: ``python -m tests.models.make_imagenet_golden``.

Needs ``torch``, ``torchvision`` and ``timm``, imported where they are used: the suite collects this file, and has none
of them. Each file has the names and shapes of the original's tensors, its logits in inference mode and, if it has
BatchNorm, in training mode, and a projection of each running statistic after that one training step.
"""

import functools
import json
from pathlib import Path

import numpy as np

from . import imagenet_cases as cases

GOLDEN = Path(__file__).parent / "golden"


def efficientnet():
    import torch
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    rows, entering = [], 32
    for expand, kernel, features, blocks, strides in cases.SMALL_EFFICIENTNET:
        rows.append(MBConvConfig(expand, kernel, strides, entering, features, blocks, 0.5, 1.0))
        entering = features
    norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    return EfficientNet(rows, dropout=0.0, stochastic_depth_prob=0.0, num_classes=cases.CLASSES, norm_layer=norm)


def originals():
    import timm
    import torchvision
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import VisionTransformer
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    vit = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": cases.CLASSES}
    return {
        "resnet_basic": ResNet(BasicBlock, [1, 2, 1, 1], num_classes=cases.CLASSES),
        "resnet_bottleneck": ResNet(Bottleneck, [2, 1, 1, 1], num_classes=cases.CLASSES),
        "mobilenet_v1": timm.models.efficientnet._gen_mobilenet_v1(
            "mobilenetv1_100", channel_multiplier=0.25, num_classes=cases.CLASSES
        ),
        "mobilenet_v2": torchvision.models.MobileNetV2(
            cases.CLASSES, 0.5, [list(row) for row in cases.SMALL_V2], dropout=0.0
        ),
        "efficientnet": efficientnet(),
        "bit": ResNetV2(
            [1, 2, 1, 1],
            num_classes=cases.CLASSES,
            stem_type="fixed",
            conv_layer=functools.partial(StdConv2d, eps=1e-8),
            norm_layer=functools.partial(GroupNormAct, num_groups=32),
        ),
        "vit": VisionTransformer(**vit),
        "deit": VisionTransformerDistilled(**vit),
    }


def run(model, seed=0):
    """Gives all that a golden file holds, of weights that are drawn with this seed."""
    import torch

    shapes = {name: list(t.shape) for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    drawn = {name: torch.from_numpy(cases.tensor(name, shape, seed)) for name, shape in shapes.items()}
    model.load_state_dict(drawn, strict=False)
    image = torch.from_numpy(cases.images()).permute(0, 3, 1, 2)
    arrays = {"shapes": np.array(json.dumps(shapes))}
    with torch.no_grad():
        arrays["logits"] = model.eval()(image).numpy()
        norms = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        if norms:
            counts = {}
            for name, norm in norms.items():
                norm.register_forward_hook(
                    lambda module, inputs, _, name=name: counts.update({name: inputs[0].numel() // inputs[0].shape[1]})
                )
            arrays["train_logits"] = model.train()(image).numpy()
            statistics = {}
            for name, norm in norms.items():
                # Torch's running variance is the unbiased one: brought to the other definition, n / (n - 1) apart.
                kept = (1 - norm.momentum) * drawn[f"{name}.running_var"].numpy()
                new = norm.running_var.numpy() - kept
                variance = kept + new * (counts[name] - 1) / counts[name]
                for kind, value in (("mean", norm.running_mean.numpy()), ("var", variance)):
                    statistics[f"{name}.running_{kind}"] = cases.projection(f"{name}.running_{kind}", value)
            arrays["statistics"] = np.array(json.dumps(statistics))
    return arrays


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, model in originals().items():
        np.savez_compressed(GOLDEN / f"imagenet_{name}.npz", **run(model))
        print(name, (GOLDEN / f"imagenet_{name}.npz").stat().st_size, "bytes")
