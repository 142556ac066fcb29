"""Learners: all training as pure functions over explicit state, and what combines them."""

from jaxkd.learners._branched import branched
from jaxkd.learners._collaborative import CollaborativeState, collaborative
from jaxkd.learners._distill import DistillState, Prepare, distill
from jaxkd.learners._ema import EmaState, ema
from jaxkd.learners._halving import HalvingState, Places, Score, successive_halving
from jaxkd.learners._learner import Learner
from jaxkd.learners._mean_teacher import MeanTeacherState, mean_teacher
from jaxkd.learners._mutual import mutual
from jaxkd.learners._online import online
from jaxkd.learners._phase import Enter, Phase, Results, fresh, warm
from jaxkd.learners._stacked import Points, SweepState, product, seeds, stacked, sweep

__all__ = [
    "CollaborativeState",
    "DistillState",
    "EmaState",
    "Enter",
    "HalvingState",
    "Learner",
    "MeanTeacherState",
    "Phase",
    "Places",
    "Points",
    "Prepare",
    "Results",
    "Score",
    "SweepState",
    "branched",
    "collaborative",
    "distill",
    "ema",
    "fresh",
    "mean_teacher",
    "mutual",
    "online",
    "product",
    "seeds",
    "stacked",
    "successive_halving",
    "sweep",
    "warm",
]
