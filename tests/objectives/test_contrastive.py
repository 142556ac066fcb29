"""CRD and its variants against NumPy: values, gradients' reach, and what the memories hold after each step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.networks import Outputs
from jaxkd.objectives import Signals, crd

RNG = np.random.default_rng(0)
N, DATA, DIM, K, T = 4, 9, 5, 6, 0.2
LABELS = np.array([2, 0, 1, 1, 0, 2, 7, 0, 1])
WHERE = np.array([True, True, False, True])
KEPT = np.flatnonzero(WHERE)
# In the third batch an example is there twice; what padding has is no position at all.
INDEX = np.array([[3, 1, 77, 8], [1, 0, -9, 5], [4, 1, 99, 4]])


def steps():
    """The signals of three steps."""
    for i, index in enumerate(INDEX):
        student, teacher = (RNG.standard_normal((N, width)).astype(np.float32) for width in (3, 4))
        student[~WHERE], teacher[~WHERE] = np.nan, np.nan
        batch = {"index": jnp.asarray(index), "where": jnp.asarray(WHERE)}
        sides = Outputs(None, {"f": jnp.asarray(student)}), Outputs(None, {"f": jnp.asarray(teacher)})
        yield Signals(*sides, {}, batch, jnp.int32(i), jax.random.key(10 + i))


def started(objective, signals):
    return objective.init(jax.random.key(0), jax.eval_shape(lambda: signals))


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def embeddings(params, signals):
    return [
        unit(exact(side.taps["f"])[KEPT] @ params[name]["kernel"] + params[name]["bias"])
        for name, side in (("student", signals.student), ("teacher", signals.teacher))
    ]


def evaluated(objective):
    @jax.jit
    def run(variables, signals):
        carried = {name: x for name, x in variables.items() if name != "params"}

        def loss(params, student, teacher):
            given = signals._replace(student=Outputs(None, {"f": student}), teacher=Outputs(None, {"f": teacher}))
            terms, _, updated = objective.apply({"params": params, **carried}, given)
            return terms["crd"].sum / jnp.maximum(terms["crd"].count, 1), updated

        arguments = variables["params"], signals.student.taps["f"], signals.teacher.taps["f"]
        (value, updated), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return value, {**variables, **updated}, grads

    return run


def check_reach(grads):
    """Both embeddings and the student train, on what is no padding."""
    params, student, _ = grads
    assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(params))
    assert all(np.any(student[i]) for i in KEPT)
    assert not np.any(student[~WHERE])


@pytest.mark.parametrize("labels", [None, LABELS], ids=["any", "other_classes"])
def test_memory(labels):
    size = {"n_data": DATA} if labels is None else {"labels": labels}
    objective = crd("f", "f", **size, dim=DIM, negatives=K, temperature=T, momentum=0.3)
    batches = list(steps())
    variables = started(objective, batches[0])
    params, memory = exact(variables["params"]), exact(variables["memory"])
    bound = 1 / math.sqrt(DIM / 3)
    for side in ("student", "teacher"):
        assert memory[side].shape == (DATA, DIM)
        assert -bound <= memory[side].min() < -0.7 * bound
        assert 0.7 * bound < memory[side].max() <= bound
    run, z = evaluated(objective), None
    for signals, index in zip(batches, INDEX, strict=True):
        rows = []
        for position in KEPT:
            key = jax.random.fold_in(signals.rng, position)
            others = np.arange(DATA)
            if labels is not None:
                others = [
                    row for c in (0, 1, 2, 7) for row in range(DATA) if labels[row] == c != labels[index[position]]
                ]
            drawn = np.asarray(others)[jax.random.randint(key, (K,), 0, len(others))]
            rows.append([index[position], *drawn])
        student, teacher = embeddings(params, signals)
        scores = np.array(
            [
                [[math.exp(v[i] @ bank[row] / T) for row in rows[i]] for i in range(len(KEPT))]
                for v, bank in ((student, memory["teacher"]), (teacher, memory["student"]))
            ]
        )
        z = scores.mean((1, 2)) * DATA if z is None else z
        noise, expected = K / DATA, 0.0
        for direction in range(2):
            for i in range(len(KEPT)):
                for k, score in enumerate(scores[direction, i]):
                    p = score / z[direction]
                    expected -= math.log((p if k == 0 else noise) / (p + noise + 1e-7)) / len(KEPT)
        for bank, v in ((memory["student"], student), (memory["teacher"], teacher)):
            new = {index[position]: unit(0.3 * bank[index[position]] + 0.7 * v[i]) for i, position in enumerate(KEPT)}
            for row, value in new.items():  # of two, the last
                bank[row] = value
        value, variables, grads = run(variables, signals)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        check_reach(grads)
        assert set(variables["memory"]) == {"student", "teacher", "normalizers"}
        for side in ("student", "teacher"):
            np.testing.assert_allclose(variables["memory"][side], memory[side], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variables["memory"]["normalizers"], z, rtol=1e-5)


def test_nothing_is_fixed_by_a_batch_of_padding():
    objective = crd("f", "f", n_data=DATA, dim=DIM, negatives=K)
    signals = next(iter(steps()))
    signals = signals._replace(batch={**signals.batch, "where": jnp.zeros(N, bool)})
    variables = started(objective, signals)
    value, new, grads = evaluated(objective)(variables, signals)
    assert value == 0
    assert not any(np.any(x) for x in jax.tree.leaves(grads))
    jax.tree.map(np.testing.assert_array_equal, new["memory"], variables["memory"])


def test_position_out_of_range_is_nan():
    objective = crd("f", "f", n_data=DATA, dim=DIM, negatives=K)
    signals = next(iter(steps()))
    variables = started(objective, signals)
    for position in (DATA, -1):
        batch = {**signals.batch, "index": signals.batch["index"].at[0].set(position)}
        assert np.isnan(evaluated(objective)(variables, signals._replace(batch=batch))[0])


def test_queue():
    length = 5
    objective = crd("f", "f", dim=DIM, negatives=length, temperature=T, variant="queue")
    batches = list(steps())
    variables = started(objective, batches[0])
    params, queue, place = exact(variables["params"]), exact(variables["memory"]), 0
    np.testing.assert_allclose((queue["student"] ** 2).sum(-1), 1, rtol=1e-6)
    run = evaluated(objective)
    for signals in batches:
        student, teacher = embeddings(params, signals)
        expected = 0.0
        for v, other, keys in ((student, teacher, queue["teacher"]), (teacher, student, queue["student"])):
            for i in range(len(KEPT)):
                scores = [math.exp(v[i] @ key / T) for key in (other[i], *keys)]
                expected -= math.log(scores[0] / sum(scores)) / len(KEPT)
        for i in range(len(KEPT)):
            queue["student"][place], queue["teacher"][place] = student[i], teacher[i]
            place = (place + 1) % length
        value, variables, grads = run(variables, signals)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        check_reach(grads)
        for side in ("student", "teacher"):
            np.testing.assert_allclose(variables["memory"][side], queue[side], rtol=1e-5, atol=1e-6)
        assert variables["memory"]["next"] == place


def test_queue_shorter_than_the_batch_keeps_the_last():
    objective = crd("f", "f", dim=DIM, negatives=2, variant="queue")
    signals = next(iter(steps()))
    variables = started(objective, signals)
    student, _ = embeddings(exact(variables["params"]), signals)
    _, new, _ = evaluated(objective)(variables, signals)
    np.testing.assert_allclose(new["memory"]["student"], student[[2, 1]], rtol=1e-5, atol=1e-6)
    assert new["memory"]["next"] == 1


def test_in_batch():
    objective = crd("f", "f", dim=DIM, temperature=T, variant="in_batch")
    signals = next(iter(steps()))
    variables = started(objective, signals)
    assert set(variables) == {"params"}
    student, teacher = embeddings(exact(variables["params"]), signals)
    expected = 0.0
    for v, keys in ((student, teacher), (teacher, student)):
        for i in range(len(KEPT)):
            expected -= math.log(math.exp(v[i] @ keys[i] / T) / sum(math.exp(v[i] @ key / T) for key in keys)) / len(
                KEPT
            )
    value, _, grads = evaluated(objective)(variables, signals)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    check_reach(grads)


def test_errors():
    with pytest.raises(ValueError, match=r'variant=\'bank\': there are "memory", "queue" and "in_batch"'):
        crd("f", "f", variant="bank")
    with pytest.raises(ValueError, match=r'n_data is None: variant="memory" needs the number of examples'):
        crd("f", "f")
    with pytest.raises(ValueError, match=r"n_data is 3, labels \[9\]: one label for each example"):
        crd("f", "f", n_data=3, labels=LABELS)
    with pytest.raises(ValueError, match=r"labels \[3\] are of one class: there are no negatives of another"):
        crd("f", "f", labels=np.zeros(3, int))
    with pytest.raises(ValueError, match=r"labels \[2\] are int64: they have to be integers \[n_data\], none below 0"):
        crd("f", "f", labels=np.array([-1, 2]))
    with pytest.raises(ValueError, match="n_data and labels are of no use to it"):
        crd("f", "f", n_data=3, variant="queue")
    for name, value in (("n_data", 20.0), ("n_data", 0), ("dim", 16.0), ("negatives", 0.5)):
        with pytest.raises(ValueError, match=f"{name} is {value}: it has to be a whole number, 1 or more"):
            crd("f", "f", **{"n_data": 3, name: value})
    with pytest.raises(ValueError, match=r'negatives=7: variant="in_batch" has those that the batch has'):
        crd("f", "f", negatives=7, variant="in_batch")
    for variant in ("queue", "in_batch"):
        with pytest.raises(ValueError, match=f'momentum=0.9: variant="{variant}" averages no rows'):
            crd("f", "f", momentum=0.9, variant=variant)
    with pytest.raises(ValueError, match="temperature is 0: it has to be above 0"):
        crd("f", "f", n_data=3, temperature=0)
    objective, signals = crd("f", "f", n_data=DATA), next(iter(steps()))
    with pytest.raises(ValueError, match=r'crd needs batch\["index"\].*the batch holds \[\'where\'\]'):
        started(objective, signals._replace(batch={"where": WHERE}))
    with pytest.raises(ValueError, match=r'crd: batch\["index"\] \[4\] is float32, for a batch of 4 examples'):
        started(objective, signals._replace(batch={"index": jnp.zeros(4)}))
    flat = signals._replace(student=Outputs(None, {"f": jnp.zeros(4)}))
    with pytest.raises(ValueError, match=r'student tap "f" is \[4\], teacher tap "f" is \[4,4\]: crd embeds'):
        started(objective, flat)
    one = signals._replace(**{side: Outputs(None, {"f": jnp.zeros((1, 3))}) for side in ("student", "teacher")})
    with pytest.raises(ValueError, match="of one example"):
        started(crd("f", "f", variant="in_batch"), one)
