"""Self-distillation against NumPy: the memory of an epoch, pairs of a class, classifiers on the student's stages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.networks import Outputs
from jaxkd.objectives import Signals, be_your_own_teacher, class_wise_self, progressive_self

RNG = np.random.default_rng(0)
N, CLASSES = 4, 3
WHERE = np.array([True, True, False, True])
KEPT = np.flatnonzero(WHERE)


def signals(logits, *, taps=None, step=0, **batch):
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    return Signals(
        Outputs(jnp.asarray(logits), taps or {}), Outputs(None), {}, batch, jnp.int32(step), jax.random.key(0)
    )


def started(objective, given):
    return objective.init(jax.random.key(0), jax.eval_shape(lambda: given))


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def softmax(logits, temperature=1.0):
    exps = np.exp(np.asarray(logits, np.float64) / temperature)
    return exps / exps.sum(-1, keepdims=True)


def cross_entropy(logits, labels):
    return [-math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)]


def kl(teacher, student, temperature):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


class TestProgressiveSelf:
    def test_three_steps(self):
        objective = progressive_self(6, lambda step: 0.2 * (step + 1))
        label = np.array([1, -1, 0, 2])
        # Example 1 comes back twice at once; padding has garbage everywhere.
        index = np.array([[1, 4, 99, 0], [4, 1, -7, 1], [1, 4, 0, 5]])
        memory = np.zeros((6, CLASSES))
        given = signals(drawn(N, CLASSES), label=label, index=index[0], where=WHERE)
        variables = started(objective, given)
        np.testing.assert_array_equal(variables["memory"]["probabilities"], memory)

        @jax.jit
        def run(variables, given):
            def loss(logits):
                terms, _, updated = objective.apply(variables, given._replace(student=Outputs(logits)))
                return terms["progressive_self"].sum / terms["progressive_self"].count, updated

            return jax.value_and_grad(loss, has_aux=True)(given.student.logits)

        for step in range(3):
            logits = 2 * drawn(N, CLASSES)
            logits[2] = np.nan
            values, gradient, alpha = [], np.zeros((N, CLASSES)), 0.2 * (step + 1)
            for i in (0, 3):  # valid and labelled
                row, one_hot = memory[index[step, i]], np.eye(CLASSES)[label[i]]
                target = (1 - alpha) * one_hot + alpha * row if row.any() else one_hot
                values.append(-sum(y * math.log(q) for y, q in zip(target, softmax(logits[i]), strict=True)))
                gradient[i] = (softmax(logits[i]) - target) / 2
            for i in KEPT:
                memory[index[step, i]] = softmax(logits[i])
            given = signals(logits, label=label, index=index[step], where=WHERE, step=step)
            (value, updated), got = run(variables, given)
            variables = {**variables, **updated}
            np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
            np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(variables["memory"]["probabilities"], memory, rtol=1e-5)

    def test_errors(self):
        logits = np.zeros((N, CLASSES), np.float32)
        with pytest.raises(ValueError, match=r"alpha is 1\.5: it has to lie in \[0, 1\]"):
            progressive_self(6, 1.5)
        with pytest.raises(ValueError, match="n_data is 0: it has to be above 0"):
            progressive_self(0, 0.5)
        objective = progressive_self(6, 0.5)
        with pytest.raises(ValueError, match=r'progressive_self needs batch\["index"\].*holds \[\'label\'\]'):
            started(objective, signals(logits, label=np.zeros(N, int)))
        with pytest.raises(ValueError, match=r"labels \[3\] are int32, student logits \[4,3\]"):
            started(objective, signals(logits, label=np.zeros(3, np.int32), index=np.zeros(N, int)))


class TestClassWiseSelf:
    def test_value_and_gradient(self):
        objective = class_wise_self(3.0, weight=lambda step: 0.5 * step)
        logits, label = drawn(8, CLASSES), np.array([0, 1, -1, 2, 0, 1, -1, 7])
        where = np.array([True, True, True, True, True, True, True, False])
        logits[7] = np.nan

        def loss(logits):
            terms, _, updated = objective.apply({}, signals(logits, label=label, where=where, step=4))
            assert updated == {}
            means = {name: (term.weight, term.sum / term.count) for name, term in terms.items()}
            return sum(weight * mean for weight, mean in means.values()), means

        assert started(objective, signals(logits, label=label)) == {}
        gradient, means = jax.jit(jax.grad(loss, has_aux=True))(logits)
        hard = np.mean(cross_entropy(logits[[0, 1, 3]], label[[0, 1, 3]]))
        soft = np.mean([9 * kl(logits[4], logits[0], 3.0), 9 * kl(logits[5], logits[1], 3.0)])
        np.testing.assert_allclose([*means["hard_label"], *means["class_wise"]], [1, hard, 2, soft], rtol=1e-5)
        assert not np.any(gradient[4:])
        expected = (softmax(logits[0]) - np.eye(CLASSES)[0]) / 3
        expected += 2 * 3 * (softmax(logits[0], 3.0) - softmax(logits[4], 3.0)) / 2
        np.testing.assert_allclose(gradient[0], expected, rtol=1e-4, atol=1e-6)

    def test_a_pair_of_two_classes_is_nan(self):
        terms, _, _ = class_wise_self().apply({}, signals(drawn(N, CLASSES), label=np.array([0, 1, 0, 2])))
        assert np.isnan(terms["class_wise"].sum)
        assert np.isfinite(terms["hard_label"].sum)

    def test_errors(self):
        with pytest.raises(ValueError, match="the batch has 3 examples, and has to be pairs"):
            started(class_wise_self(), signals(drawn(3, CLASSES), label=np.zeros(3, int)))
        with pytest.raises(ValueError, match=r'class_wise_self needs batch\["label"\]; the batch holds \[\'index\'\]'):
            started(class_wise_self(), signals(drawn(N, CLASSES), index=np.zeros(N, int)))


def convolved(x, kernel, ratio):
    """A VALID convolution with stride equal to its kernel, at each position."""
    n, height, width, _ = x.shape
    out = np.zeros((n, height // ratio[0], width // ratio[1], kernel.shape[-1]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            patch = x[:, i * ratio[0] : (i + 1) * ratio[0], j * ratio[1] : (j + 1) * ratio[1]]
            out[:, i, j] = np.einsum("nhwc,hwcd->nd", patch, kernel)
    return out


class TestBeYourOwnTeacher:
    STAGES = (("a", (N, 4, 2, 2)), ("b", (N, 2, 2, 3)))
    DEEPEST = (N, 2, 1, 8)

    def taps(self):
        shapes = {**dict(self.STAGES), "deepest": self.DEEPEST}
        return {name: jnp.asarray(drawn(*shape)).at[2].set(jnp.nan) for name, shape in shapes.items()}

    @pytest.mark.parametrize("variant", ["norm", "squared"])
    def test_value_and_gradient(self, variant):
        parameters = {"alpha": 0.4, "temperature": 2.0, "hint": (0.05, 0.5), "variant": variant}
        objective = be_your_own_teacher(("a", "b"), "deepest", **parameters)
        taps, logits, label = self.taps(), drawn(N, CLASSES), np.array([1, -1, 0, 2])
        given = signals(logits, taps=taps, label=label, where=WHERE)
        params = started(objective, given)["params"]
        params = jax.tree.map(lambda x: x + 0.3 * drawn(*x.shape), params)  # norms and biases start at 1 and 0

        def loss(params, logits, taps):
            terms, _, _ = objective.apply({"params": params}, given._replace(student=Outputs(logits, taps)))
            means = {name: (term.weight, term.sum / term.count) for name, term in terms.items()}
            return sum(weight * mean for weight, mean in means.values()), means

        grads, means = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, jnp.asarray(logits), taps)
        target = np.asarray(taps["deepest"], np.float64)[KEPT].mean((1, 2))
        labelled = [0, 3]
        of_deepest, of_soft = (1, 0.4 / 4) if variant == "norm" else (0.6, 0.4)
        expected = {"hard": (of_deepest, np.mean(cross_entropy(logits[labelled], label[labelled])))}
        for number, (name, ratio) in enumerate((("a", (2, 2)), ("b", (1, 2)))):
            own = jax.tree.map(lambda x: np.asarray(x, np.float64), params[f"stage_{number}"])
            assert own["reduce"]["kernel"].shape[-1] == 2  # a quarter of 8
            x = np.asarray(taps[name], np.float64)[KEPT]
            for layer, size in (("reduce", (1, 1)), ("shrink", ratio), ("expand", (1, 1))):
                x = convolved(x, own[layer]["kernel"], size)
                x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
                x = np.maximum(x * own[layer]["scale"] + own[layer]["bias"], 0)
            feature = x.mean((1, 2))
            of_stage = feature @ own["classifier"]["kernel"] + own["classifier"]["bias"]
            hard = np.mean(cross_entropy(of_stage[[0, 2]], label[labelled]))
            soft = 4 * np.mean([kl(logits[i], row, 2.0) for i, row in zip(KEPT, of_stage, strict=True)])
            if variant == "norm":
                feature = feature @ own["adapt"]["kernel"] + own["adapt"]["bias"]
            distance = sum((a - b) ** 2 for a, b in zip(feature.flat, target.flat, strict=True))
            distance = math.sqrt(distance) if variant == "norm" else distance
            expected |= {f"hard_{number}": (0.6, hard), f"soft_{number}": (of_soft, soft)}
            expected[f"hint_{number}"] = ((0.05, 0.5)[number], distance)
        assert set(means) == set(expected)
        for name, pair in expected.items():
            np.testing.assert_allclose(means[name], pair, rtol=2e-5, err_msg=name)
        of_params, of_logits, of_taps = grads
        assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(of_params))
        # The deepest one learns from labels only; no padding has a gradient.
        only_hard = of_deepest * (softmax(logits) - np.eye(CLASSES)[label]) / 2
        only_hard[[1, 2]] = 0
        np.testing.assert_allclose(of_logits, only_hard, rtol=1e-4, atol=1e-6)
        assert not np.any(of_taps["deepest"])
        for name, _ in self.STAGES:
            assert np.any(of_taps[name][KEPT])
            assert not np.any(of_taps[name][2])

    def test_errors(self):
        with pytest.raises(ValueError, match=r"stages is 'a': it has to be a tuple of taps"):
            be_your_own_teacher("a", "deepest")
        with pytest.raises(ValueError, match="variant='l2': there are"):
            be_your_own_teacher(("a",), "deepest", variant="l2")
        with pytest.raises(ValueError, match="hint has 2 weights, and there are 1 stages"):
            be_your_own_teacher(("a",), "deepest", hint=(1.0, 2.0))
        given = signals(drawn(N, CLASSES), taps=self.taps(), label=np.zeros(N, int))
        with pytest.raises(ValueError, match=r'tap "deepest" is \[4,2,1,8\], student tap "a" is \[4,4,2,2\]: height'):
            started(be_your_own_teacher(("deepest",), "a"), given)
        given.student.taps["a"] = jnp.zeros((N, 2))
        with pytest.raises(ValueError, match=r'tap "a" is \[4,2\], student tap "deepest" is \[4,2,1,8\]: both'):
            started(be_your_own_teacher(("a",), "deepest"), given)
