"""Methods that run a classifier on other features than its own: the teacher's, the student's, or new ones."""

import functools

import jax

from jaxkd import losses, objectives
from jaxkd.losses._maps import adaptive_average_pool
from jaxkd.methods._taps import Given, one_pair, taps
from jaxkd.methods._terms import after_warmup, beside
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective, on_class_maps, on_logits


def srrl(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    regression: Number = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SRRL: features are the teacher's, and through the teacher's classifier give its logits; of ``"map_before_pool"``.

    ``objectives.srrl``, of which ``regression`` weighs the logits; the defaults are those of the paper's code.

    References:
      Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge distillation via softmax regression representation learning",
      2021, https://openreview.net/forum?id=ZzwDy_wiWv
    """
    pair = one_pair("srrl", student, teacher, "map_before_pool", student_taps, teacher_taps)
    own = objectives.srrl(*pair, head=teacher.head, regression=regression)  # type: ignore[arg-type]
    return beside("srrl", weight, own, hard, soft, temperature)


def simkd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 0.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    factor: int = 2,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SimKD: the last map is the teacher's, through a projector that is deployed with the teacher's classifier.

    ``objectives.sim_kd`` of ``"map_before_pool"``; the defaults are those of the paper's code: it is the whole loss.

    References:
      Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", 2022,
      https://arxiv.org/abs/2203.14001
    """
    pair = one_pair("simkd", student, teacher, "map_before_pool", student_taps, teacher_taps)
    own = objectives.sim_kd(*pair, head=teacher.head, factor=factor)
    return beside("simkd", weight, own, hard, soft, temperature)


def cat_kd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 15.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    variant: str = "raw",
    size: int = 2,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """CAT-KD: class activation maps, averaged to ``size`` x ``size``, are the teacher's; of ``"map_before_pool"``.

    ``losses.class_activation`` of what each network's own classifier says about each cell; the defaults are those of
    ResNet-32x4/8x4 on CIFAR-100. Others go with other pairs: ``losses.class_activation`` lists them.

    References:
      Guo et al., "Class Attention Transfer Based Knowledge Distillation", 2023, https://arxiv.org/abs/2304.12777
    """
    pair = one_pair("cat_kd", student, teacher, "map_before_pool", student_taps, teacher_taps)

    def cells(x: jax.Array) -> jax.Array:
        axes = tuple(range(1, x.ndim - 1))
        return adaptive_average_pool(x, axes, (size,) * len(axes))

    heads = student.head, teacher.head
    own = on_class_maps(losses.class_activation, *pair, heads=heads, cells=cells, variant=variant)
    return beside("cat_kd", weight, own, hard, soft, temperature)


def sdd(
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
    grids: tuple[int, ...] = (1, 2, 4),
    warmup: float = 20.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """SDD: DKD of the whole image and of each region of it, more where a region tells something else; in ``grids``.

    ``losses.scale_decoupled_kd`` of what each network's own classifier says about each cell of ``"map_before_pool"``;
    the defaults are those of ResNet-32x4/8x4 on CIFAR-100. The weight grows over ``warmup`` epochs.

    References:
      Wei, Luo, Luo, "Scale Decoupled Distillation", 2024, https://arxiv.org/abs/2403.13512
    """
    own = on_class_maps(
        losses.scale_decoupled_kd,
        *one_pair("sdd", student, teacher, "map_before_pool", student_taps, teacher_taps),
        heads=(student.head, teacher.head),
        cells=functools.partial(losses.region_means, grids=grids),
        labels=True,
        temperature=temperature,
        alpha=alpha,
        beta=beta,
    )
    return beside("sdd", after_warmup(weight, warmup, steps_per_epoch), own, hard, soft, temperature)


def ofa(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 1.0,
    exponent: Number = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """OFA: logits, and those of classifiers on all ``"stages"``, learn from the teacher's, more of the labelled class.

    ``losses.one_for_all``, summed; teachers may be of any kind, for only their logits are learnt from. The defaults are
    those of CIFAR-100 with students that are convolutional; ImageNet has ``exponent`` 1.5.

    References:
      Hao, Guo, Han, Tang, Hu, Wang, Xu, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
      Distillation", 2023, https://arxiv.org/abs/2310.19444
    """
    stages = taps("ofa", "student", student, "stages", student_taps)
    features = taps("ofa", "teacher", teacher, "penultimate", teacher_taps)[-1]
    own = objectives.weighted_sum(
        logits=(1.0, on_logits(losses.one_for_all, labels=True, exponent=exponent, temperature=temperature)),
        stages=(1.0, objectives.one_for_all_of_stages(stages, features, exponent=exponent, temperature=temperature)),
    )
    return beside("ofa", weight, own, hard, soft, temperature)
