"""Methods on maps as they are: where and how channels are active, whatever their number."""

from jaxkd import losses, objectives
from jaxkd.methods._taps import Given, one_pair, pairs
from jaxkd.methods._terms import after_warmup, beside
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective, on_features


def at(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1000.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    variant: str = "code",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """AT: the positions at which the maps have their energy are the teacher's; of all ``"stages"``, summed.

    ``losses.attention_transfer``; the defaults are those of the authors' code, CIFAR-10 and ImageNet, and of CIFAR-100
    (RepDistiller). Maps need two positions at least.

    To expect: 70.55 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
      Networks via Attention Transfer", 2016, https://arxiv.org/abs/1612.03928
    """
    taps = pairs("at", student, teacher, "stages", student_taps, teacher_taps)
    return beside("at", weight, on_features(losses.attention_transfer, *taps, variant=variant), hard, soft, temperature)


def nst(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 50.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """NST: patterns of channels over the positions are distributed as the teacher's; of all ``"stages"``, summed.

    ``losses.neuron_selectivity``; the defaults are those of CIFAR-100 (RepDistiller). Maps need two positions at least.

    To expect: 69.60 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
      https://arxiv.org/abs/1707.01219
    """
    taps = pairs("nst", student, teacher, "stages", student_taps, teacher_taps)
    return beside("nst", weight, on_features(losses.neuron_selectivity, *taps), hard, soft, temperature)


def kdsvd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    k: int = 1,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """KDSVD: singular vectors of a layer relate to those of the layer before as the teacher's do; of all ``"stages"``.

    ``losses.singular_value``; the defaults are those of mdistiller. The loss takes layers of the teacher's channels:
    where the student has others, a trained linear map of them goes before it, which published code does not have.

    References:
      Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", 2018,
      https://arxiv.org/abs/1807.06819
    """
    taps = pairs("kdsvd", student, teacher, "stages", student_taps, teacher_taps, least=2)
    own = on_features(losses.singular_value, *taps, connector="width", together=True, k=k)
    return beside("kdsvd", weight, own, hard, soft, temperature)


def ickd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 2.5,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    variant: str = "cifar",
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """ICKD: channels correlate as the teacher's do; of the last of ``"stages"``, through a 1x1 convolution.

    ``losses.inter_channel_correlation``, after a convolution and a BatchNorm that are trained and not deployed; the
    defaults are those of ResNet-32x4/8x4 on CIFAR-100. With KD ``soft`` is 1.

    To expect: 72.19 of ResNet-34/18 on ImageNet (the paper), 68.34 by torchdistill.

    References:
      Liu et al., "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", 2021,
      https://arxiv.org/abs/2202.03680
    """
    one, other = one_pair("ickd", student, teacher, "stages", student_taps, teacher_taps)
    own = on_features(losses.inter_channel_correlation, (one,), (other,), connector="norm", variant=variant)
    return beside("ickd", weight, own, hard, soft, temperature)


def ofd(
    student: Network,
    teacher: Network,
    *,
    weight: Number = 1e-3,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
    teacher_norms: Given = None,
) -> Objective:
    """OFD: maps before the ReLU are the teacher's, which count up from a margin of each channel; of all ``"pre_relu"``.

    ``objectives.overhaul``; the defaults are those of CIFAR-100. ImageNet has 1e-4. The margins come from the teacher's
    role ``"norms"``, or from ``teacher_norms``: the paths of the BatchNorms of ``teacher_taps``.

    References:
      Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      https://arxiv.org/abs/1904.01866
    """
    of_student, of_teacher = pairs("ofd", student, teacher, "pre_relu", student_taps, teacher_taps)
    norms = teacher.roles.get("norms", ()) if teacher_norms is None else teacher_norms
    if not norms:
        raise ValueError(
            'method ofd takes its margins from the role "norms" of the teacher, which has no such role: name the paths '
            "of its BatchNorms by teacher_norms, or take a teacher that has them"
        )
    own = objectives.overhaul(of_student, of_teacher, norms=norms)
    return beside("ofd", weight, own, hard, soft, temperature)


def reviewkd(
    student: Network,
    teacher: Network,
    *,
    steps_per_epoch: float,
    weight: Number = 5.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    warmup: float = 20.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> Objective:
    """ReviewKD: the student's maps, fused from the last to the first, are the teacher's at several sizes.

    ``objectives.review`` of all ``"pre_relu"`` and ``"penultimate"``, as in mdistiller, whose CIFAR-100 defaults these
    are; the authors' weights are 0.6 to 8 by pair. The weight grows over ``warmup`` epochs.

    References:
      Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, https://arxiv.org/abs/2104.09044
    """
    of_student, of_teacher = pairs("reviewkd", student, teacher, "pre_relu", student_taps, teacher_taps)
    if student_taps is None and teacher_taps is None:
        last = one_pair("reviewkd", student, teacher, "penultimate", None, None)
        of_student, of_teacher = (*of_student, last[0]), (*of_teacher, last[1])
    own = objectives.review(of_student, of_teacher)
    return beside("reviewkd", after_warmup(weight, warmup, steps_per_epoch), own, hard, soft, temperature)
