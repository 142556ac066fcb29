"""The CIFAR-100 tables of the distillation literature: 13 pairs, their methods, and the numbers that were published.

The protocol is that of "Contrastive Representation Distillation" (Tian, Krishnan, Isola, 2020, arXiv:1910.10699) and
its code, https://github.com/HobbitLong/RepDistiller, which the field has kept since: 240 epochs of SGD over all 50,000
training images, and the accuracy of the last one. Weights are the defaults of ``jaxkd methods``, but for what
``_PARAMETERS`` says.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxkd.jobs import DistillConfig


class Pair(NamedTuple):
    """Two models, and the test accuracies in percent that were published for them, each trained alone."""

    teacher: str
    student: str
    of_teacher: float
    of_student: float

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return f"{self.teacher}-{self.student}"


PAIRS: Mapping[str, Pair] = {
    pair.name: pair
    for pair in (
        # Of one kind: the mean of 5 runs.
        Pair("wrn_40_2", "wrn_16_2", 75.61, 73.26),
        Pair("wrn_40_2", "wrn_40_1", 75.61, 71.98),
        Pair("resnet56", "resnet20", 72.34, 69.06),
        Pair("resnet110", "resnet20", 74.31, 69.06),
        Pair("resnet110", "resnet32", 74.31, 71.14),
        Pair("resnet32x4", "resnet8x4", 79.42, 72.50),
        Pair("vgg13", "vgg8", 74.64, 70.36),
        # Of two kinds: the mean of 3 runs.
        Pair("vgg13", "mobilenet_v2_half", 74.64, 64.60),
        Pair("resnet50_cifar", "mobilenet_v2_half", 79.34, 64.60),
        Pair("resnet50_cifar", "vgg8", 79.34, 70.36),
        Pair("resnet32x4", "shufflenet_v1", 79.42, 70.50),
        Pair("resnet32x4", "shufflenet_v2", 79.42, 71.82),
        Pair("wrn_40_2", "shufflenet_v1", 75.61, 70.50),
    )
}

_NONE = (None,) * 6
_REPDISTILLER: Mapping[str, tuple[float | None, ...]] = {
    # The README of RepDistiller, last epoch; None: it has no number.
    "kd": (74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98, 67.37, 67.35, 73.81, 74.07, 74.45, 74.83),
    "fitnets": (73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02, 64.14, 63.16, 70.69, 73.59, 73.54, 73.73),
    "at": (74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43, 59.40, 58.58, 71.84, 71.73, 72.73, 73.32),
    "sp": (73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68, 66.30, 68.08, 73.34, 73.48, 74.56, 74.52),
    "cc": (73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71, 64.86, 65.43, 70.25, 71.14, 71.29, 71.38),
    "vid": (74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23, 65.56, 67.57, 70.30, 73.38, 73.40, 73.61),
    "rkd": (73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48, 64.52, 64.43, 71.50, 72.28, 73.21, 72.21),
    "pkt": (74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88, 67.13, 66.52, 73.01, 74.10, 74.69, 73.89),
    "ab": (72.50, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94, 66.06, 67.20, 70.65, 73.55, 74.31, 73.34),
    "ft_staged": (73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58, 61.78, 60.99, 70.29, 71.75, 72.50, 72.03),
    "fsp": (72.91, None, 69.95, 70.11, 71.89, 72.62, 70.23, *_NONE),
    "nst": (73.68, 72.24, 69.60, 69.53, 71.96, 73.30, 71.53, 58.16, 64.96, 71.28, 74.12, 74.68, 74.89),
    "crd": (75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94, 69.73, 69.11, 74.30, 75.11, 75.65, 76.05),
}
_MDISTILLER: Mapping[str, tuple[float | None, ...]] = {
    # The README of mdistiller, the best epoch by the test split, which no run here can have. (It calls the student of
    # its last column a MobileNetV2; the number for KD beside it is that of ShuffleNetV2.)
    "dkd": (76.23, 74.81, 71.97, None, 74.11, 76.32, 74.68, 69.71, 70.35, None, 76.45, 77.07, 76.70),
    # Configurations without numbers.
    "reviewkd": (None,) * 13,
    "ofd": (None,) * 13,
    "kdsvd": (None,) * 13,
}
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    method: {name: x for name, x in zip(PAIRS, numbers, strict=True) if x is not None}
    for method, numbers in {**_REPDISTILLER, **_MDISTILLER}.items()
}
"""Test accuracies in percent by method and pair."""

# What differs from the defaults of `jaxkd methods`.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    # The second stage, where there are four of them, too.
    "fitnets": ("student_taps=stages[1]", "teacher_taps=stages[1]"),
    # The last stage, also where something stands between it and the average. The first phase has 30 of 240 epochs.
    "ft_staged": ("student_taps=stages[-1]", "teacher_taps=stages[-1]", "first=0.125"),
    "ab": ("first=0.125",),
    "fsp": ("first=0.125",),
}
_DKD_BETA = {
    **dict.fromkeys(("resnet56-resnet20", "resnet110-resnet32"), 2),
    **dict.fromkeys(("wrn_40_2-wrn_16_2", "wrn_40_2-wrn_40_1", "vgg13-vgg8", "vgg13-mobilenet_v2_half"), 6),
}
# Networks with convolutions of single channels do not learn at the rate of the others.
_SLOW = ("mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2")


def config(pair: str, method: str, *, seeds: int = 5, seed: int = 0, epochs: float = 240.0) -> DistillConfig:
    """The job of one cell of the tables, for ``jaxkd.jobs.distill``.

    Args:
      pair: one of ``PAIRS``.
      method: one of ``PUBLISHED``. With ``"kd"`` the student is trained alone, too.
      seeds: how many students, of one teacher.
      seed: of everything.
      epochs: of the students; the teacher, which all jobs of one working directory share, has as many.

    Raises:
      ValueError: there is no such pair or method.
    """
    for what, name, known in (("pair", pair, PAIRS), ("method", method, PUBLISHED)):
        if name not in known:
            raise ValueError(f"no {what} is called {name!r}: there are {', '.join(known)}")
    parameters = _PARAMETERS.get(method, ())
    if method == "dkd" and pair in _DKD_BETA:
        parameters = (f"beta={_DKD_BETA[pair]}",)
    teacher, student, *_ = PAIRS[pair]
    return DistillConfig(
        dataset="cifar100",
        teacher=teacher,
        student=student,
        method=method,
        set=parameters,
        temperature=4.0 if method == "kd" else None,
        alpha=0.9 if method == "kd" else None,
        labels="all",
        train_split="train+validation",
        alone=method == "kd",
        seeds=seeds,
        data_order="own",
        epochs=epochs,
        teacher_epochs=epochs,
        batch_size=64,
        optimizer="sgd",
        schedule="steps",
        learning_rate=0.01 if student in _SLOW else 0.05,
        teacher_learning_rate=0.05,
        augment=("crop", "flip"),
        seed=seed,
    )
