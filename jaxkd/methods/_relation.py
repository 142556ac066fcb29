"""Methods on relations of the examples of a batch: what two examples are to each other is the teacher's to say."""

import numpy as np

from jaxkd import losses, objectives
from jaxkd.methods._taps import Given, one_pair
from jaxkd.methods._terms import beside
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective, on_batch


def sp(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 3000.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SP: examples whose features are alike in the teacher are alike in the student; of the last of ``"stages"``.

    ``losses.similarity_preserving``; the defaults are those of CIFAR-100 (RepDistiller).

    To expect: 69.67 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019, https://arxiv.org/abs/1907.09682
    """
    taps = one_pair("sp", student, teacher, "stages", student_taps, teacher_taps)
    return beside("sp", weight, on_batch(losses.similarity_preserving, *taps), hard, soft, temperature)


def cc(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 0.02,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    width: int = 128,
    variant: str = "adjacent",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """CC: trained embeddings of both, of ``width``, differ alike from example to example; of ``"penultimate"``.

    ``objectives.correlation_congruence``; the defaults are those of CIFAR-100 (RepDistiller).

    To expect: 69.63 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Peng et al., "Correlation Congruence for Knowledge Distillation", 2019, https://arxiv.org/abs/1904.01802
    """
    taps = one_pair("cc", student, teacher, "penultimate", student_taps, teacher_taps)
    own = objectives.correlation_congruence(*taps, width=width, variant=variant)  # type: ignore[arg-type]
    return beside("cc", weight, own, hard, soft, temperature)


def rkd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    distance: Number = 25.0,
    angle: Number = 50.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """RKD: distances of pairs and angles of triplets of examples are the teacher's; of ``"penultimate"``.

    ``losses.relational_distance`` and ``losses.relational_angle``, of the weights ``distance`` and ``angle``; the
    defaults are those of CIFAR-100 (RepDistiller). Angles cost the cube of the batch.

    To expect: 69.61 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, https://arxiv.org/abs/1904.05068
    """
    taps = one_pair("rkd", student, teacher, "penultimate", student_taps, teacher_taps)
    own = objectives.weighted_sum(
        distance=(distance, on_batch(losses.relational_distance, *taps)),
        angle=(angle, on_batch(losses.relational_angle, *taps)),
    )
    return beside("rkd", weight, own, hard, soft, temperature)


def pkt(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 30000.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """PKT: the probability of examples to be neighbours is the teacher's; of ``"penultimate"``.

    ``losses.probabilistic_transfer``; the defaults are those of CIFAR-100 (RepDistiller).

    To expect: 70.34 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018,
      https://arxiv.org/abs/1803.10837
    """
    taps = one_pair("pkt", student, teacher, "penultimate", student_taps, teacher_taps)
    return beside("pkt", weight, on_batch(losses.probabilistic_transfer, *taps), hard, soft, temperature)


def crd(
    student: Network,
    teacher: Network,
    *,
    n_data: int | None = None,
    labels: np.ndarray | None = None,
    weight: Number = 0.8,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    dim: int = 128,
    negatives: int = 16384,
    contrast_temperature: Number = 0.07,
    momentum: Number = 0.5,
    variant: str = "memory",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """CRD: an example's features in student and teacher belong together, those of others do not; of ``"penultimate"``.

    ``objectives.crd``, of which ``contrast_temperature`` is the temperature; ``temperature`` is that of ``soft``. With
    the ``labels`` of all training examples negatives are of other classes, as in the published tables. The defaults
    are those of CIFAR-100; CRD with KD has ``soft`` 1.

    To expect: 71.16 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019, https://arxiv.org/abs/1910.10699
    """
    taps = one_pair("crd", student, teacher, "penultimate", student_taps, teacher_taps)
    # Only the memory has a row for every example.
    rows = {"n_data": n_data, "labels": labels} if variant == "memory" else {}
    own = objectives.crd(
        *taps,
        dim=dim,
        negatives=negatives,
        temperature=contrast_temperature,
        momentum=momentum,
        variant=variant,  # type: ignore[arg-type]
        **rows,  # type: ignore[arg-type]
    )
    return beside("crd", weight, own, hard, soft, temperature)
