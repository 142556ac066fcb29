"""Objectives: their terms against NumPy, how they combine, and what they say to what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.networks import Outputs
from jaxkd.objectives import (
    Objective,
    Signals,
    Taps,
    Term,
    distillation,
    hard_label,
    hint,
    make_connector,
    soft_label,
    weighted_sum,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(x) for x in RNG.standard_normal((2, 4, 3)).astype(np.float32))
LABELS = jnp.array([0, -1, 2, 1])
WHERE = jnp.array([True, True, False, True])


def signals(*, student=STUDENT, teacher=TEACHER, taps=((), ()), step=0, **batch):
    of_student, of_teacher = (dict(side) for side in taps)
    return Signals(
        Outputs(student, of_student), Outputs(teacher, of_teacher), {}, batch, jnp.int32(step), jax.random.key(0)
    )


def started(objective, given):
    """The variables that ``init`` gives, from shapes as in a learner."""
    return objective.init(jax.random.key(0), jax.eval_shape(lambda: given._replace(axis_name=None)))


def means(objective, given, variables=None):
    """By name: weight and mean of each term."""
    terms, _, _ = objective.apply(started(objective, given) if variables is None else variables, given)
    return {name: (float(term.weight), float(term.sum / jnp.maximum(term.count, 1))) for name, term in terms.items()}


def constant(value, name="constant", metric=None):
    term = Term(1.0, jnp.float32(value), jnp.float32(1))
    metrics = {} if metric is None else {metric: term}
    return Objective(Taps(("a",), ("b",)), lambda key, signals: {}, lambda v, s: ({name: term}, metrics, {}))


def cross_entropy_of(logits, labels):
    logits = np.asarray(logits, np.float64)
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_q[np.arange(len(labels)), labels]


class TestWeightedSum:
    def test_names_nested(self):
        inner = weighted_sum(x=(2.0, constant(3)), y=(5.0, constant(7)))
        objective = weighted_sum(one=(0.5, constant(1)), two=(10.0, inner))
        assert means(objective, signals()) == {"one": (0.5, 1), "two/x": (20, 3), "two/y": (50, 7)}
        assert objective.taps == Taps(("a",), ("b",))  # each once

    def test_metrics_are_named_and_not_weighted(self):
        objective = weighted_sum(one=(0.5, constant(1, metric="seen")))
        _, metrics, _ = objective.apply({}, signals())
        assert list(metrics) == ["one/seen"]
        assert metrics["one/seen"].weight == 1

    def test_weights_are_numbers_schedules_or_traced(self):
        objective = weighted_sum(a=(lambda step: 0.1 * step, constant(1)))
        np.testing.assert_allclose(means(objective, signals(step=7))["a"][0], 0.7, rtol=1e-6)

        def traced(weight):
            (term,) = weighted_sum(a=(weight, constant(1))).apply({}, signals())[0].values()
            return term.weight

        np.testing.assert_array_equal(jax.vmap(traced)(jnp.arange(3.0)), [0, 1, 2])

    def test_variables_of_each_are_apart(self):
        given = signals(
            taps=({"f": jnp.ones((4, 2)), "g": jnp.ones((4, 2))}, {"f": jnp.ones((4, 5)), "g": jnp.ones((4, 2))})
        )
        objective = weighted_sum(
            dense=(1.0, hint("f", "f")), none=(1.0, hint("g", "g")), nested=(1.0, weighted_sum(x=(1.0, hint("f", "f"))))
        )
        variables = started(objective, given)
        assert set(variables) == {"params"}
        assert set(variables["params"]) == {"dense", "nested"}
        first, second = variables["params"]["dense"]["kernel"], variables["params"]["nested"]["x"]["kernel"]
        assert first.shape == second.shape == (2, 5)
        assert not np.array_equal(first, second)  # drawn from keys of their own
        assert set(means(objective, given, variables)) == {"dense", "none", "nested"}

    def test_updated_collections_come_back_by_name(self):
        memory = Objective(
            Taps(),
            lambda key, signals: {"memory": jnp.zeros(2)},
            lambda variables, signals: ({}, {}, {"memory": variables["memory"] + 1}),
        )
        objective = weighted_sum(a=(1.0, memory), b=(1.0, constant(1)))
        variables = started(objective, signals())
        _, _, updated = objective.apply(variables, signals())
        assert list(updated) == ["memory"]
        np.testing.assert_array_equal(updated["memory"]["a"], [1, 1])

    def test_what_is_no_weighted_objective(self):
        with pytest.raises(ValueError, match="weighted_sum of nothing"):
            weighted_sum()
        with pytest.raises(ValueError, match=r"weighted_sum\(a=\.\.\.\) takes \(weight, objective\), and got"):
            weighted_sum(a=hard_label())
        with pytest.raises(ValueError, match=r"weighted_sum\(a=\.\.\.\)"):
            weighted_sum(a=(hard_label(), 1.0))

    def test_what_is_no_weight(self):
        with pytest.raises(ValueError, match="the weight of a is nan: it has to be finite"):
            weighted_sum(a=(float("nan"), hard_label()))
        with pytest.raises(TypeError, match="the weight of a is a str"):
            weighted_sum(a=("0.1", hard_label()))


class TestHardLabel:
    def test_mean_over_labelled_and_valid(self):
        values = cross_entropy_of(STUDENT, np.maximum(LABELS, 0))
        np.testing.assert_allclose(
            means(hard_label(), signals(label=LABELS))["hard_label"][1], values[[0, 2, 3]].mean()
        )
        got = means(hard_label(), signals(label=LABELS, where=WHERE))["hard_label"][1]
        np.testing.assert_allclose(got, values[[0, 3]].mean(), rtol=1e-6)

    def test_soft_labels(self):
        soft = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [-1, -1, -1], [0, 0.5, 0.5]], np.float32)
        logits = np.asarray(STUDENT, np.float64)
        log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        values = -(soft * log_q).sum(-1)
        got = means(hard_label(), signals(label=jnp.asarray(soft)))["hard_label"][1]
        np.testing.assert_allclose(got, values[[0, 1, 3]].mean(), rtol=1e-6)

    def test_nothing_labelled_is_zero(self):
        def loss(logits):
            (term,) = hard_label().apply({}, signals(student=logits, label=jnp.full(4, -1)))[0].values()
            return term.sum / jnp.maximum(term.count, 1)

        value, gradient = jax.value_and_grad(loss)(STUDENT)
        assert value == 0
        assert not gradient.any()

    def test_logits_with_a_time_axis(self):
        logits = jnp.asarray(RNG.standard_normal((2, 5, 3)), jnp.float32)
        labels = jnp.asarray([[0, 1, -1, -1, -1], [2, 2, 0, 1, -1]])
        flat = cross_entropy_of(logits.reshape(10, 3), np.maximum(labels.reshape(10), 0))[labels.reshape(10) >= 0]
        np.testing.assert_allclose(
            means(hard_label(), signals(student=logits, label=labels))["hard_label"][1], flat.mean(), rtol=1e-6
        )
        got = means(hard_label(), signals(student=logits, label=labels, where=jnp.array([True, False])))
        np.testing.assert_allclose(got["hard_label"][1], flat[:2].mean(), rtol=1e-6)

    def test_errors(self):
        with pytest.raises(ValueError, match=r'hard_label needs batch\["label"\]; the batch holds \[\'image\'\]'):
            started(hard_label(), signals(image=jnp.zeros((4, 2))))
        with pytest.raises(ValueError, match=r"labels \[4,1\], student logits \[4,3\]: one integer, or one row"):
            started(hard_label(), signals(label=LABELS[:, None]))


class TestSoftLabel:
    def test_mean_over_valid_examples_labelled_or_not(self):
        values = losses.soft_label_kl(STUDENT, TEACHER, 3.0)
        got = means(soft_label(3.0), signals(label=LABELS, where=WHERE))
        np.testing.assert_allclose(got["soft_label"][1], values[WHERE].mean(), rtol=1e-6)

    def test_temperature_follows_a_schedule(self):
        got = means(soft_label(lambda step: 1.0 + step), signals(step=3))["soft_label"][1]
        np.testing.assert_allclose(got, losses.soft_label_kl(STUDENT, TEACHER, 4.0).mean(), rtol=1e-6)

    @pytest.mark.parametrize("objective", [soft_label(), distillation()], ids=["soft_label", "distillation"])
    def test_errors(self, objective):
        with pytest.raises(
            ValueError, match=r"student logits \[4,3\], teacher logits \[4,5\]: both have to have the sam"
        ):
            started(objective, signals(teacher=jnp.zeros((4, 5)), label=LABELS))
        with pytest.raises(ValueError, match=r"needs a teacher, and the learner has none: distill\(student, teacher"):
            started(objective, signals(teacher=None, label=LABELS))
        with pytest.raises(ValueError, match="temperature is 0: it has to be above 0"):
            soft_label(0)


class TestDistillation:
    def test_is_the_mean_of_the_loss_when_all_are_labelled(self):
        labels = jnp.array([0, 1, 2, 1])
        got = means(distillation(3.0, 0.3), signals(label=labels))
        expected = losses.distillation_loss(STUDENT, TEACHER, labels, temperature=3.0, alpha=0.3).mean()
        np.testing.assert_allclose(sum(weight * mean for weight, mean in got.values()), expected, rtol=1e-6)

    def test_two_means_when_some_are_not(self):
        got = means(distillation(3.0, lambda step: 0.25 * step), signals(label=LABELS, step=1))
        hard = cross_entropy_of(STUDENT, np.maximum(LABELS, 0))[np.asarray(LABELS) >= 0].mean()
        soft = losses.soft_label_kl(STUDENT, TEACHER, 3.0).mean()
        assert list(got) == ["hard", "soft"]
        np.testing.assert_allclose([*got["hard"], *got["soft"]], [0.75, hard, 0.25, soft], rtol=1e-6)

    def test_alpha_and_temperature_out_of_range(self):
        with pytest.raises(ValueError, match=r"alpha is 1\.5: it has to lie in \[0, 1\]"):
            distillation(3.0, 1.5)
        with pytest.raises(ValueError, match="temperature is -1: it has to be above 0"):
            distillation(-1)


def features(student, teacher):
    drawn = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in (student, teacher))
    return signals(taps=tuple({"f": x} for x in drawn))


class TestHint:
    def expected(self, connected, given):
        return np.mean((np.asarray(connected, np.float64) - given.teacher.taps["f"]) ** 2)

    def test_identity(self):
        given = features((4, 3, 2), (4, 3, 2))
        assert started(hint("f", "f"), given) == {}
        got = means(hint("f", "f", "identity"), given)["hint"][1]
        np.testing.assert_allclose(got, self.expected(given.student.taps["f"], given), rtol=1e-6)

    @pytest.mark.parametrize(
        ("student", "teacher", "kind"), [((4, 5), (4, 3), "dense"), ((4, 2, 2, 5), (4, 2, 2, 3), "conv")]
    )
    def test_linear(self, student, teacher, kind):
        given = features(student, teacher)
        variables = started(hint("f", "f", kind), given)
        automatic = started(hint("f", "f"), given)
        assert jax.tree.all(jax.tree.map(np.array_equal, variables, automatic))
        assert not variables["params"]["bias"].any()
        params = {"kernel": variables["params"]["kernel"], "bias": jnp.array([0.5, -1, 2])}
        connected = np.asarray(given.student.taps["f"]) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
        got = means(hint("f", "f"), given, {"params": params})["hint"][1]
        np.testing.assert_allclose(got, self.expected(connected, given), rtol=1e-5)

    def test_smaller_map_is_resized(self):
        given = features((1, 2, 2, 2), (1, 4, 2, 3))
        params = started(hint("f", "f"), given)["params"]
        x = np.asarray(given.student.taps["f"])
        # Rows of half the height: centres of the four rows are at -0.25, 0.25, 0.75, 1.25 of the two, edges held.
        weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
        connected = np.einsum("ij,bjwc->biwc", weights, x) @ np.asarray(params["kernel"])
        got = means(hint("f", "f"), given, {"params": params})["hint"][1]
        np.testing.assert_allclose(got, self.expected(connected, given), rtol=1e-5)

    def test_larger_map_is_averaged_antialiased(self):
        connector = make_connector("conv", (1, 4, 4, 1), (1, 2, 2, 1), ("f", "g"))
        params = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
        corner = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
        # A triangle as wide as four pixels, cut off at the edge: rows weigh 3, 3, 1 sevenths.
        np.testing.assert_allclose(connector.apply(params, corner)[0, 0, 0, 0], (3 / 7) ** 2, rtol=1e-5)
        np.testing.assert_allclose(connector.apply(params, jnp.ones((1, 4, 4, 1))), 1, rtol=1e-6)

    def test_mean_over_valid_examples(self):
        given = features((4, 3), (4, 3))
        given = given._replace(batch={"where": WHERE})
        per_example = np.square(given.student.taps["f"] - given.teacher.taps["f"]).mean(-1)
        np.testing.assert_allclose(means(hint("f", "f"), given)["hint"][1], per_example[WHERE].mean(), rtol=1e-6)

    @pytest.mark.parametrize(
        ("kind", "student", "teacher", "cure"),
        [
            ("identity", (4, 5), (4, 3), r'add a connector \(hint\(\.\.\., connector="dense"\)\)'),
            ("identity", (4, 2, 2, 5), (4, 2, 2, 3), r'add a connector \(hint\(\.\.\., connector="conv"\)\)'),
            ("auto", (4, 2, 2, 5), (4, 3), "they differ in rank: tap features of one kind on both sides"),
            ("identity", (4, 2, 2, 5), (4, 5), "they differ in rank: tap features of one kind on both sides"),
            ("identity", (4, 5), (2, 5), "they differ in examples: both networks have to see one batch"),
            ("conv", (4, 2, 2, 5), (2, 2, 2, 5), "they differ in examples: both networks have to see one batch"),
            (
                "dense",
                (4, 2, 2, 5),
                (4, 3, 3, 5),
                'a dense connector maps the last axis only: take connector="conv", which resizes the map',
            ),
            ("auto", (4, 2, 5), (4, 3, 5), "a dense connector maps the last axis only: all others have to agree"),
            ("conv", (4, 5), (4, 3), r"a convolution connects maps \[batch, height, width, channels\]"),
        ],
    )
    def test_errors(self, kind, student, teacher, cure):
        sides = ", ".join(
            rf'{side} tap "f" is \[{",".join(map(str, shape))}\]'
            for side, shape in (("student", student), ("teacher", teacher))
        )
        with pytest.raises(ValueError, match=f"^{sides}: {cure}$"):
            started(hint("f", "f", kind), features(student, teacher))

    def test_unknown_connector(self):
        with pytest.raises(ValueError, match=r'connector=\'mlp\': there are "auto", "identity", "dense" and "conv"'):
            started(hint("f", "f", "mlp"), features((4, 3), (4, 3)))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_padding_reaches_neither_value_nor_gradient(side):
    objective = weighted_sum(logits=(1.0, distillation(2.0)), hint=(1.0, hint("f", "f")))
    given = features((4, 5), (4, 3))._replace(batch={"label": LABELS, "where": WHERE})
    variables = started(objective, given)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def loss(variables, student, teacher):
        terms, _, _ = objective.apply(variables, given._replace(student=student, teacher=teacher))
        return sum(term.weight * term.sum / term.count for term in terms.values())

    pair = {"student": given.student, "teacher": given.teacher}
    spoilt = pair | {side: jax.tree.map(lambda x: x.at[2].set(jnp.nan), pair[side])}
    clean, spoilt = (loss(variables, x["student"], x["teacher"]) for x in (pair, spoilt))
    jax.tree.map(np.testing.assert_array_equal, clean, spoilt)
    assert np.isfinite(clean[0])
