"""Methods on logits: they need no features, and student and teacher may be of any kind."""

import jax

from jaxkd import losses, objectives
from jaxkd.methods._terms import after_warmup, beside
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective, on_batch, on_logits


def kd(student: Network, teacher: Network, *, temperature: Number = 4.0, alpha: Number = 0.9) -> Objective:
    """Soft labels beside hard ones: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy.

    The defaults are those of the CIFAR tables of the literature (Tian et al., 2020); the paper leaves them open. For
    ImageNet they are T = 1, alpha = 0.5.

    To expect: 70.66 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    del student, teacher
    return objectives.distillation(temperature, alpha)


def dkd(
    student: Network,
    teacher: Network,
    *,
    steps_per_epoch: float,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    alpha: Number = 1.0,
    beta: Number = 8.0,
    warmup: float = 20.0,
) -> Objective:
    """DKD: soft labels in two parts, the labelled class and the others, of which the latter count ``beta``.

    ``losses.decoupled_kd``, which has the published weights: beta is 8, 6 or 2 by pair on CIFAR-100. Its weight grows
    over ``warmup`` epochs.

    To expect: 71.97 of ResNet-56/20 (beta 2), 76.32 of ResNet-32x4/8x4 (beta 8) on CIFAR-100 (mdistiller, best epoch).

    References:
      Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022, https://arxiv.org/abs/2203.08679
    """
    del student, teacher
    own = on_logits(losses.decoupled_kd, labels=True, temperature=temperature, alpha=alpha, beta=beta)
    return beside("dkd", after_warmup(weight, warmup, steps_per_epoch), own, hard, soft, temperature)


def nkd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 3.0,
    gamma: Number = 3.5,
) -> Objective:
    """NKD: soft cross-entropies of the labelled class, and of the others made a distribution of their own.

    ``losses.normalized_kd``; the defaults are those of ResNet-34/18 on CIFAR-100. ImageNet has T = 1, gamma = 1.5.

    References:
      Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
      with Normalized Loss and Customized Soft Labels", 2023, https://arxiv.org/abs/2303.13005
    """
    del student, teacher
    own = on_logits(losses.normalized_kd, labels=True, temperature=temperature, gamma=gamma)
    return beside("nkd", weight, own, hard, soft, temperature)


def dist(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 2.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    beta: Number = 1.0,
    gamma: Number = 1.0,
) -> Objective:
    """DIST: predictions correlate with the teacher's, within each example and, over the batch, within each class.

    ``losses.dist``; the defaults are those of CIFAR-100. ImageNet has T = 1.

    To expect: 72.07 of ResNet-34/18 on ImageNet (the paper).

    References:
      Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022,
      https://arxiv.org/abs/2205.10536
    """
    del student, teacher
    own = on_batch(losses.dist, temperature=temperature, beta=beta, gamma=gamma)
    return beside("dist", weight, own, hard, soft, temperature)


def lskd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 9.0,
    hard: Number = 0.1,
    soft: Number = 0.0,
    temperature: Number = 2.0,
) -> Objective:
    """Logit standardization: soft labels of logits that both have mean 0 and standard deviation 1 over the classes.

    ``losses.soft_label_kl`` of ``losses.standardize_logits``; the defaults are those of CIFAR-100. ImageNet has a
    cross-entropy of weight 1.

    References:
      Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024,
      https://arxiv.org/abs/2403.01427
    """
    del student, teacher
    own = on_logits(_standardized_soft_label, temperature=temperature)
    return beside("lskd", weight, own, hard, soft, temperature)


def _standardized_soft_label(student_logits: jax.Array, teacher_logits: jax.Array, temperature: jax.Array) -> jax.Array:
    student, teacher = (losses.standardize_logits(x) for x in (student_logits, teacher_logits))
    return losses.soft_label_kl(student, teacher, temperature)


def mlkd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 0.9,
    hard: Number = 0.1,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    variant: str = "code",
) -> Objective:
    """MLKD: soft labels, how examples resemble one another, and how classes do, at several temperatures.

    ``losses.multi_level_kd`` of one view, as the published code has it: that shows the networks a second, strongly
    augmented one as well, and its weights go with both. The defaults are those of CIFAR-100; ImageNet has 0.5, 0.5 and
    temperatures 1, 3, 5, 2, 6.
    ``temperature`` is that of ``soft``.

    References:
      Jin, Wang, Lin, "Multi-Level Logit Distillation", 2023,
      https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    """
    del student, teacher
    own = on_batch(losses.multi_level_kd, temperatures=temperatures, variant=variant)
    return beside("mlkd", weight, own, hard, soft, temperature)


def wsld(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 2.25,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
) -> Objective:
    """WSLD: soft labels that count less where the student knows the label as well as the teacher does.

    ``losses.weighted_soft_label``; the defaults are those of ResNet-34/18 on CIFAR-100. ImageNet has 2.5 at T = 2.

    To expect: 71.54 of ResNet-34/18 on ImageNet (MMRazor).

    References:
      Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
      Tradeoff Perspective", 2021, https://arxiv.org/abs/2102.00650
    """
    del student, teacher
    own = on_logits(losses.weighted_soft_label, labels=True, temperature=temperature)
    return beside("wsld", weight, own, hard, soft, temperature)


def ttm(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 45.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    exponent: Number = 0.1,
    variant: str = "ttm",
) -> Objective:
    """TTM: only the teacher is softened, by a power of its probabilities; the student stays at temperature 1.

    ``losses.transformed_teacher_matching``; the defaults are those of VGG-13/8 on CIFAR-100. ``temperature`` is that of
    ``soft``.

    References:
      Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024,
      https://arxiv.org/abs/2402.11148
    """
    del student, teacher
    own = on_logits(losses.transformed_teacher_matching, exponent=exponent, variant=variant)
    return beside("ttm", weight, own, hard, soft, temperature)


def ctkd(
    student: Network,
    teacher: Network,
    *,
    steps_per_epoch: float,
    weight: Number = 0.9,
    hard: Number = 0.1,
    ramp: float = 10.0,
    start: float = 1.0,
    end: float = 20.0,
) -> Objective:
    """CTKD: soft labels at a temperature that is trained to make them harder, ever more so over ``ramp`` epochs.

    ``objectives.curriculum_temperature``; the defaults are those of CIFAR-100.

    References:
      Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", 2022,
      https://arxiv.org/abs/2211.16231
    """
    del student, teacher
    own = objectives.curriculum_temperature(max(1, round(ramp * steps_per_epoch)), start=start, end=end)
    return beside("ctkd", weight, own, hard)


def patient(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 0.0,
    temperature: Number = 1.0,
) -> Objective:
    """A patient and consistent teacher: soft labels alone, of one crop and mixup for both, in a very long training.

    What is the method is not in the loss: on the command line it is ``--augment crop flip mixup`` and many ``--epochs``
    (the paper's longest on ImageNet is 9600). Labels are not looked at, unless ``hard`` says so.

    To expect: 82.8 of ResNet-50 on ImageNet from BiT ResNet-152x2 (the paper).

    References:
      Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov, "Knowledge distillation: A good teacher is patient and
      consistent", 2021, https://arxiv.org/abs/2106.05237
    """
    del student, teacher
    return beside("patient", weight, objectives.soft_label(temperature), hard)


def deit_hard(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 0.5,
    hard: Number = 0.5,
    soft: Number = 0.0,
    temperature: Number = 4.0,
) -> Objective:
    """DeiT's hard distillation: the class that the teacher finds most probable is a second label.

    ``losses.hard_teacher_label``. The paper's student has a token and a head of its own for it; here both labels are
    those of the one head, which is the form of the paper for students without such a token.

    To expect: 72.2 to 74.5 of DeiT-tiny, 79.9 to 81.2 of DeiT-small on ImageNet, with the token (the paper).

    References:
      Touvron et al., "Training data-efficient image transformers & distillation through attention", 2020,
      https://arxiv.org/abs/2012.12877
    """
    del student, teacher
    return beside("deit_hard", weight, on_logits(losses.hard_teacher_label), hard, soft, temperature)
