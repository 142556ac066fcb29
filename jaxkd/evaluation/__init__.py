"""What a student is worth: accuracy, likeness to the teacher, calibration and cost; the comparison and its report."""

from jaxkd.evaluation._benchmark import ALONE, KD, PUBLISHED, Benchmark, Difference, Trained
from jaxkd.evaluation._compare import Participant, compare
from jaxkd.evaluation._comparison import Comparison, Entry, Reliability, Statistic, Timing
from jaxkd.evaluation._cost import Latency, compile_forward, flops, latency, memory, parameter_count
from jaxkd.evaluation._metrics import (
    Calibration,
    accuracy,
    agreement,
    expected_calibration_error,
    kl_to_teacher,
    negative_log_likelihood,
    per_class_agreement,
)
from jaxkd.evaluation._plots import Curves
from jaxkd.evaluation._predict import Batches, on_device, predict, predict_labelled
from jaxkd.evaluation._report import write_report
from jaxkd.evaluation._surface import Surface, Trial

__all__ = [
    "ALONE",
    "KD",
    "PUBLISHED",
    "Batches",
    "Benchmark",
    "Calibration",
    "Comparison",
    "Curves",
    "Difference",
    "Entry",
    "Latency",
    "Participant",
    "Reliability",
    "Statistic",
    "Surface",
    "Timing",
    "Trained",
    "Trial",
    "accuracy",
    "agreement",
    "compare",
    "compile_forward",
    "expected_calibration_error",
    "flops",
    "kl_to_teacher",
    "latency",
    "memory",
    "negative_log_likelihood",
    "on_device",
    "parameter_count",
    "per_class_agreement",
    "predict",
    "predict_labelled",
    "write_report",
]
