"""Objectives with trained connectors against NumPy: plain loops, in float64, with the parameters that were drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm as normal

from jaxkd.networks import Outputs
from jaxkd.objectives import (
    Signals,
    crd,
    factor_transfer,
    hint,
    norm_and_direction,
    overhaul,
    paraphraser,
    review,
    semantic_calibration,
    srrl,
    vid,
)

RNG = np.random.default_rng(0)
INITIAL = RNG.bit_generator.state
N, CLASSES = 4, 3
WHERE = np.array([True, True, False, True])
KEPT = np.flatnonzero(WHERE)


@pytest.fixture(autouse=True)
def same_draws_in_any_order():
    RNG.bit_generator.state = INITIAL


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def given(student, teacher, variables=None, where=WHERE, logits=None):
    """Signals of features by name; what padding holds is NaN."""

    def spoilt(x):
        return x if where is None else jnp.where(where.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan)

    batch = {} if where is None else {"where": jnp.asarray(where)}
    logits = drawn(N, CLASSES) if logits is None else logits
    sides = [Outputs(spoilt(logits), {name: spoilt(x) for name, x in taps.items()}) for taps in (student, teacher)]
    return Signals(*sides, variables or {}, batch, jnp.int32(0), jax.random.key(1))


def started(objective, signals):
    shapes = jax.eval_shape(lambda: signals)
    shapes = shapes._replace(teacher_variables=signals.teacher_variables)
    variables = jax.jit(lambda key: objective.init(key, shapes))(jax.random.key(0))
    # Not the ones and zeros that norms and biases start from.
    return jax.tree.map(lambda x: x + 0.3 * drawn(*x.shape), variables)


def evaluated(objective, signals, variables):
    """By name: the weight and mean of each term, and the gradient of the sum by parameters and student features."""

    def loss(params, taps):
        student = signals.student._replace(taps=taps)
        terms, _, _ = objective.apply({"params": params}, signals._replace(student=student))
        means = {name: (term.weight, term.sum / term.count) for name, term in terms.items()}
        return sum(weight * mean for weight, mean in means.values()), means

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    grads, means = gradient(variables["params"], signals.student.taps)
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), grads))
    for taps in grads[1].values():
        assert np.any(taps[KEPT])
        assert not np.any(taps[~WHERE])
    return means, grads[0]


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def conv(params, x):
    kernel, y = params["kernel"], np.zeros((*x.shape[:-1], params["kernel"].shape[-1]))
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    r = kernel.shape[0] // 2
    n, height, width, _ = x.shape
    for b, i, j in np.ndindex(n, height, width):
        for u, v in np.ndindex(kernel.shape[:2]):
            p, q = i + u - r, j + v - r
            if 0 <= p < height and 0 <= q < width:
                y[b, i, j] += x[b, p, q] @ kernel[u, v]
    return y + params.get("bias", 0)


def bn(params, x):
    """Of the valid examples alone: the oracle never sees the others."""
    flat = x.reshape(-1, x.shape[-1])
    return (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * params["scale"] + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def pool(x, size):
    """To half the size, or as it is."""
    n, height, _, channels = x.shape
    f = height // size
    return x.reshape(n, size, f, size, f, channels).mean((2, 4))


def moved(tree):
    return all(np.any(x) for x in jax.tree.leaves(tree))


def test_srrl():
    classifier = {"params": {"kernel": drawn(5, CLASSES), "bias": drawn(CLASSES)}}

    def head(variables, features):
        return features @ variables["params"]["kernel"] + variables["params"]["bias"]

    student, teacher = drawn(N, 4, 4, 2), drawn(N, 2, 2, 5)
    signals = given({"s": student}, {"t": teacher}, classifier)
    objective = srrl("s", "t", head=head, regression=0.5)
    variables = started(objective, signals)
    means, grads = evaluated(objective, signals, variables)
    params = exact(variables["params"])
    r = relu(bn(params["norm"], conv(params["conv"], exact(student)[KEPT]))).mean((1, 2))
    logits = r @ exact(classifier["params"]["kernel"]) + exact(classifier["params"]["bias"])
    t, z = exact(teacher)[KEPT].mean((1, 2)), exact(signals.teacher.logits)[KEPT]
    np.testing.assert_allclose(means["feature"], [1, ((r - t) ** 2).mean()], rtol=1e-5)
    np.testing.assert_allclose(means["logits"], [0.5, ((logits - z) ** 2).mean()], rtol=1e-5)
    assert moved(grads)


def test_srrl_errors():
    signals = given({"s": drawn(N, 4, 4, 2)}, {"t": drawn(N, 2, 2, 5)})
    with pytest.raises(ValueError, match=r"pass head=network\.head of a network that has one"):
        srrl("s", "t", head=None)
    with pytest.raises(ValueError, match=r"head gives logits \[4,5\], the teacher's logits are \[4,3\]"):
        started(srrl("s", "t", head=lambda variables, x: x), signals)
    with pytest.raises(ValueError, match=r'features \[4,5\], the teacher tap "t" \[4,2,2,5\] averaged'):
        started(srrl("s", "t", head=lambda variables, x: x @ jnp.ones((4, 3))), signals)
    with pytest.raises(ValueError, match=r'tap "s" is \[4\], teacher tap "t" is \[4,2,2,5\]: tap maps'):
        started(srrl("s", "t", head=lambda variables, x: x), given({"s": drawn(N)}, {"t": drawn(N, 2, 2, 5)}))


@pytest.mark.parametrize(
    "objective",
    [hint("s", "t"), crd("s", "t", n_data=9, negatives=2), norm_and_direction("s", "t", centers=np.ones((4, 3)))],
    ids=["hint", "crd", "norm_and_direction"],
)
def test_vectors_without_a_teacher(objective):
    signals = given({"s": drawn(N, 3)}, {"t": drawn(N, 3)})._replace(teacher=Outputs(None, {}))
    with pytest.raises(ValueError, match="needs a teacher, and the learner has none"):
        objective.init(jax.random.key(0), signals)


def test_vid():
    student, teacher = drawn(N, 4, 4, 2), drawn(N, 2, 2, 3)
    signals = given({"s": student}, {"t": teacher})
    objective = vid("s", "t")
    first = objective.init(jax.random.key(0), jax.eval_shape(lambda: signals))["params"]["raw_variance"]
    np.testing.assert_allclose(np.log1p(np.exp(exact(first))) + 1e-5, 5, rtol=1e-6)
    variables = started(objective, signals)
    means, grads = evaluated(objective, signals, variables)
    params = exact(variables["params"])
    x = pool(exact(student)[KEPT], 2)
    mu = conv(params["conv3"], relu(conv(params["conv2"], relu(conv(params["conv1"], x)))))
    variance = np.log1p(np.exp(params["raw_variance"])) + 1e-5
    expected = ((mu - exact(teacher)[KEPT]) ** 2 / variance + np.log(variance)).mean() / 2
    np.testing.assert_allclose(means["vid"], [1, expected], rtol=1e-5)
    assert moved(grads)
    with pytest.raises(ValueError, match=r'"s" is \[4,4,2,2\], teacher tap "t" is \[4,2,4,3\]: neither is the larger'):
        started(objective, given({"s": drawn(N, 4, 2, 2)}, {"t": drawn(N, 2, 4, 3)}))


@pytest.mark.parametrize(("variant", "trained"), [("code", None), ("repdistiller", "paraphraser")])
def test_factor_transfer(variant, trained):
    """With a paraphraser that is trained beside the student, and with one that was before and is frozen."""
    student, teacher = drawn(N, 2, 2, 3), drawn(N, 2, 2, 4)
    signals = given({"s": student}, {"t": teacher})
    alone = paraphraser("t", variant=variant)
    ready = started(alone, signals)
    signals = signals._replace(teacher_variables={"paraphraser": ready["params"]})
    objective = factor_transfer("s", "t", weight=0.25, variant=variant, trained=trained)
    variables = started(objective, signals)
    means, grads = evaluated(objective, signals, variables)
    params = exact(variables["params"])
    if trained:
        assert set(params) == {"translator"}
        params |= exact(ready["params"])

    def run(part, x):
        for i in "123":
            x = conv(params[part]["conv" + i], x)
            x = bn(params[part]["norm" + i], x) if part == "translator" and variant == "repdistiller" else x
            x = np.where(x > 0, x, 0.1 * x)
        return x

    t = exact(teacher)[KEPT]
    factors, translated = run("encoder", t), run("translator", exact(student)[KEPT])
    error = run("decoder", factors) - t
    assert factors.shape[-1] == 2
    if variant == "code":
        seen, rebuilt, axes = (translated, factors), np.abs(error).mean(), (1, 2, 3)
    else:
        seen, rebuilt, axes = ((translated**2).mean(-1), (factors**2).mean(-1)), (error**2).mean(), (1, 2)
    unit = [x / np.sqrt((x**2).sum(axes, keepdims=True)) for x in seen]
    np.testing.assert_allclose(means["factor"], [0.25, np.abs(unit[0] - unit[1]).mean()], rtol=1e-5)
    assert moved(grads["translator"])
    if trained:
        assert set(means) == {"factor"}

        def error(params):
            (term,) = alone.apply({"params": params}, signals)[0].values()
            return term.sum / term.count

        value, grads = jax.jit(jax.value_and_grad(error))(ready["params"])
        means = {"reconstruction": (1, value)}
    np.testing.assert_allclose(means["reconstruction"], [1, rebuilt], rtol=1e-5)
    assert all(np.any(x) for x in jax.tree.leaves((grads["encoder"], grads["decoder"])))


def test_factor_transfer_errors():
    signals = given({"s": drawn(N, 2, 2, 3)}, {"t": drawn(N, 2, 2, 4)})
    with pytest.raises(ValueError, match=r"\[4,2,2,3\], .* \[4,2,2,4\]: rate=0\.1 of the teacher's 4 channels"):
        started(factor_transfer("s", "t", rate=0.1), signals)
    flat = given({"s": drawn(N, 3)}, {"t": drawn(N, 4)})
    with pytest.raises(ValueError, match=r'"s" is \[4,3\], teacher tap "t" is \[4,4\]: 3x3 convolutions take maps'):
        started(factor_transfer("s", "t"), flat)
    with pytest.raises(ValueError, match=r'teacher tap "t" is \[4,4\]: 3x3 convolutions take maps'):
        started(paraphraser("t"), flat)
    with pytest.raises(ValueError, match="variant='l2': there are"):
        factor_transfer("s", "t", variant="l2")
    with pytest.raises(ValueError, match='the teacher has no paraphraser in "p": train one first'):
        started(factor_transfer("s", "t", trained="p"), signals)
    small = signals._replace(teacher_variables={"p": started(paraphraser("t", rate=0.25), signals)["params"]})
    with pytest.raises(ValueError, match='in "p" makes 1 factors of 4 channels, teacher tap "t" has 4 channels and 2'):
        started(factor_transfer("s", "t", trained="p"), small)


def test_overhaul():
    students = {"s1": drawn(N, 3, 3, 2), "s2": drawn(N, 2, 2, 3)}
    teachers = {"t1": drawn(N, 3, 3, 4), "t2": drawn(N, 2, 2, 5)}
    of = {name: {"scale": drawn(c), "bias": drawn(c)} for name, c in (("a", 4), ("b", 5))}
    frozen = {"params": {"stage": {"a": of["a"]}, "b": of["b"]}}
    signals = given(students, teachers, frozen)
    objective = overhaul(tuple(students), tuple(teachers), norms=("stage/a", "b"))
    variables = started(objective, signals)
    means, grads = evaluated(objective, signals, variables)
    total = 0
    for layer, s, t, name, weight in (("layer1", "s1", "t1", "a", 0.5), ("layer2", "s2", "t2", "b", 1)):
        params = exact(variables["params"][layer])
        connected = bn(params["norm"], conv(params["conv"], exact(students[s])[KEPT]))
        for index in np.ndindex(connected.shape):
            b, g = float(of[name]["bias"][index[-1]]), abs(float(of[name]["scale"][index[-1]]))
            below = normal.cdf(-b / g)
            margin = b - g * normal.pdf(b / g) / below if below > 0.001 else -3 * g
            target, value = max(exact(teachers[t])[KEPT][index], margin), connected[index]
            if value > target or target > 0:
                total += weight * (value - target) ** 2
    np.testing.assert_allclose(means["overhaul"], [1, total / len(KEPT)], rtol=1e-5)
    assert moved(grads)


def test_overhaul_errors():
    with pytest.raises(ValueError, match="2 taps of the student, 1 of the teacher, 1 norms"):
        overhaul(("a", "b"), "c", norms="d")
    frozen = {"params": {"stage": {"norm": {"scale": drawn(3), "bias": drawn(3)}, "conv": {"kernel": drawn(1)}}}}
    signals = given({"s": drawn(N, 2, 2, 2)}, {"t": drawn(N, 2, 2, 4)}, frozen)
    with pytest.raises(ValueError, match=r'no norm "stage/conv" .* those that have both: "stage/norm"'):
        started(overhaul("s", "t", norms="stage/conv"), signals)
    with pytest.raises(ValueError, match=r'norm "stage/norm" has parameters \[3\], the teacher tap "t" is \[4,2,2,4\]'):
        started(overhaul("s", "t", norms="stage/norm"), signals)
    with pytest.raises(ValueError, match=r'"s" is \[4,4,4,2\], teacher tap "t" is \[4,2,2,4\]: .* of one size'):
        started(overhaul("s", "t", norms="n"), given({"s": drawn(N, 4, 4, 2)}, {"t": drawn(N, 2, 2, 4)}))


def nearest(x, size):
    y = np.zeros((x.shape[0], size, size, x.shape[-1]))
    for i, j in np.ndindex(size, size):
        y[:, i, j] = x[:, i * x.shape[1] // size, j * x.shape[2] // size]
    return y


def hcl(s, t):
    """Of maps of 1x1, 2x2 and 3x3: the pooled levels are below their size."""
    total = weights = 0.0
    for level, l in enumerate([len(s[0])] + [l for l in (4, 2, 1) if l < len(s[0])]):
        difference = np.zeros((len(s), l, l, s.shape[-1]))
        for i, j in np.ndindex(l, l):
            rows, columns = (slice(k * len(s[0]) // l, -(-(k + 1) * len(s[0]) // l)) for k in (i, j))
            difference[:, i, j] = (s - t)[:, rows, columns].mean((1, 2))
        total += (difference**2).mean() / 2**level
        weights += 1 / 2**level
    return total / weights


def test_review():
    students = {"s1": drawn(N, 4, 4, 2), "s2": drawn(N, 2, 2, 3), "s3": drawn(N, 4)}
    teachers = {"t1": drawn(N, 3, 3, 3), "t2": drawn(N, 2, 2, 4), "t3": drawn(N, 5)}
    signals = given(students, teachers)
    objective = review(tuple(students), tuple(teachers), width=3)
    variables = started(objective, signals)
    means, grads = evaluated(objective, signals, variables)
    total, handed = 0, None
    for i in (3, 2, 1):
        params = exact(variables["params"][f"layer{i}"])
        s, t = exact(students[f"s{i}"])[KEPT], exact(teachers[f"t{i}"])[KEPT]
        s, t = (x[:, None, None] if x.ndim == 2 else x for x in (s, t))
        x = bn(params["norm1"], conv(params["conv1"], s))
        if i < 3:
            y = nearest(handed, x.shape[1])
            z = 1 / (1 + np.exp(-conv(params["fuse"], np.concatenate([x, y], -1))))
            x = x * z[..., :1] + y * z[..., 1:]
        handed = nearest(x, t.shape[1])
        total += hcl(bn(params["norm2"], conv(params["conv2"], handed)), t)
    np.testing.assert_allclose(means["review"], [1, total], rtol=1e-5)
    # Of one position the 3x3 kernel has one element that sees anything, of few positions all have.
    assert moved(grads)
    default = jax.eval_shape(lambda: objective_params(review(tuple(students), tuple(teachers)), signals))
    assert default["layer1"]["conv1"]["kernel"].shape == (2, 4)


def objective_params(objective, signals):
    return objective.init(jax.random.key(0), signals)["params"]


def test_review_errors():
    with pytest.raises(ValueError, match="2 taps of the student, 1 of the teacher: give one of each"):
        review(("a", "b"), ("c",))
    with pytest.raises(ValueError, match=r"student=\(\): give at least one tap"):
        review((), ())
    with pytest.raises(ValueError, match=r'"s" is \[4,2,3\], teacher tap "t" is \[4,2,2,4\]: tap maps'):
        started(review(("s",), ("t",)), given({"s": drawn(N, 2, 3)}, {"t": drawn(N, 2, 2, 4)}))


def test_semantic_calibration():
    students = {"s1": drawn(N, 2, 2, 2), "s2": drawn(N, 4, 4, 3)}
    teachers = {"t1": drawn(N, 4, 4, 2), "t2": drawn(N, 2, 2, 3)}
    signals = given(students, teachers)
    objective = semantic_calibration(tuple(students), tuple(teachers), softness=0.5)
    variables = started(objective, signals)
    # Of one number the unit vector is its sign: a wider output has an attention to speak of.
    for name in ("query_0", "query_1", "key_0", "key_1"):
        variables["params"][name]["out"] = {"kernel": drawn(2, 3), "bias": drawn(3)}
    means, grads = evaluated(objective, signals, variables)
    params = exact(variables["params"])

    def embedded(name, x):
        flat = np.where(WHERE[:, None], exact(x).reshape(N, -1), 0)
        hidden = relu(flat @ flat.T @ params[name]["hidden"]["kernel"] + params[name]["hidden"]["bias"])
        out = hidden @ params[name]["out"]["kernel"] + params[name]["out"]["bias"]
        return out / np.sqrt((out**2).sum(-1, keepdims=True))

    total = 0
    for i, s in enumerate(students.values()):
        query = embedded(f"query_{i}", s)
        scores = [np.exp((query * embedded(f"key_{j}", t)).sum(-1) / 0.5) for j, t in enumerate(teachers.values())]
        for j, t in enumerate(teachers.values()):
            p = params[f"project_{i}_{j}"]
            size = min(s.shape[1], t.shape[1])
            x = relu(bn(p["norm1"], conv(p["conv1"], pool(exact(s)[KEPT], size))))
            x = conv(p["conv3"], relu(bn(p["norm2"], conv(p["conv2"], x))))
            error = ((x - pool(exact(t)[KEPT], size)) ** 2).mean((1, 2, 3))
            total += ((scores[j] / sum(scores))[KEPT] * error).sum()
    np.testing.assert_allclose(means["semantic_calibration"], [1, total / (len(KEPT) * 2)], rtol=1e-5)
    assert moved(grads)


def test_semantic_calibration_is_built_for_one_batch_size():
    objective = semantic_calibration("s", "t")
    signals = given({"s": drawn(8, 2, 2, 2)}, {"t": drawn(8, 2, 2, 3)}, where=None, logits=drawn(8, 3))
    variables = started(objective, signals)
    assert variables["params"]["query_0"]["hidden"]["kernel"].shape == (8, 4)
    assert variables["params"]["query_0"]["out"]["kernel"].shape == (4, 2)
    half = given({"s": drawn(4, 2, 2, 2)}, {"t": drawn(4, 2, 2, 3)}, where=None)
    with pytest.raises(ValueError, match=r"global batch of 4 examples .* built for 8"):
        jax.eval_shape(objective.apply, variables, half._replace(axis_name=None))
    with pytest.raises(ValueError, match='"s" is of 3 examples: semantic_calibration needs at least 4'):
        started(objective, given({"s": drawn(3, 2, 2, 2)}, {"t": drawn(3, 2, 2, 3)}, where=None, logits=drawn(3, 3)))


@pytest.mark.parametrize("objective", [vid("s", "t"), review(("s",), ("t",))], ids=["vid", "review"])
def test_without_a_teacher(objective):
    signals = given({"s": drawn(N, 2, 2, 2)}, {})._replace(teacher=Outputs(None))
    with pytest.raises(ValueError, match="needs a teacher, and the learner has none"):
        started(objective, signals)
