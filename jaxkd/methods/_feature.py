"""Methods on inner features through trained connectors, which are not deployed."""

import jax

from jaxkd import losses, objectives
from jaxkd.methods._taps import Given, one_pair, pairs, taps
from jaxkd.methods._terms import after_warmup, beside
from jaxkd.networks import Network, Variables
from jaxkd.objectives import Number, Objective, Split, on_batch


def fitnets(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 100.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """FitNets in one phase: a trained regressor makes the teacher's feature of the student's.

    ``objectives.hint`` of the middle of ``"stages"``. The paper trains the hint first and the whole with soft labels
    after; this is the one-phase form of the literature's tables, with their weight (RepDistiller, CIFAR-100).

    To expect: 69.21 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """
    one, other = one_pair("fitnets", student, teacher, "stages", student_taps, teacher_taps, of_role="middle")
    return beside("fitnets", weight, objectives.hint(one, other), hard, soft, temperature)


def vid(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """VID: the student predicts the teacher's maps, and how sure it is of each channel; of all ``"stages"``, summed.

    ``objectives.vid``; the defaults are those of CIFAR-100 (RepDistiller).

    To expect: 70.38 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", 2019,
      https://arxiv.org/abs/1904.05835
    """
    layers = zip(*pairs("vid", student, teacher, "stages", student_taps, teacher_taps), strict=True)
    own = objectives.weighted_sum(**{f"layer{i + 1}": (1.0, objectives.vid(*layer)) for i, layer in enumerate(layers)})
    return beside("vid", weight, own, hard, soft, temperature)


def ft(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 200.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    rate: float = 0.5,
    variant: str = "repdistiller",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """FT: a translator of the student's map gives the factors that a paraphraser gives of the teacher's.

    ``objectives.factor_transfer`` of ``"map_before_pool"``; the defaults are those of CIFAR-100 (RepDistiller), and 500
    goes with ``variant="code"`` on CIFAR-10. The published code trains the paraphraser first, as ``ft_staged`` does;
    here it is trained beside the student, its reconstruction with weight 1.

    To expect: 69.84 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    pair = one_pair("ft", student, teacher, "map_before_pool", student_taps, teacher_taps)
    own = objectives.factor_transfer(*pair, rate=rate, weight=weight, variant=variant)  # type: ignore[arg-type]
    return beside("ft", 1.0, own, hard, soft, temperature)


def semckd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 400.0,
    hard: Number = 1.0,
    soft: Number = 1.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SemCKD: each of the student's ``"stages"`` learns from all of the teacher's, by a trained attention.

    ``objectives.semantic_calibration``, which is built for one size of batches; the defaults are those of CIFAR-100.
    ImageNet has 50.

    References:
      Chen, Mei, Zhang, Wang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", 2020,
      https://arxiv.org/abs/2012.03236
    """
    of_student = taps("semckd", "student", student, "stages", student_taps)
    of_teacher = taps("semckd", "teacher", teacher, "stages", teacher_taps)
    own = objectives.semantic_calibration(of_student, of_teacher)
    return beside("semckd", weight, own, hard, soft, temperature)


def mgd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 7e-5,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    mask: str = "channels",
    share: float = 0.15,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """MGD: a generator makes the teacher's map of what a random mask leaves of the student's; of ``"map_before_pool"``.

    ``objectives.masked_generative``; the defaults are those of the authors' classifiers on ImageNet.

    References:
      Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", 2022, https://arxiv.org/abs/2205.01529
    """
    pair = one_pair("mgd", student, teacher, "map_before_pool", student_taps, teacher_taps)
    own = objectives.masked_generative(*pair, mask=mask, share=share)  # type: ignore[arg-type]
    return beside("mgd", weight, own, hard, soft, temperature)


def srd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 2.0,
    hard: Number = 1.0,
    soft: Number = 1.0,
    temperature: Number = 1.0,
    variant: str = "difference",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SRD: features through a linear projector, standardized over the batch, are the teacher's; of ``"penultimate"``.

    ``losses.projected_log_error``; the defaults are those of ResNet-34/18 on ImageNet.

    To expect: 71.63 of ResNet-34/18 on ImageNet (the paper), 71.92 by torchdistill.

    References:
      Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", 2023,
      https://arxiv.org/abs/2303.11098
    """
    pair = one_pair("srd", student, teacher, "penultimate", student_taps, teacher_taps)
    own = on_batch(losses.projected_log_error, *pair, projector=True, variant=variant)
    return beside("srd", weight, own, hard, soft, temperature)


def vkd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 1.0,
    temperature: Number = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """VkD: features through an orthogonal projection are the teacher's, standardized; of ``"penultimate"``.

    ``objectives.orthogonal_projection``; the defaults are those of DeiT students of a RegNetY-16GF on ImageNet, whose
    soft labels are learnt by a head of their own: here by the one there is.

    References:
      Miles, Elezi, Deng, "VkD: Improving Knowledge Distillation using Orthogonal Projections", 2024,
      https://arxiv.org/abs/2403.06213
    """
    pair = one_pair("vkd", student, teacher, "penultimate", student_taps, teacher_taps)
    return beside("vkd", weight, objectives.orthogonal_projection(*pair), hard, soft, temperature)


def nd(
    student: Network,
    teacher: Network,
    *,
    split: Split,
    classes: int,
    steps_per_epoch: float,
    weight: Number = 2.0,
    hard: Number = 1.0,
    soft: Number = 1.0,
    temperature: Number = 4.0,
    dropout: float = 0.5,
    warmup: float = 20.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """KD++: an embedding is long, and in the direction of the teacher's centre of its class; of ``"penultimate"``.

    ``objectives.norm_and_direction``, with centres from a pass of the teacher over ``split``, every training example
    once (``jaxkd.data.padded_batches``). The defaults are those of ResNet-56/20 on CIFAR-100, where the soft labels'
    weight grows over ``warmup`` epochs.

    References:
      Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", 2023,
      https://arxiv.org/abs/2305.17007
    """
    pair = one_pair("nd", student, teacher, "penultimate", student_taps, teacher_taps)

    def centers(variables: Variables) -> jax.Array:
        return objectives.class_centers(teacher, variables, split, pair[1], classes)

    own = objectives.norm_and_direction(*pair, centers, dropout=dropout)
    return beside("nd", weight, own, hard, after_warmup(soft, warmup, steps_per_epoch), temperature)
