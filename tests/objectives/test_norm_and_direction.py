"""The norm-and-direction objective and its class centres against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.data import padded_batches
from jaxkd.networks import Outputs
from jaxkd.objectives import Signals, class_centers, norm_and_direction

from .. import small

RNG = np.random.default_rng(0)
N, CLASSES, DIM = 4, 3, 5
WHERE = np.array([True, True, False, True])
LABEL = np.array([2, 0, 1, -1])
CENTERS = RNG.standard_normal((CLASSES, DIM)).astype(np.float32)


def given(width):
    student, teacher = (RNG.standard_normal((N, size)).astype(np.float32) for size in (width, DIM))
    student[0] *= 9
    student[2], teacher[2] = np.nan, np.nan
    sides = Outputs(None, {"f": jnp.asarray(student)}), Outputs(None, {"f": jnp.asarray(teacher)})
    batch = {"label": jnp.asarray(LABEL), "where": jnp.asarray(WHERE)}
    return Signals(*sides, {}, batch, jnp.int32(0), jax.random.key(1))


def started(objective, signals):
    return objective.init(jax.random.key(0), jax.eval_shape(lambda: signals))


def expected(embedding, signals):
    values = []
    for i in (0, 1):  # valid and labelled
        teacher, center = (np.asarray(x, np.float64) for x in (signals.teacher.taps["f"][i], CENTERS[LABEL[i]]))
        longest = max(np.linalg.norm(embedding[i]), np.linalg.norm(teacher))
        values.append(1 - embedding[i] @ (center / np.linalg.norm(center)) / longest)
    return np.mean(values)


def evaluated(objective, variables, signals):
    def loss(params, student):
        given = signals._replace(student=Outputs(None, {"f": student}))
        terms, _, updated = objective.apply({**variables, **params}, given)
        assert updated == {}
        (term,) = terms.values()
        return term.sum / term.count

    params = {name: x for name, x in variables.items() if name == "params"}
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, signals.student.taps["f"])


def test_equal_widths_need_no_connector():
    signals, objective = given(DIM), norm_and_direction("f", "f", CENTERS)
    variables = started(objective, signals)
    assert set(variables) == {"centers"}
    value, (_, gradient) = evaluated(objective, variables, signals)
    np.testing.assert_allclose(value, expected(np.float64(signals.student.taps["f"]), signals), rtol=1e-5)
    assert np.any(gradient[0])
    assert not np.any(gradient[2:])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_connector(dropout):
    signals, objective = given(3), norm_and_direction("f", "f", CENTERS, dropout=dropout)
    variables = started(objective, signals)
    changed = jax.tree.map(lambda x: x + 0.3 * RNG.standard_normal(x.shape).astype(np.float32), variables["params"])
    variables = {**variables, "params": changed}
    x = np.float64(signals.student.taps["f"])
    valid, params = x[WHERE], jax.tree.map(np.float64, changed)
    x = (x - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    if dropout:
        for i in range(N):
            x[i] *= 2 * np.asarray(jax.random.bernoulli(jax.random.fold_in(signals.rng, i), 0.5, (3,)))
    value, (grads, gradient) = evaluated(objective, variables, signals)
    np.testing.assert_allclose(
        value, expected(x @ params["linear"]["kernel"] + params["linear"]["bias"], signals), rtol=1e-5
    )
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(grads))
    # Through the statistics the unlabelled example has a gradient, padding has none.
    assert np.any(gradient[:2])
    assert not np.any(gradient[2])


def test_errors():
    with pytest.raises(ValueError, match=r"dropout is 1: it has to lie in \[0, 1\)"):
        norm_and_direction("f", "f", CENTERS, dropout=1)
    with pytest.raises(ValueError, match=r'tap "f" is \[4,3\], teacher tap "f" is \[4,5\], and centers are \[3,4\]'):
        started(norm_and_direction("f", "f", CENTERS[:, :4]), given(3))
    signals = given(3)
    with pytest.raises(ValueError, match=r'norm_and_direction needs integers \[4\] as batch\["label"\]'):
        started(norm_and_direction("f", "f", CENTERS), signals._replace(batch={}))
    maps = signals._replace(student=Outputs(None, {"f": jnp.zeros((4, 2, 2, 3))}))
    with pytest.raises(ValueError, match=r'tap "f" is \[4,2,2,3\], teacher tap "f" is \[4,5\]: .* takes \[batch'):
        started(norm_and_direction("f", "f", CENTERS), maps)


def test_class_centers():
    network, data = small.mlp(6), small.examples(20)
    batches = padded_batches(data, 8)  # the last one is half padding
    label = data.arrays["label"]
    variables = network.init(jax.random.key(0), {"image": jnp.zeros((1, *data.shape))})
    centers = class_centers(network, variables, batches, "penultimate", small.CLASSES + 1)
    embedding, source = [], jax.device_put(batches.source)
    for step in range(batches.steps):
        batch = batches.fetch(source, jax.tree.map(lambda x: x[0], batches.chunk(step, 1)))
        taps = network.apply(variables, batch, taps=("penultimate",))[0].taps
        embedding.append(np.asarray(taps["penultimate"], np.float64)[np.asarray(batch["where"])])
    embedding = np.concatenate(embedding)
    assert centers.shape == (small.CLASSES + 1, 6)
    for c in range(small.CLASSES + 1):
        own = embedding[label == c]
        np.testing.assert_allclose(centers[c], own.mean(0) if len(own) else np.zeros(6), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"\[8,6\], the batch holds \['image', 'index', 'where'\]"):
        class_centers(network, variables, no_labels(batches), "penultimate", 3)


def no_labels(batches):
    class Unlabelled:
        source, steps, chunk = batches.source, batches.steps, staticmethod(batches.chunk)

        @staticmethod
        def fetch(source, x):
            return {name: value for name, value in batches.fetch(source, x).items() if name != "label"}

    return Unlabelled()
