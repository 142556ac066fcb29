"""Teachers and students that are often seen together, with what is published of them."""

from typing import NamedTuple

from jaxkd.models._registry import names


class Pair(NamedTuple):
    """One line of ``jaxkd pairs``. What nobody has published, or not in one measure, is None or empty.

    Attributes:
      teacher: what `create` takes.
      student: what `create` takes.
      teacher_parameters: their number, as `names` has it.
      student_parameters: likewise.
      measure: what the numbers are, in percent except perplexities.
      teacher_result: the teacher's.
      alone: the student's, trained without a teacher, or as it was published by itself.
      distilled: the student's, trained with this teacher.
      method: what it was distilled by.
      source: where the numbers are from.
    """

    teacher: str
    student: str
    teacher_parameters: int
    student_parameters: int
    measure: str
    teacher_result: float | None
    alone: float | None
    distilled: float | None
    method: str
    source: str


def pairs() -> tuple[Pair, ...]:
    """Lists pairs of a teacher and a student of the zoo, CIFAR's first, then ImageNet's and those of text."""
    parameters = {info.name: info.parameters for info in names()}
    found = []
    for measure, source, rows in _TABLES:
        for teacher, student, result, alone, distilled, method in rows:
            counts = (parameters[teacher], parameters[student])
            found.append(Pair(teacher, student, *counts, measure, result, alone, distilled, method, source))
    return tuple(found)


_Row = tuple[str, str, float | None, float | None, float | None, str]

_CIFAR: tuple[_Row, ...] = (
    ("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92, "KD"),
    ("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54, "KD"),
    ("resnet56", "resnet20", 72.34, 69.06, 70.66, "KD"),
    ("resnet110", "resnet20", 74.31, 69.06, 70.67, "KD"),
    ("resnet110", "resnet32", 74.31, 71.14, 73.08, "KD"),
    ("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33, "KD"),
    ("vgg13", "vgg8", 74.64, 70.36, 72.98, "KD"),
    ("vgg13", "mobilenet_v2_half", 74.64, 64.60, 67.37, "KD"),
    ("resnet50_cifar", "mobilenet_v2_half", 79.34, 64.60, 67.35, "KD"),
    ("resnet50_cifar", "vgg8", 79.34, 70.36, 73.81, "KD"),
    ("resnet32x4", "shufflenet_v1", 79.42, 70.50, 74.07, "KD"),
    ("resnet32x4", "shufflenet_v2", 79.42, 71.82, 74.45, "KD"),
    ("wrn_40_2", "shufflenet_v1", 75.61, 70.50, 74.83, "KD"),
)
# Of ResNets torchvision's first weights; EfficientNets are the paper's.
_TORCHVISION: tuple[_Row, ...] = (
    ("resnet152", "resnet50", 78.312, 76.130, None, ""),
    ("resnet152", "resnet34", 78.312, 73.314, None, ""),
    ("resnet152", "resnet18", 78.312, 69.758, None, ""),
    ("resnet152", "mobilenet_v2", 78.312, 71.878, None, ""),
    ("efficientnet_b7", "efficientnet_b4", 84.122, 83.384, None, ""),
    ("efficientnet_b7", "efficientnet_b0", 84.122, 77.692, None, ""),
)
# Pretrained on ImageNet-21k, at 224 pixels. DeiT small without its distillation token.
_VIT: tuple[_Row, ...] = (
    ("vit_large", "vit_base", 85.834, 84.532, None, ""),
    ("vit_large", "vit_small", 85.834, 81.384, None, ""),
)
_TABLES: tuple[tuple[str, str, tuple[_Row, ...]], ...] = (
    ("top-1, CIFAR-100", "README of RepDistiller; arXiv:1910.10699", _CIFAR),
    ("top-1, ImageNet", "torchvision's weights IMAGENET1K_V1, EfficientNets at their own image sizes", _TORCHVISION),
    (
        "top-1, ImageNet",
        "torchvision's weights IMAGENET1K_V1; distilled: README of mdistiller (best epoch), arXiv:2203.08679",
        (
            ("resnet34", "resnet18", 73.314, 69.758, 71.03, "KD"),
            ("resnet50", "mobilenet_v1", 76.130, None, 70.50, "KD"),
        ),
    ),
    (
        "top-1, ImageNet",
        "MMRazor's results",
        (("resnet50", "mobilenet_v2", None, 71.86, 73.56, "KD"),),
    ),
    (
        "top-1, ImageNet",
        "README of big_vision's distillation; arXiv:2106.05237",
        (("bit_152x2", "bit_50x1", 83.0, None, 82.8, "patient"),),
    ),
    ("top-1, ImageNet", "timm's results-imagenet.csv, augreg_in21k_ft_in1k", _VIT),
    (
        "top-1, ImageNet",
        "timm's results-imagenet.csv, augreg_in21k_ft_in1k; alone: arXiv:2012.12877, without its distillation token",
        (("vit_large", "deit_small", 85.834, 79.9, None, ""),),
    ),
    (
        "GLUE dev average",
        "README of DistilBERT; arXiv:1910.01108",
        (
            ("bert_base", "distilbert", 79.5, None, 77.0, "DistilBERT"),
            ("roberta_base", "distilroberta", 83.2, None, 79.0, "DistilBERT"),
        ),
    ),
    (
        "GLUE test average",
        "arXiv:1909.10351, table 1",
        (
            ("bert_base", "tinybert_4", 79.5, None, 77.0, "TinyBERT"),
            ("bert_base", "tinybert_6", 79.5, None, 79.4, "TinyBERT"),
        ),
    ),
    (
        "",
        "",
        (
            ("bert_large", "bert_base", None, None, None, ""),
            ("bert_large", "distilbert", None, None, None, ""),
            ("bert_large", "tinybert_6", None, None, None, ""),
            ("bert_base", "minilm_6", None, None, None, ""),
        ),
    ),
    (
        "perplexity, WikiText-103, zero-shot",
        "Radford et al. 2019, table 3",
        (
            ("gpt2_large", "gpt2", 22.05, 37.50, None, ""),
            ("gpt2_medium", "gpt2", 26.37, 37.50, None, ""),
            ("gpt2_large", "distilgpt2", 22.05, None, None, ""),
            ("gpt2_medium", "distilgpt2", 26.37, None, None, ""),
        ),
    ),
    (
        "perplexity, WikiText-103, fine-tuned",
        "model card of DistilGPT2",
        (("gpt2", "distilgpt2", 16.3, None, 21.1, "DistilBERT"),),
    ),
    ("", "", (("t5_large", "t5_base", None, None, None, ""), ("t5_large", "t5_small", None, None, None, ""))),
)
