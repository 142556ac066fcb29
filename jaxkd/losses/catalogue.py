"""The losses by name: what they match, where they come from, and the weights they were published with.

``jaxkd losses`` prints it. ``jaxkd.losses`` does not import it: who takes one loss needs no list of them.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxkd.losses._published import WEIGHTS, Number, Weights

__all__ = ["Loss", "Number", "Weights", "find", "losses"]


class Loss(NamedTuple):
    """A function of ``jaxkd.losses``.

    Attributes:
      name: its name.
      family: what is matched.
      paper: authors and title, in short; empty for the cross-entropy, which is no paper's.
      year: of the paper.
      arxiv: the paper's number; empty where it is not there.
      part_of: the losses that it is a part of, if it is no loss by itself.
      objectives: those of ``jaxkd.objectives`` that train with it, with connectors and memories where it needs them.
      weights: what it was published with, one for each setting; empty where nobody published any.
    """

    name: str
    family: str
    paper: str
    year: int | None
    arxiv: str
    part_of: tuple[str, ...]
    objectives: tuple[str, ...]
    weights: tuple[Weights, ...]


def losses(family: str | None = None) -> tuple[Loss, ...]:
    """All there are, or those of one family, in an order to be read in.

    Raises:
      ValueError: there is no such family.
    """
    if family is not None and family not in _PAPERS:
        raise ValueError(f"no family is called {family!r}; there are {', '.join(_PAPERS)}")
    return tuple(
        Loss(name, of, paper, year, arxiv, _PART_OF.get(name, ()), _OBJECTIVES.get(name, ()), WEIGHTS.get(name, ()))
        for of, papers in _PAPERS.items()
        if family in (None, of)
        for name, paper, year, arxiv in papers
    )


def find(name: str) -> tuple[Loss, ...]:
    """The loss of this name; else those of a paper known by it ("RKD"); else those that an objective of it trains with.

    Capitals, hyphens and underscores make no difference.

    Raises:
      ValueError: there is none; the message has the nearest names, if any are near.
    """
    wanted = _plain(name)
    names, papers, objectives = (
        {_plain(alias): found for alias, found in group.items() if alias}
        for group in (
            {loss.name: (loss,) for loss in losses()},
            _grouped((_short(loss.paper), loss) for loss in losses()),
            _grouped((objective, loss) for loss in losses() for objective in loss.objectives),
        )
    )
    known = objectives | papers | names
    if wanted in known:
        return known[wanted]
    # A part of names, or a slip of the pen.
    near = [loss.name for alias, (loss,) in names.items() if wanted and wanted in alias]
    near = near or [loss.name for alias in difflib.get_close_matches(wanted, known, n=3) for loss in known[alias]]
    said = f"nearest: {', '.join(dict.fromkeys(near))}" if near else "`jaxkd losses` lists them all"
    raise ValueError(f"no loss is called {name!r}; {said}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _short(paper: str) -> str:
    """What a paper's method goes by: the acronym in parentheses, or all that follows the authors."""
    acronym = re.search(r"\((.+)\)$", paper)
    return acronym[1] if acronym else paper.partition(", ")[2]


def _grouped(pairs: Iterable[tuple[str, Loss]]) -> dict[str, tuple[Loss, ...]]:
    groups: dict[str, tuple[Loss, ...]] = {}
    for alias, loss in pairs:
        groups[alias] = (*groups.get(alias, ()), loss)
    return groups


# By family: name, paper, year, number on arXiv.
_PAPERS: Mapping[str, tuple[tuple[str, str, int | None, str], ...]] = {
    "logits": (
        ("soft_label_kl", "Hinton et al., Distilling the Knowledge (KD)", 2015, "1503.02531"),
        ("softmax_with_temperature", "Hinton et al., Distilling the Knowledge (KD)", 2015, "1503.02531"),
        ("cross_entropy", "", None, ""),
        ("distillation_loss", "Hinton et al., Distilling the Knowledge (KD)", 2015, "1503.02531"),
        ("soft_cross_entropy", "Hinton et al., Distilling the Knowledge (KD)", 2015, "1503.02531"),
        ("hard_teacher_label", "Touvron et al., DeiT", 2020, "2012.12877"),
        ("binary_soft_label", "Yang et al., Multi-Label KD (L2D)", 2023, "2308.06453"),
        ("logit_mse", "Ba and Caruana, Do Deep Nets Need to be Deep?", 2013, "1312.6184"),
        ("decoupled_kd", "Zhao et al., Decoupled KD (DKD)", 2022, "2203.08679"),
        ("scale_decoupled_kd", "Wei et al., Scale Decoupled (SDD)", 2024, "2403.13512"),
        ("region_means", "Wei et al., Scale Decoupled (SDD)", 2024, "2403.13512"),
        ("normalized_kd", "Yang et al., Normalized Loss (NKD)", 2023, "2303.13005"),
        ("standardize_logits", "Sun et al., Logit Standardization", 2024, "2403.01427"),
        ("multi_level_kd", "Jin et al., Multi-Level Logit (MLKD)", 2023, ""),
        ("dist", "Huang et al., From A Stronger Teacher (DIST)", 2022, "2205.10536"),
        ("weighted_soft_label", "Zhou et al., Rethinking Soft Labels (WSLD)", 2021, "2102.00650"),
        ("transformed_teacher_matching", "Zheng and Yang, Transformed Teacher (TTM)", 2024, "2402.11148"),
        ("teacher_free", "Yuan et al., Label Smoothing (Tf-KD)", 2019, "1909.11723"),
        ("one_for_all", "Hao et al., One-for-All (OFA)", 2023, "2310.19444"),
        ("centered_self_distillation", "Caron et al., DINO", 2021, "2104.14294"),
        ("reverse_kl", "Gu et al., MiniLLM", 2023, "2306.08543"),
        ("generalized_jsd", "Agarwal et al., On-Policy Distillation (GKD)", 2023, "2306.13649"),
        ("skew_kl", "Ko et al., DistiLLM", 2024, "2402.03898"),
        ("skew_reverse_kl", "Ko et al., DistiLLM", 2024, "2402.03898"),
        ("total_variation", "Wen et al., f-Divergence Minimization", 2023, "2307.15190"),
        ("alpha_beta_divergence", "Wang et al., ABKD", 2025, "2505.04560"),
        ("adaptive_kl", "Wu et al., Rethinking Kullback-Leibler (AKL)", 2024, "2404.02657"),
        ("interpolated_teacher", "Shing et al., TAID", 2025, "2501.16937"),
        ("universal_logit", "Boizard et al., Universal Logit (ULD)", 2024, "2402.12030"),
        ("margin_mse", "Hofstätter et al., Margin-MSE", 2020, "2010.02666"),
        ("listwise_kl", "Lin et al., Tightly-Coupled Teachers", 2020, "2010.11386"),
    ),
    "features": (
        ("hint", "Romero et al., FitNets", 2014, "1412.6550"),
        ("attention_transfer", "Zagoruyko and Komodakis, Attention (AT)", 2016, "1612.03928"),
        ("attention_map", "Zagoruyko and Komodakis, Attention (AT)", 2016, "1612.03928"),
        ("neuron_selectivity", "Huang and Wang, Like What You Like (NST)", 2017, "1707.01219"),
        ("fsp", "Yim et al., A Gift (FSP)", 2017, ""),
        ("factor_transfer", "Kim et al., Factor Transfer (FT)", 2018, "1802.04977"),
        ("activation_boundary", "Heo et al., Activation Boundaries (AB)", 2018, "1811.03233"),
        ("overhaul", "Heo et al., Comprehensive Overhaul (OFD)", 2019, "1904.01866"),
        ("batch_norm_margin", "Heo et al., Comprehensive Overhaul (OFD)", 2019, "1904.01866"),
        ("variational_information", "Ahn et al., Variational Information (VID)", 2019, "1904.05835"),
        ("hierarchical_context", "Chen et al., Knowledge Review (ReviewKD)", 2021, "2104.09044"),
        ("channel_wise", "Shu et al., Channel-wise KD (CWD)", 2020, "2011.13256"),
        ("pearson_feature", "Cao et al., Pearson Correlation (PKD)", 2022, "2207.02039"),
        ("cosine_embedding", "Sanh et al., DistilBERT", 2019, "1910.01108"),
        ("inter_channel_correlation", "Liu et al., Inter-Channel Correlation (ICKD)", 2021, "2202.03680"),
        ("singular_value", "Lee et al., Singular Value (KDSVD)", 2018, "1807.06819"),
        ("projected_log_error", "Miles and Mikolajczyk, Projector (SRD)", 2023, "2303.11098"),
        ("norm_and_direction", "Wang et al., Norm and Direction (KD++)", 2023, "2305.17007"),
        ("class_activation", "Guo et al., Class Attention (CAT-KD)", 2023, "2304.12777"),
        ("cka", "Kornblith et al., Similarity (CKA)", 2019, "1905.00414"),
    ),
    "relations": (
        ("relational_distance", "Park et al., Relational KD (RKD)", 2019, "1904.05068"),
        ("relational_angle", "Park et al., Relational KD (RKD)", 2019, "1904.05068"),
        ("similarity_preserving", "Tung and Mori, Similarity-Preserving (SP)", 2019, "1907.09682"),
        ("correlation_congruence", "Peng et al., Correlation Congruence (CC)", 2019, "1904.01802"),
        ("probabilistic_transfer", "Passalis and Tefas, Probabilistic KT (PKT)", 2018, "1803.10837"),
        ("contrastive_representation", "Tian et al., Contrastive (CRD)", 2019, "1910.10699"),
        ("info_nce", "van den Oord et al., Predictive Coding (CPC)", 2018, "1807.03748"),
        ("clip_affinity", "Yang et al., CLIP-KD", 2023, "2307.12732"),
    ),
    "transformers": (
        ("attention_mse", "Jiao et al., TinyBERT", 2019, "1909.10351"),
        ("attention_relation", "Wang et al., MiniLM", 2020, "2002.10957"),
        ("patient_hidden", "Sun et al., Patient KD (PKD-BERT)", 2019, "1908.09355"),
    ),
    "detection": (
        ("box_distillation", "Yang et al., Cross-task Inconsistency (BCKD)", 2023, "2308.14286"),
        ("class_response", "Yang et al., Cross-task Inconsistency (BCKD)", 2023, "2308.14286"),
        ("localization_kl", "Zheng et al., Localization (LD)", 2021, "2102.12252"),
        ("focal_global", "Yang et al., Focal and Global (FGD)", 2022, "2111.11837"),
        ("object_scales", "Yang et al., Focal and Global (FGD)", 2022, "2111.11837"),
        ("fine_grained_imitation", "Wang et al., Fine-grained Imitation (FGFI)", 2019, "1906.03609"),
        ("decoupled_feature", "Guo et al., Decoupled Features (DeFeat)", 2021, "2103.14475"),
    ),
}

_PART_OF: Mapping[str, tuple[str, ...]] = {
    "softmax_with_temperature": ("soft_label_kl",),
    "cross_entropy": ("distillation_loss",),
    "region_means": ("scale_decoupled_kd",),
    "standardize_logits": ("soft_label_kl", "decoupled_kd"),
    "attention_map": ("attention_transfer",),
    "batch_norm_margin": ("overhaul",),
    "object_scales": ("focal_global",),
}

_OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "soft_label_kl": ("soft_label", "distillation", "curriculum_temperature", "class_wise_self", "be_your_own_teacher"),
    "cross_entropy": ("hard_label", "distillation", "class_wise_self", "progressive_self"),
    "distillation_loss": ("distillation",),
    "hint": ("hint", "srrl", "sim_kd", "semantic_calibration", "masked_generative"),
    "factor_transfer": ("factor_transfer",),
    "overhaul": ("overhaul",),
    "batch_norm_margin": ("overhaul",),
    "variational_information": ("vid",),
    "hierarchical_context": ("review",),
    "norm_and_direction": ("norm_and_direction",),
    "correlation_congruence": ("correlation_congruence",),
    "contrastive_representation": ("crd",),
    "info_nce": ("crd",),
    "focal_global": ("focal_global",),
}
