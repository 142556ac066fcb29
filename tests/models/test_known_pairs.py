"""Pairs of teacher and student: of the zoo, with its counts, and only with numbers that have a source."""

import importlib.util
from pathlib import Path

from jaxkd import models

PAIRS = models.pairs()


def test_models_are_the_zoos_and_counts_equal():
    known = {info.name: info for info in models.names()}
    for pair in PAIRS:
        assert pair.teacher_parameters == known[pair.teacher].parameters
        assert pair.student_parameters == known[pair.student].parameters
        # Of one kind of data, to one kind of answer.
        assert known[pair.teacher].image_shape == known[pair.student].image_shape
        assert known[pair.teacher].classes == known[pair.student].classes


def test_pairs_are_told_once_and_students_are_smaller():
    assert len({pair[:2] for pair in PAIRS}) == len(PAIRS)
    assert all(pair.student_parameters < pair.teacher_parameters for pair in PAIRS)


def test_pairs_that_people_use_are_there():
    of_teacher = {}
    for pair in PAIRS:
        of_teacher.setdefault(pair.teacher, set()).add(pair.student)
    assert of_teacher["resnet152"] == {"resnet50", "resnet34", "resnet18", "mobilenet_v2"}
    assert of_teacher["efficientnet_b7"] == {"efficientnet_b4", "efficientnet_b0"}
    assert of_teacher["vit_large"] == {"vit_base", "vit_small", "deit_small"}
    assert of_teacher["bert_large"] >= {"bert_base", "distilbert", "tinybert_6"}
    assert of_teacher["gpt2_large"] == of_teacher["gpt2_medium"] == {"gpt2", "distilgpt2"}
    assert of_teacher["t5_large"] == {"t5_base", "t5_small"}
    # RepDistiller's two tables.
    assert sum("CIFAR" in pair.measure for pair in PAIRS) == 13


def test_numbers_have_a_measure_and_a_source_and_nothing_else_has():
    for pair in PAIRS:
        numbers = [n for n in (pair.teacher_result, pair.alone, pair.distilled) if n is not None]
        assert bool(numbers) == bool(pair.measure) == bool(pair.source)
        assert all(10 < n < 100 for n in numbers)
        assert bool(pair.method) == (pair.distilled is not None)


def test_numbers_of_cifar_are_those_of_the_experiments():
    """Written down there a second time, to compare runs with."""
    path = Path(__file__).parents[2] / "experiments/cifar100/configs.py"
    spec = importlib.util.spec_from_file_location("cifar100_configs", path)
    configs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(configs)
    published = {(p.teacher, p.student): (p.of_teacher, p.of_student) for p in configs.PAIRS.values()}
    ours = [pair for pair in PAIRS if "CIFAR" in pair.measure]
    assert {pair[:2]: (pair.teacher_result, pair.alone) for pair in ours} == published
    for pair in ours:
        assert pair.distilled == configs.PUBLISHED["kd"][f"{pair.teacher}-{pair.student}"]
