"""What there is by name, for the command line."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxkd.methods import (
    _assistants,
    _classifier,
    _feature,
    _generations,
    _maps,
    _own,
    _relation,
    _response,
    _teachers,
    _together,
    _two_phases,
)
from jaxkd.methods._training import Stage
from jaxkd.networks import Network
from jaxkd.objectives import Objective

FROM_TRAINING = ("n_data", "labels", "classes", "split", "steps", "steps_per_epoch", "training")
"""What methods may ask of the training they are for, by the name of the parameter: the number of its examples, all
their labels (None if some have none), the number of classes, the examples once (``jaxkd.data.padded_batches``), the
steps of the training and of an epoch, and how learners are made (``Training``)."""


class Method(NamedTuple):
    """A way to distil.

    Attributes:
      name: its name on the command line.
      family: what is matched.
      year: of the paper.
      paper: authors and title, with the arXiv number.
      function: ``(student, teacher, **parameters)`` gives its objective, or its stages if it asks for ``training``; see
        its docstring for where its defaults come from.
      phases: how many trainings of the student, of others for it, or of both there are.
    """

    name: str
    family: str
    year: int
    paper: str
    function: Callable[..., Objective | tuple[Stage, ...]]
    phases: str = "1"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its parameters with their defaults, those in ``FROM_TRAINING`` left out.

        None: it depends on the networks, or there is none and it has to be given.
        """
        return {
            name: None if parameter.default is parameter.empty else parameter.default
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name not in FROM_TRAINING
        }

    @property
    def from_training(self) -> tuple[str, ...]:
        """Which of ``FROM_TRAINING`` it asks for."""
        return tuple(name for name in inspect.signature(self.function).parameters if name in FROM_TRAINING)

    @property
    def staged(self) -> bool:
        """Whether it is one or more phases of its own, instead of an objective for a learner of ``distill``."""
        return "training" in self.from_training

    @property
    def maps(self) -> bool:
        """Whether it matches maps, which a network of dense layers has none of."""
        return self.family == "map" or self.name in _ON_MAPS


def methods() -> tuple[Method, ...]:
    """All methods there are."""
    return tuple(
        Method(function.__name__, family, year, paper, function, *phases)
        for family, of_family in _METHODS.items()
        for function, year, paper, *phases in of_family
    )


def find(name: str) -> Method:
    """The method of this name.

    Raises:
      ValueError: there is none; the message has the nearest names.
    """
    by_name = {method.name: method for method in methods()}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4) or sorted(by_name)
        raise ValueError(f"no method is called {name!r}; nearest: {', '.join(near)}")
    return by_name[name]


def create(name: str, student: Network, teacher: Network, **parameters: Any) -> Objective | tuple[Stage, ...]:
    """The objective of a method for two networks, or its stages, with some of its parameters given.

    Raises:
      ValueError: there is no such method (the message has the nearest names), it has no such parameter or needs one
        more, or whatever it says to these networks.
    """
    method = find(name)
    _check_known(method, parameters)
    if missing := [needed for needed in _required(method) if needed not in parameters]:
        raise ValueError(f"method {name} needs {', '.join(missing)}: see jaxkd.methods.{name}")
    return method.function(student, teacher, **parameters)


def parse(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Parameters of a method as they are written on the command line: ``["weight=10", "student_taps=stage1,stage2"]``.

    A value is of the kind of the default: a number, a word, or several with commas between; names of taps likewise.

    Raises:
      ValueError: there is no such method, it has no such parameter, one is given twice, or a value is of another kind.
    """
    method = find(name)
    values: dict[str, Any] = {}
    for text in texts:
        parameter, given, value = (part.strip() for part in text.partition("="))
        if not (parameter and given and value):
            raise ValueError(f"{text!r} is no parameter: write name=value")
        if parameter in values:
            raise ValueError(f"{parameter} of method {name} is given twice")
        _check_known(method, (parameter,))
        if parameter not in method.parameters:
            raise ValueError(f"{parameter} of method {name} is the training's to say")
        values[parameter] = _parsed(f"{parameter} of method {name}", value, method.parameters[parameter])
    return values


def _parsed(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, int | float):
        return _number(what, text, type(default))
    words = tuple(word.strip() for word in text.split(","))
    return words if default is None else tuple(_number(what, word, type(default[0])) for word in words)


def _number(what: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} is {text!r}: it has to be {'a whole number' if kind is int else 'a number'}")
    return value


def _required(method: Method) -> list[str]:
    parameters = inspect.signature(method.function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty]


def _check_known(method: Method, names: Iterable[str]) -> None:
    known = {*method.parameters, *method.from_training}
    if unknown := sorted(set(names) - known):
        raise ValueError(
            f"method {method.name} has no parameter {', '.join(unknown)}; it has {', '.join(method.parameters)}"
        )


# By family: function, year, paper, and the phases where they are not one.
_METHODS: Mapping[str, tuple[tuple[Any, ...], ...]] = {
    "response": (
        (_response.kd, 2015, "Hinton et al., Distilling the Knowledge, arXiv:1503.02531"),
        (_response.deit_hard, 2020, "Touvron et al., DeiT, arXiv:2012.12877"),
        (_response.patient, 2021, "Beyer et al., A Good Teacher is Patient, arXiv:2106.05237"),
        (_response.wsld, 2021, "Zhou et al., Rethinking Soft Labels, arXiv:2102.00650"),
        (_response.dkd, 2022, "Zhao et al., Decoupled KD, arXiv:2203.08679"),
        (_response.dist, 2022, "Huang et al., From A Stronger Teacher, arXiv:2205.10536"),
        (_response.ctkd, 2022, "Li et al., Curriculum Temperature, arXiv:2211.16231"),
        (_response.nkd, 2023, "Yang et al., Normalized Loss, arXiv:2303.13005"),
        (_response.mlkd, 2023, "Jin et al., Multi-Level Logit Distillation, CVPR 2023"),
        (_response.ttm, 2024, "Zheng and Yang, Transformed Teacher Matching, arXiv:2402.11148"),
        (_response.lskd, 2024, "Sun et al., Logit Standardization, arXiv:2403.01427"),
    ),
    "feature": (
        (_feature.fitnets, 2014, "Romero et al., FitNets, arXiv:1412.6550"),
        (_feature.ft, 2018, "Kim et al., Factor Transfer, arXiv:1802.04977"),
        (_feature.vid, 2019, "Ahn et al., Variational Information, arXiv:1904.05835"),
        (_feature.semckd, 2020, "Chen et al., Semantic Calibration, arXiv:2012.03236"),
        (_feature.mgd, 2022, "Yang et al., Masked Generative, arXiv:2205.01529"),
        (_feature.srd, 2023, "Miles and Mikolajczyk, Role of the Projector, arXiv:2303.11098"),
        (_feature.nd, 2023, "Wang et al., Feature Norm and Direction (KD++), arXiv:2305.17007"),
        (_feature.vkd, 2024, "Miles et al., Orthogonal Projections, arXiv:2403.06213"),
    ),
    "map": (
        (_maps.at, 2016, "Zagoruyko and Komodakis, Attention, arXiv:1612.03928"),
        (_maps.nst, 2017, "Huang and Wang, Like What You Like, arXiv:1707.01219"),
        (_maps.kdsvd, 2018, "Lee et al., Singular Value Decomposition, arXiv:1807.06819"),
        (_maps.ofd, 2019, "Heo et al., Comprehensive Overhaul, arXiv:1904.01866"),
        (_maps.reviewkd, 2021, "Chen et al., Knowledge Review, arXiv:2104.09044"),
        (_maps.ickd, 2021, "Liu et al., Inter-Channel Correlation, arXiv:2202.03680"),
    ),
    "relation": (
        (_relation.pkt, 2018, "Passalis and Tefas, Probabilistic Transfer, arXiv:1803.10837"),
        (_relation.cc, 2019, "Peng et al., Correlation Congruence, arXiv:1904.01802"),
        (_relation.rkd, 2019, "Park et al., Relational KD, arXiv:1904.05068"),
        (_relation.sp, 2019, "Tung and Mori, Similarity-Preserving, arXiv:1907.09682"),
        (_relation.crd, 2019, "Tian et al., Contrastive Representation, arXiv:1910.10699"),
    ),
    "classifier": (
        (_classifier.srrl, 2021, "Yang et al., Softmax Regression, ICLR 2021"),
        (_classifier.simkd, 2022, "Chen et al., Reused Teacher Classifier, arXiv:2203.14001"),
        (_classifier.cat_kd, 2023, "Guo et al., Class Attention Transfer, arXiv:2304.12777"),
        (_classifier.ofa, 2023, "Hao et al., One-for-All, arXiv:2310.19444"),
        (_classifier.sdd, 2024, "Wei et al., Scale Decoupled, arXiv:2403.13512"),
    ),
    "teacher-less": (
        (_own.byot, 2019, "Zhang et al., Be Your Own Teacher, arXiv:1905.08094"),
        (_own.tfkd, 2019, "Yuan et al., Label Smoothing Regularization, arXiv:1909.11723"),
        (_own.cskd, 2020, "Yun et al., Class-wise Self-KD, arXiv:2003.13964"),
        (_own.pskd, 2020, "Kim et al., Progressive Refinement, arXiv:2006.12000"),
    ),
    "phases": (
        (_two_phases.fitnets_staged, 2014, "Romero et al., FitNets, arXiv:1412.6550", "2"),
        (_two_phases.fsp, 2017, "Yim et al., A Gift from Knowledge Distillation, CVPR 2017", "2"),
        (_teachers.several, 2017, "You et al., Multiple Teacher Networks, KDD 2017", "others + 1"),
        (_two_phases.ft_staged, 2018, "Kim et al., Factor Transfer, arXiv:1802.04977", "2"),
        (_two_phases.ab, 2018, "Heo et al., Activation Boundaries, arXiv:1811.03233", "2"),
        (_generations.ban, 2018, "Furlanello et al., Born Again Neural Networks, arXiv:1805.04770", "generations"),
        (_assistants.takd, 2019, "Mirzadeh et al., Teacher Assistant, arXiv:1902.03393", "assistants + 1"),
        (_assistants.dgkd, 2020, "Son et al., Densely Guided KD, arXiv:2009.08825", "assistants + 1"),
        (_teachers.progressive, 2019, "Mirzadeh et al., with the student carried, arXiv:1902.03393", "2 medium + 1"),
    ),
    "together": (
        (_together.dml, 2017, "Zhang et al., Deep Mutual Learning, arXiv:1706.00384"),
        (_together.ema, 2017, "Tarvainen and Valpola, Mean Teachers, arXiv:1703.01780"),
        (_together.one, 2018, "Lan et al., On-the-Fly Native Ensemble (ONE), arXiv:1806.04606"),
        (_together.kdcl, 2020, "Guo et al., Collaborative Learning (KDCL), CVPR 2020"),
        (_together.online, 2014, "Lee et al., Deeply-Supervised Nets, for its heads, arXiv:1409.5185"),
    ),
}

# Of other families than "map".
_ON_MAPS = frozenset({"ab", "byot", "cat_kd", "fsp", "ft", "ft_staged", "mgd", "sdd", "semckd", "simkd", "srrl"})
