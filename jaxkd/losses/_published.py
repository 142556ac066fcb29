"""The weights that the losses were published with: of each, and of the terms that stood beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Number = float | tuple[float, ...] | None


class Weights(NamedTuple):
    """One published setting.

    All weights are of means over the batch, for language models over the valid tokens. A tuple: one of these, found by
    search. None: not said.

    Attributes:
      setting: data and models.
      source: whose code or paper: a system's name, or a repository.
      own: the weight of the loss itself. None also for what is no loss by itself.
      hard: of the cross-entropy with the labels, or of what the task has in its place; 0 where there is none.
      soft: of ``soft_label_kl`` beside the loss; 0 where there is none, as beside ``soft_label_kl`` itself.
      temperature: of that ``soft_label_kl``; None where there is none.
      arguments: those of the loss with which the weight goes.
      beside: other terms and their weights, and what else has to be known.
    """

    setting: str
    source: str
    own: Number
    hard: Number
    soft: Number
    temperature: Number
    arguments: Mapping[str, Any]
    beside: str


def _at(
    setting: str,
    source: str,
    own: Number,
    hard: Number = 1,
    *,
    kd: tuple[Number, Number] = (0, None),
    beside: str = "",
    **arguments: Any,
) -> Weights:
    """A setting as it is most often: a cross-entropy of weight 1, no soft labels. ``kd``: their weight, and T."""
    return Weights(setting, source, own, hard, *kd, arguments, beside)


_RD = "RepDistiller"
_MD = "mdistiller"
_RD_MD = "RepDistiller, mdistiller"
_TD = "torchdistill"
_MD_TD = "mdistiller, torchdistill"
_MR = "MMRazor"
_PAPER = "the paper"
_ABKD = "ghwang-s/abkd"
_BCKD = "TinyTigerPan/BCKD"
_CAT_KD = "GzyAftermath/CAT-KD"
_CLIP_KD = "winycg/CLIP-KD"
_DEFEAT = "ggjy/DeFeat.pytorch"
_DEIT = "facebookresearch/deit"
_DINO = "facebookresearch/dino"
_DISTILBERT = "huggingface/transformers-research-projects"
_DISTILLM = "jongwooko/distillm"
_DISTILLM_2 = "jongwooko/distillm-2"
_FGD = "yzd-v/FGD"
_ICKD = "ADLab-AutoDrive/ICKD"
_KD_PP = "WangYZ1608/Knowledge-Distillation-via-ND"
_LD = "HikariTJU/LD"
_LSKD = "sunshangquan/logit-standardization-KD"
_MLKD = "Jin-Ying/Multi-Level-Logit-Distillation"
_OFD = "clovaai/overhaul-distillation, mdistiller"
_PKD_BERT = "intersun/PKD-for-BERT-Model-Compression"
_REVIEW = "dvlab-research/ReviewKD"
_SDD = "shicaiwei123/SDD-CVPR2024"
_SRRL = "jingyang2017/KD_SRRL"
_TF_KD = "yuanli2333/Teacher-free-Knowledge-Distillation"
_TINYBERT = "huawei-noah/Pretrained-Language-Model"
_TTM = "zkxufo/TTM"

_R34_R18 = "ImageNet, ResNet-34/18"
_SAMPLE = "a sample configuration"
_RAMP = "raised from 0 over 20 epochs"
_RAMP_1 = "raised from 0 over an epoch"
_SOFT_RAMP = "KD raised from 0 over 20 epochs"
_STRONG_VIEW = "terms of a second, strong view"
_BANK = "positives, too, are rows of the banks"
_BY_POSITIVES = "normalizer: positives / images"

WEIGHTS: Mapping[str, tuple[Weights, ...]] = {
    "soft_label_kl": (
        _at("CIFAR-100", _RD_MD, 0.9, 0.1, temperature=4),
        _at("ImageNet", _MD_TD, 0.5, 0.5, temperature=1),
        _at(_R34_R18, _MR, 3, temperature=1),
        _at("ImageNet, mixup of one image", "big_vision", 1, 0, temperature=1),
        _at("ImageNet, DeiT (soft)", _DEIT, 0.0005, 0.5, temperature=1, beside="0.5 of the 1000 classes' mean"),
        _at("DistilBERT", _DISTILBERT, 5, 2, temperature=2, beside="cosine_embedding 1; hard: masked LM"),
        _at("distil-whisper", "huggingface/distil-whisper", 1, 0.8, temperature=2),
        _at("GPT-2 on Dolly", "microsoft/LMOps", 0.5, 0.5, temperature=1),
    ),
    "distillation_loss": (
        _at("CIFAR-100", _RD_MD, 1, 0, temperature=4, alpha=0.9),
        _at("ImageNet", _MD_TD, 1, 0, temperature=1, alpha=0.5),
    ),
    "soft_cross_entropy": (
        _at("TextBrewer's default", "TextBrewer", 0.0625, 0, temperature=4, beside="1 without T^2"),
        _at("TinyBERT's second phase, 2 classes", _TINYBERT, 0.5, 0, temperature=1, beside="1 of the classes' mean"),
    ),
    "hard_teacher_label": (_at("ImageNet, DeiT", "facebookresearch/deit, MMRazor", 0.5, 0.5),),
    "binary_soft_label": (
        _at("COCO, ResNet-101/34", "penghui-yang/L2D", 10, beside="embeddings of labels 100 and 1000"),
    ),
    "logit_mse": (
        _at("CIFAR-100", "jhoon-oh/kd_data", 1, 0),
        _at("ImageNet, SRRL", _SRRL, 1, beside="hint 1; logits of the teacher's classifier"),
    ),
    "decoupled_kd": (
        _at("CIFAR-100", _MD, 1, temperature=4, alpha=1, beta=8, beside=_RAMP),
        _at("CIFAR-100, ResNet-56/20, 110/32", _MD, 1, temperature=4, alpha=1, beta=2, beside=_RAMP),
        _at("CIFAR-100, WRN pairs, VGG-13/8, VGG-13/MobileNetV2", _MD, 1, temperature=4, alpha=1, beta=6, beside=_RAMP),
        _at(_R34_R18, _MD, 1, temperature=1, alpha=1, beta=0.5, beside=_RAMP_1),
        _at("ImageNet, ResNet-50/MobileNetV1", _MD, 1, temperature=1, alpha=1, beta=2, beside=_RAMP_1),
    ),
    "scale_decoupled_kd": (
        _at("CIFAR-100, ResNet-32x4/8x4", _SDD, 1, temperature=4, alpha=1, beta=8, beside="grids (1, 2, 4)"),
        _at(_R34_R18, _SDD, 1, temperature=1, alpha=1, beta=0.5),
        _at("ImageNet, ResNet-50/MobileNetV2", _SDD, 1, temperature=1, alpha=1, beta=2),
    ),
    "normalized_kd": (
        _at("ImageNet", "yzd-v/cls_KD", 1, temperature=1, gamma=1.5),
        _at("CIFAR-100, ResNet-34/18", "yzd-v/cls_KD", 1, temperature=3, gamma=3.5),
    ),
    "standardize_logits": (
        _at("CIFAR-100", _LSKD, None, 0.1, kd=(9, 2)),
        _at("ImageNet", _LSKD, None, kd=(9, 2)),
        _at(_R34_R18, _TD, None, 0.5, kd=(9, 2)),
    ),
    "multi_level_kd": (
        _at("CIFAR-100", _MLKD, 0.9, 0.1, variant="code", temperatures=(2, 3, 4, 5, 6), beside=_STRONG_VIEW),
        _at("ImageNet", _MLKD, 0.5, 0.5, variant="code", temperatures=(1, 3, 5, 2, 6), beside=_STRONG_VIEW),
    ),
    "dist": (
        _at("ImageNet", "torchdistill, MMRazor", 2, temperature=1, beta=1, gamma=1),
        _at("CIFAR-100", _PAPER, 2, temperature=4, beta=1, gamma=1),
    ),
    "weighted_soft_label": (
        _at("ImageNet", "bellymonster/Weighted-Soft-Label-Distillation, MMRazor", 2.5, temperature=2),
        _at("CIFAR-100, ResNet-34/18", "yzd-v/cls_KD", 2.25, temperature=4),
    ),
    "transformed_teacher_matching": (
        _at("CIFAR-100, VGG-13/8", _TTM, 45, exponent=0.1, variant="ttm"),
        _at(
            "CIFAR-100, VGG-13/8, with CRD",
            _TTM,
            4,
            exponent=0.2,
            variant="wttm",
            beside="contrastive_representation 0.8",
        ),
    ),
    "teacher_free": (
        _at("CIFAR-100, ResNet-18", _TF_KD, 10, 0.9, temperature=20, variant="code"),
        _at("CIFAR-100, GoogLeNet", _TF_KD, 5, 0.9, temperature=40, variant="code"),
        _at("CIFAR-100, MobileNetV2", _TF_KD, 0.95, 0.05, temperature=40, variant="code"),
        _at("CIFAR-100, ShuffleNetV2", _TF_KD, 0.95, 0.05, temperature=10, variant="code"),
    ),
    "one_for_all": (
        _at("CIFAR-100, CNN students", "Hao840/OFAKD", 1, exponent=1, temperature=1, beside="the same of four stages"),
        _at("ImageNet", "Hao840/OFAKD", 1, exponent=1.5, temperature=1, beside="the same of four stages"),
    ),
    "centered_self_distillation": (
        _at(
            "ImageNet",
            _DINO,
            1,
            0,
            student_temperature=0.1,
            teacher_temperature=0.04,
            beside="mean over pairs of views",
        ),
    ),
    "reverse_kl": (_at("MiniLLM's single-step term", "TRL", 1, 0, temperature=1, beside="policy gradient"),),
    "generalized_jsd": (_at("GKD", "TRL", 1, 0, beta=0.5, beside="half of the answers are the student's"),),
    "skew_kl": (
        _at("DistiLLM, GPT-2 on Dolly", _DISTILLM, 1, 0, alpha=0.1, variant="code", beside="LM loss on other text"),
        _at(
            "DistiLLM-2, the teacher's answers",
            _DISTILLM_2,
            1,
            0,
            alpha=0.1,
            variant="paper",
            beside="skew_reverse_kl on the student's",
        ),
    ),
    "skew_reverse_kl": (
        _at("DistiLLM", _DISTILLM, 1, 0, alpha=0.1, variant="paper", beside="LM loss on other text"),
        _at(
            "DistiLLM-2, the student's answers",
            _DISTILLM_2,
            1,
            0,
            alpha=0.1,
            variant="detached",
            beside="skew_kl on the teacher's",
        ),
    ),
    "total_variation": (_at("DART", "MANGA-UOFA/fdistill", 1, 0),),
    "alpha_beta_divergence": (
        _at(
            "language models",
            _ABKD,
            None,
            None,
            alpha=0.5,
            beta=0.5,
            variant="continuous",
            beside="w of it, 1 - w of the LM loss",
        ),
        _at("CIFAR-100, ResNet-56/20", _ABKD, 32, None, alpha=0.8, beta=0.3, variant="continuous"),
    ),
    "adaptive_kl": (_at("GPT-2 on Dolly", "wutaiqiang/LLM_KD_AKL", 0.5, 0.5, mu=0.5),),
    "interpolated_teacher": (
        _at("language models", "SakanaAI/TAID", 1, 0, variant="code", beside="u grows from 0.4 to 1"),
    ),
    "universal_logit": (_at("language models", "Nicolas-BZRD/llm-recipes", 1.5),),
    "margin_mse": (_at("MS MARCO", _PAPER, 1, 0),),
    "listwise_kl": (_at("Sentence Transformers' default", "UKPLab/sentence-transformers", 1, 0, temperature=1),),
    "hint": (
        _at("CIFAR-100", _RD_MD, 100, beside="of one middle layer"),
        _at("TinyBERT, hidden states", _TINYBERT, 1, 0, beside="attention_mse 1"),
        _at("ImageNet, SRRL, pooled features", _SRRL, 1, beside="logit_mse 1, by the teacher's classifier"),
        _at("CLIP-KD, unit embeddings", _CLIP_KD, 2000, beside="clip_affinity 1, info_nce 1; hard: CLIP's loss"),
    ),
    "attention_transfer": (
        _at("CIFAR-100, three stages", _RD_MD, 1000, variant="code"),
        _at("ImageNet, ResNet-34/18, two layers", _TD, 1000, variant="code"),
    ),
    "neuron_selectivity": (_at("CIFAR-100", _RD_MD, 50),),
    "fsp": (_at("CIFAR-100, a stage of its own", _RD, 50, 0, variant="code", beside="nominal: the only term"),),
    "factor_transfer": (
        _at("CIFAR-10, ResNet-56/20", "Jangho-Kim/Factor-Transfer-pytorch", 500, variant="code"),
        _at("CIFAR-100", _RD, 200, variant="repdistiller"),
        _at(_R34_R18, _TD, 1000, variant="code"),
    ),
    "activation_boundary": (
        _at("CIFAR-100, the 30 first epochs, last layer", _RD, 0.003, 0, margin=1, beside="half for each layer before"),
    ),
    "overhaul": (
        _at("CIFAR-100, last layer", _OFD, 0.001, beside="half for each layer before"),
        _at("ImageNet, last layer", _OFD, 0.0001, beside="half for each layer before"),
    ),
    "variational_information": (_at("CIFAR-100, three stages", _RD_MD, 1),),
    "hierarchical_context": (
        _at("CIFAR-100", _MD, 5, beside=_RAMP),
        _at("CIFAR-100, ResNet-56/20", _REVIEW, 0.6, beside=_RAMP),
        _at("CIFAR-100, ResNet-110/32", _REVIEW, 1, beside=_RAMP),
        _at("CIFAR-100, ResNet-32x4/ShuffleNetV2", _REVIEW, 8, beside=_RAMP),
        _at(_R34_R18, _MD_TD, 1, beside=_RAMP_1),
        _at("ImageNet, ResNet-50/MobileNetV1", _MD, 8, beside=_RAMP_1),
    ),
    "channel_wise": (
        _at("Cityscapes, logits", "irfanICMLL/TorchDistiller", 3, temperature=4),
        _at("segmentation, logits", _MR, 5, temperature=1),
        _at("detection, each level", _MR, 10, temperature=1),
    ),
    "pearson_feature": (
        _at("COCO, each level", _MR, 6),
        _at("COCO, detectors of different kinds", _MR, 10),
    ),
    "cosine_embedding": (
        _at("DistilBERT", _DISTILBERT, 1, 2, kd=(5, 2)),
        _at("DistilBERT, several GPUs", _DISTILBERT, 0.33, 0.33, kd=(0.33, 2)),
    ),
    "inter_channel_correlation": (
        _at("CIFAR-100, ResNet-32x4/8x4", _ICKD, 2.5, variant="cifar"),
        _at("CIFAR-100, ResNet-32x4/8x4, with soft labels", _ICKD, 2.5, kd=(1, 4), variant="cifar"),
        _at("ImageNet, ResNet-34/18, batches of 256", _ICKD, 1, variant="imagenet"),
        _at(_R34_R18, _TD, 500, variant="imagenet"),
    ),
    "singular_value": (_at("CIFAR-100", _MD, 1, k=1),),
    "projected_log_error": (
        _at(_R34_R18, "roymiles/Simple-Recipe-Distillation, torchdistill", 2, kd=(1, 1), variant="difference"),
    ),
    "norm_and_direction": (
        _at("CIFAR-100, ResNet-56/20", _KD_PP, 2, kd=(1, 4), beside=_SOFT_RAMP),
        _at("CIFAR-100, ResNet-32x4/8x4", _KD_PP, 2, kd=(3.5, 4), beside=_SOFT_RAMP),
        _at("CIFAR-100, WRN-40-2/40-1", _KD_PP, 1.5, kd=(1, 4), beside=_SOFT_RAMP),
        _at("CIFAR-100, ResNet-50/MobileNetV2", _KD_PP, 0.5, kd=(3, 4), beside=_SOFT_RAMP),
        _at("CIFAR-100, ResNet-32x4/ShuffleNetV1", _KD_PP, 1.5, kd=(2.5, 4), beside=_SOFT_RAMP),
        _at("CIFAR-100, ResNet-32x4/ShuffleNetV2", _KD_PP, 0.5, kd=(4, 4), beside=_SOFT_RAMP),
    ),
    "class_activation": (
        _at("CIFAR-100, ResNet-56/20", _CAT_KD, 0.7, variant="raw"),
        _at("CIFAR-100, ResNet-110/32", _CAT_KD, 1.8, variant="raw"),
        _at("CIFAR-100, ResNet-32x4/8x4", _CAT_KD, 15, variant="raw"),
        _at("CIFAR-100, WRN-40-2/16-2", _CAT_KD, 12, variant="raw"),
        _at("CIFAR-100, WRN-40-2/40-1", _CAT_KD, 1.5, variant="raw"),
        _at("CIFAR-100, VGG-13/8", _CAT_KD, 4.5, variant="raw"),
        _at("CIFAR-100, VGG-13/MobileNetV2", _CAT_KD, 15, variant="normalized"),
        _at("CIFAR-100, ResNet-50/MobileNetV2", _CAT_KD, 40, variant="normalized"),
        _at("CIFAR-100, WRN-40-2/ShuffleNetV1, maps 4x4", _CAT_KD, 80, variant="normalized"),
        _at("CIFAR-100, ResNet-32x4/ShuffleNetV1, V2, maps 4x4", _CAT_KD, 600, variant="normalized"),
        _at("ImageNet, ResNet-34/18, maps 4x4", _CAT_KD, 0.5, variant="raw"),
        _at("ImageNet, ResNet-50/MobileNet", _CAT_KD, 10, variant="normalized"),
    ),
    "relational_distance": (
        _at("CIFAR-100", _RD_MD, 25, variant="positive_pairs", beside="relational_angle 50"),
        _at(_R34_R18, _MR, 25, variant="positive_pairs", beside="relational_angle 50; features of length 1"),
        _at(_SAMPLE, _TD, 1, variant="positive_pairs", beside="relational_angle 2"),
    ),
    "relational_angle": (
        _at("CIFAR-100", _RD_MD, 50, beside="relational_distance 25"),
        _at(_R34_R18, _MR, 50, beside="relational_distance 25; features of length 1"),
        _at(_SAMPLE, _TD, 2, beside="relational_distance 1"),
    ),
    "similarity_preserving": (
        _at("CIFAR-100", _RD_MD, 3000, variant="l2_rows"),
        _at(_SAMPLE, _TD, 1, variant="l1_rows"),
    ),
    "correlation_congruence": (
        _at("CIFAR-100", _RD, 0.02, variant="adjacent"),
        _at(_SAMPLE, _TD, 0.003, variant="kernel_norm", gamma=0.4),
    ),
    "probabilistic_transfer": (
        _at("CIFAR-100", _RD_MD, 30000),
        _at(_SAMPLE, _TD, 30000, 0),
    ),
    "contrastive_representation": (
        _at("CIFAR-100", _RD_MD, 0.8, temperature=0.07, beside=_BANK),
        _at("CIFAR-100, with soft labels", _RD, 0.8, kd=(1, 4), temperature=0.07, beside=_BANK),
        _at(_R34_R18, _TD, 0.8, temperature=0.07, beside=_BANK),
    ),
    "info_nce": (
        _at("CLIP-KD, each of two directions", _CLIP_KD, 0.5, beside="hint 2000, clip_affinity 1; hard: CLIP's loss"),
    ),
    "clip_affinity": (_at("CLIP-KD", _CLIP_KD, 1, variant="kl", beside="hint 2000, info_nce 1; hard: CLIP's loss"),),
    "attention_mse": (
        _at("TinyBERT's first phase", _TINYBERT, 1, 0, variant="code", beside="hint of hidden states 1"),
    ),
    "attention_relation": (
        _at("MiniLM, (Q, K) and (V, V)", _PAPER, 1, 0),
        _at("MiniLMv2, base teacher, each of three pairs", _PAPER, 1, 0, relation_heads=48),
        _at("MiniLMv2, large teacher, each of three pairs", _PAPER, 1, 0, relation_heads=64),
        _at("MiniLMv2, port, each of three pairs", "bloomberg/minilmv2.bb", 1 / 3, 0),
    ),
    "patient_hidden": (
        _at(
            "GLUE",
            _PKD_BERT,
            (10, 100, 500, 1000),
            (0.3, 0.5, 0.8),
            kd=((0.2, 0.5, 0.7), (5, 10, 20)),
            variant="code",
            beside="KD of the classes' mean; CE + KD = 1",
        ),
    ),
    "box_distillation": (
        _at(
            "COCO, GFL",
            _BCKD,
            4,
            variant="giou",
            beside=f"weights: how far class scores are apart; {_BY_POSITIVES}; class_response 1",
        ),
    ),
    "class_response": (_at("COCO, GFL", _BCKD, 1, beta=1, beside=f"{_BY_POSITIVES}; box_distillation 4"),),
    "localization_kl": (
        _at(
            "COCO, GFL, positives",
            _LD,
            0.5,
            temperature=10,
            variant="code",
            beside="weights: the student's largest score; in the code 0.25 of the sum of 2 images",
        ),
        _at(
            "COCO, GFL, valuable regions",
            _LD,
            0.125,
            temperature=10,
            variant="code",
            beside="weights: IoU; in the code 0.0625 of the sum of 2 images",
        ),
    ),
    "focal_global": (
        _at(
            "COCO, one stage: the code's defaults",
            _FGD,
            1,
            foreground_weight=1e-3,
            background_weight=5e-4,
            attention_weight=1e-3,
            relation_weight=5e-6,
            temperature=0.5,
        ),
        _at(
            "COCO, RetinaNet, GFL",
            _FGD,
            1,
            foreground_weight=1e-3,
            background_weight=5e-4,
            attention_weight=5e-4,
            relation_weight=5e-6,
            temperature=0.5,
        ),
        _at(
            "COCO, Faster R-CNN",
            _FGD,
            1,
            foreground_weight=5e-5,
            background_weight=2.5e-5,
            attention_weight=5e-5,
            relation_weight=5e-7,
            temperature=0.5,
        ),
        _at(
            "COCO, FCOS",
            _FGD,
            1,
            foreground_weight=1.6e-3,
            background_weight=8e-4,
            attention_weight=8e-4,
            relation_weight=8e-6,
            temperature=0.8,
        ),
    ),
    "fine_grained_imitation": (
        _at("Faster R-CNN, the default of the code", "twangnh/Distilling-Object-Detectors", 0.01),
    ),
    "decoupled_feature": (
        _at(
            "VOC, Faster R-CNN, mean of the levels",
            _DEFEAT,
            1,
            foreground_weight=3,
            background_weight=12,
            variant="code",
            beside="KL of the proposals' classes, 2 and 2",
        ),
    ),
}
