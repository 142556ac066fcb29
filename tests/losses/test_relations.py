"""What is particular to the losses that relate examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd import losses
from jaxkd.losses._batch import gram

from . import oracles


def features(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
def test_relations_do_not_change_when_a_batch_is_moved_scaled_and_turned(name):
    (student, turn) = features((9, 6), (6, 6))
    rotation = np.linalg.qr(turn)[0]
    np.testing.assert_allclose(getattr(losses, name)(student, 3 * student @ rotation + 5), 0, atol=1e-9)


@pytest.mark.parametrize("name", ["relational_distance", "relational_angle", "similarity_preserving"])
def test_widths_may_differ_and_maps_are_flattened(name):
    student, teacher = features((4, 2, 3, 2), (4, 5))
    value = getattr(losses, name)(student, teacher)
    np.testing.assert_allclose(value, getattr(oracles, name)(student, teacher), rtol=1e-5)


def test_distance_by_hand():
    # Distances 1, 1, 2 over their mean 4/3, against 1, 3, 4 over 8/3: differences of 3/8, -3/8 and 0.
    student, teacher = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [4.0]])
    expected = 2 * 2 * 0.5 * 0.375**2 / 9
    np.testing.assert_allclose(losses.relational_distance(student, teacher), expected, rtol=1e-6)
    # With the diagonal in the mean everything is 3/2 as far.
    in_all = losses.relational_distance(student, teacher, variant="all_pairs")
    np.testing.assert_allclose(in_all, 2.25 * expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
def test_duplicates_far_from_the_origin_do_not_pull(name, scale):
    """Of the student's gradient, that of a pair at one point is what is left without the pair's own distance."""
    student, teacher = features((40, 64), (40, 64))
    student = scale * (student + 3)
    student[1::2] = student[::2]
    value, gradient = jax.value_and_grad(getattr(losses, name))(student, teacher)
    if name == "relational_distance":
        np.testing.assert_allclose(value, oracles.relational_distance(student, teacher), rtol=1e-4)
    with jax.enable_x64(True):
        exact, exact_gradient = jax.value_and_grad(getattr(losses, name))(student.astype(np.float64), teacher)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(gradient, exact_gradient, atol=1e-4 * np.abs(exact_gradient).max())


def dense_angle(student, teacher):
    """All triplets at once."""

    def cosines(x):
        differences = x - x[:, None]
        squares = jnp.sum(jnp.square(differences), -1, keepdims=True)
        units = differences * jnp.where(squares > 0, jax.lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)
        return units @ units.swapaxes(1, 2)

    return jnp.mean(optax.losses.huber_loss(cosines(student), cosines(teacher)))


@pytest.mark.parametrize("batch", [128, 67])
def test_angles_in_chunks_are_those_at_once(batch, monkeypatch):
    # 67 is prime: the last chunk is never full.
    monkeypatch.setattr("jaxkd.losses._angles.CHUNK", 2**17)
    arrays = features((batch, 40), (batch, 24))
    value, gradients = jax.value_and_grad(losses.relational_angle, (0, 1))(*arrays)
    expected, wanted = jax.value_and_grad(dense_angle, (0, 1))(*arrays)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, atol=2e-6 * np.abs(want).max())


def test_angles_have_derivatives_of_both_modes():
    student, teacher, direction = features((7, 5), (7, 5), (7, 5))
    _, forward = jax.jvp(lambda x: losses.relational_angle(x, teacher), (student,), (direction,))
    backward = np.sum(direction * jax.grad(losses.relational_angle)(student, teacher))
    np.testing.assert_allclose(forward, backward, rtol=1e-5)
    second = jax.hessian(losses.relational_angle)(student, teacher)
    np.testing.assert_allclose(second, jax.hessian(dense_angle)(student, teacher), atol=1e-5)


def test_angles_of_1024_examples_fit_in_a_gibibyte():
    shape = jax.ShapeDtypeStruct((1024, 256), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(losses.relational_angle)).lower(shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30


def test_adjacent_examples_depend_on_the_order():
    student = np.array([[3.0], [1.0], [0.0]], np.float32)
    teacher = np.zeros_like(student)
    np.testing.assert_allclose(losses.correlation_congruence(student, teacher), (3 * 1 + 1 * 0) / 2)
    np.testing.assert_allclose(losses.correlation_congruence(student[::-1], teacher), (0 * 1 + 1 * 3) / 2)
    np.testing.assert_allclose(losses.correlation_congruence(student[[0, 2, 1]], teacher), 0)
    where = np.array([True, False, True, True])
    masked = losses.correlation_congruence(student[[0, 2, 1, 2]], teacher[[0] * 4], where=where)
    np.testing.assert_allclose(masked, (3 * 1 + 1 * 0) / 2)


def test_kernel_is_the_gaussian_of_unit_vectors():
    student, teacher = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in features((5, 4), (5, 4)))

    def gaussian(x):
        return np.exp(-0.4 * np.sum((x[:, None] - x) ** 2, -1))

    expected = np.mean((gaussian(student) - gaussian(teacher)) ** 2)
    value = losses.correlation_congruence(student, teacher, variant="kernel", gamma=0.4, order=12)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_kernel_is_precise_far_from_the_teacher():
    """Of a small student the gradient is its own, however large the powers of the teacher's products are."""
    student, teacher = features((5, 4), (5, 4))
    slope = jax.grad(losses.correlation_congruence)
    arguments = {"variant": "kernel", "order": 5}
    gradient = slope(1e-3 * student, 30 * teacher, **arguments)
    with jax.enable_x64(True):
        exact = slope(1e-3 * student.astype(np.float64), 30 * teacher.astype(np.float64), **arguments)
    np.testing.assert_allclose(gradient, exact, atol=1e-5 * np.abs(exact).max())


CRD = {"student_normalizer": 4.0, "teacher_normalizer": 7.0, "population": 50, "temperature": 2.0}


def crd_inputs():
    return features((4, 5), (4, 5), (4, 6, 5), (4, 6, 5))


def test_crd_masks_negatives_and_takes_positives_of_a_bank():
    arrays = crd_inputs()
    positives = dict(zip(("student_positive", "teacher_positive"), features((4, 5), (4, 5), seed=1), strict=True))
    where = np.random.default_rng(2).random((4, 6)) < 0.6
    where[3] = False
    expected = oracles.contrastive_representation(*arrays, **CRD, **positives, where=where)
    assert expected[3] == 0
    spoilt = [*arrays[:2], *(np.where(where[..., None], x, np.nan) for x in arrays[2:])]

    def total(*arrays):
        values = losses.contrastive_representation(*arrays, **CRD, **positives, where=where)
        return jnp.sum(values), values

    gradients, values = jax.grad(total, (0, 1, 2, 3), has_aux=True)(*spoilt)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients)
    assert not any(g[3].any() for g in gradients)
    assert not gradients[2][~where].any()


def test_crd_shares_negatives():
    student, teacher, *negatives = crd_inputs()
    shared = [x[0] for x in negatives]
    repeated = [np.repeat(x[:1], 4, 0) for x in negatives]
    np.testing.assert_allclose(
        losses.contrastive_representation(student, teacher, *shared, **CRD),
        losses.contrastive_representation(student, teacher, *repeated, **CRD),
        rtol=1e-6,
    )


def test_crd_of_long_embeddings_does_not_overflow():
    arrays = [1e3 * x for x in crd_inputs()]
    value, gradient = jax.value_and_grad(
        lambda student, *rest: jnp.sum(losses.contrastive_representation(student, *rest, **CRD))
    )(*arrays)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_products_of_pairs_have_derivatives_of_both_modes():
    (x, direction) = features((4, 3), (4, 3))

    def plain(x):
        return jnp.sum(jnp.cos(jnp.arange(16.0)).reshape(4, 4) * (x @ x.T) ** 3)

    def ours(x):
        return jnp.sum(jnp.cos(jnp.arange(16.0)).reshape(4, 4) * gram(x) ** 3)

    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.hessian(ours)(x), jax.hessian(plain)(x), rtol=1e-4, atol=1e-3)
    slopes = [jax.jvp(f, (x,), (direction,))[1] for f in (ours, plain)]
    np.testing.assert_allclose(*slopes, rtol=1e-4)


def test_clip_is_two_kls_and_follows_its_scales():
    arrays = features((4, 5), (4, 5), (4, 8), (4, 8))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in arrays]
    student, teacher = 3 * units[0] @ units[1].T, 5 * units[2] @ units[3].T
    both = [np.mean(losses.soft_label_kl(student, teacher, 1.0, axis=axis)) for axis in (0, 1)]
    value = losses.clip_affinity(*arrays, student_scale=3.0, teacher_scale=5.0)
    np.testing.assert_allclose(value, np.mean(both), rtol=1e-5)
    np.testing.assert_allclose(
        losses.clip_affinity(*arrays[:2], *arrays[:2], student_scale=3.0, teacher_scale=3.0), 0, atol=1e-9
    )
    slopes = [
        jax.grad(
            lambda scale, v=variant: losses.clip_affinity(*arrays, student_scale=scale, teacher_scale=5.0, variant=v)
        )
        for variant in ("kl", "cross_entropy")
    ]
    np.testing.assert_allclose(slopes[0](3.0), slopes[1](3.0), rtol=1e-4)


RELATIONS = {
    "relational_distance": {},
    "relational_angle": {},
    "similarity_preserving": {},
    "correlation_congruence": {"variant": "kernel"},
    "probabilistic_transfer": {},
    "info_nce": {},
    "clip_affinity": {"student_scale": 3.0, "teacher_scale": 5.0},
}


def relation(name, **more):
    """The loss of two batches, and where it takes texts, of the same texts."""

    def loss(student, teacher, texts):
        between = (texts, teacher, texts) if name == "clip_affinity" else (teacher,)
        return getattr(losses, name)(student, *between, **RELATIONS[name], **more)

    return loss


@pytest.mark.parametrize("mapped", ["shard_map", "pmap"])
@pytest.mark.parametrize("name", ["relational_distance", "relational_angle", "clip_affinity"])
def test_gradient_over_devices_as_the_library_documents_it(name, mapped):
    """As ``jaxkd.losses`` says it: value and gradient of replicated parameters are those of the global batch."""
    student, teacher, texts, weights = features((8, 5), (8, 5), (8, 5), (5, 5))
    expected = jax.value_and_grad(lambda w: relation(name)(student @ w, teacher, texts))(weights)

    def local(params, student, teacher, texts):
        params = jax.lax.pcast(params, "d", to="varying")
        loss = relation(name, axis_name="d")
        share, grads = jax.value_and_grad(lambda p: loss(student @ p, teacher, texts) / jax.lax.axis_size("d"))(params)
        return jax.lax.psum((share, grads), "d")

    if mapped == "shard_map":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
        step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d"), P("d")), out_specs=P()))
        value, grads = step(weights, student, teacher, texts)
    else:
        split = (x.reshape(2, 4, 5) for x in (student, teacher, texts))
        value, grads = (x[0] for x in jax.pmap(local, "d", in_axes=(None, 0, 0, 0))(weights, *split))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(grads, expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", RELATIONS)
def test_mesh_of_explicit_axes(name, masked):
    """What ``jax.make_mesh`` makes by default: shards of it relate to each other only where someone moves them."""
    arrays = features((8, 5), (8, 5), (8, 5))
    loss = relation(name, where=np.arange(8) < 6 if masked else None)
    expected = jax.value_and_grad(loss)(*arrays)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    placed = jax.device_put(arrays, NamedSharding(mesh, P("data")))
    value, grads = jax.jit(jax.value_and_grad(loss))(*placed)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(grads, expected[1], rtol=1e-4, atol=1e-6)
    assert jax.typeof(grads).sharding.spec == P("data", None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", RELATIONS)
def test_nothing_is_promoted_by_the_way(name, masked):
    where = np.arange(4) < 3 if masked else None
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert relation(name, where=where)(*features((4, 5), (4, 5), (4, 5))).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_of_numpy_do_not_make_float64(dtype):
    number = np.float64(0.5)
    with jax.enable_x64(True):
        x, y = (jnp.asarray(v, dtype) for v in features((4, 5), (4, 5)))
        keys = (jnp.asarray(v, dtype) for v in features((3, 5), (3, 5)))
        values = (
            losses.correlation_congruence(x, y, variant="kernel", gamma=number),
            losses.info_nce(x, y, number),
            losses.clip_affinity(x, y, x, y, student_scale=number, teacher_scale=number),
            losses.contrastive_representation(x, y, *keys, **{**CRD, "temperature": number}),
        )
    assert {value.dtype for value in values} == {jnp.dtype(jnp.float32)}


def test_kernel_of_a_traced_gamma_and_a_numpy_order():
    x, y = features((4, 5), (4, 5))

    def loss(gamma, order=2):
        return losses.correlation_congruence(x, y, variant="kernel", gamma=gamma, order=order)

    np.testing.assert_allclose(jax.jit(loss)(0.4), loss(0.4), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(0.4), (loss(0.401) - loss(0.399)) / 0.002, rtol=1e-2)
    np.testing.assert_allclose(loss(0.4, np.int64(3)), loss(0.4, 3))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.relational_distance(*features((4, 5), (6, 5))), r"\[4,5\].*\[6,5\]"),
        (lambda: losses.relational_angle(*features((4, 5), (6, 5))), r"\[4,5\].*\[6,5\]"),
        (lambda: losses.relational_distance(*features((2, 5), (2, 5))), r"\[2,5\]: two examples.*3 or more"),
        (lambda: losses.relational_angle(*features((2, 5), (2, 5))), r"\[2,5\]: two examples.*3 or more"),
        (lambda: losses.info_nce(*features((0, 5), (0, 5))), r"\[0,5\]: no example"),
        (lambda: losses.relational_distance(*features((4, 5), (4, 5)), variant="pairs"), "positive_pairs"),
        (lambda: losses.similarity_preserving(*features((4, 5), (4, 5)), variant="l3"), "l1_rows"),
        (lambda: losses.correlation_congruence(*features((4, 5), (4, 6))), r"\[4,5\].*\[4,6\]"),
        (lambda: losses.correlation_congruence(*features((4, 5), (4, 5)), variant="kernel", gamma=0.0), "gamma"),
        (lambda: losses.correlation_congruence(*features((4, 5), (4, 5)), variant="kernel", gamma=np.ones(4)), "gamma"),
        (lambda: losses.correlation_congruence(*features((4, 5), (4, 5)), order=1.5), "order is 1.5"),
        (lambda: losses.correlation_congruence(*features((4, 5), (4, 5)), order=np.int64(0)), "order is 0"),
        (lambda: losses.info_nce(*features((4, 5), (4, 6))), r"\[4,5\].*\[4,6\]"),
        (lambda: losses.info_nce(*features((4, 5), (4, 5)), 0.0), "temperature"),
        (lambda: losses.info_nce(*features((4, 5), (4, 5)), np.ones(4)), r"temperature \[4\].*scalar"),
        (
            lambda: losses.clip_affinity(*features((4, 5), (4, 6), (4, 5), (4, 5)), student_scale=1, teacher_scale=1),
            r"\[4,5\].*\[4,6\]",
        ),
        (
            lambda: losses.clip_affinity(*features((4, 5), (4, 5), (4, 5), (4, 5)), student_scale=-1, teacher_scale=1),
            "student_scale",
        ),
        (lambda: losses.contrastive_representation(*features((4, 5), (4, 6), (4, 3, 5), (4, 3, 5)), **CRD), "dim"),
        (lambda: losses.contrastive_representation(*crd_inputs(), **{**CRD, "population": 0}), "population is 0"),
        (lambda: losses.contrastive_representation(*crd_inputs(), **{**CRD, "temperature": 0}), "temperature is 0"),
        (lambda: losses.contrastive_representation(*crd_inputs(), **{**CRD, "student_normalizer": 0}), "student_norm"),
        (lambda: losses.contrastive_representation(*features((4, 5), (4, 5), (4, 3, 6), (4, 3, 6)), **CRD), "K, dim"),
        (lambda: losses.contrastive_representation(*features((4, 5), (4, 5), (4, 0, 5), (4, 0, 5)), **CRD), "K, dim"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("name", ["cosine_embedding", "info_nce", "relational_angle", "patient_hidden"])
def test_a_direction_takes_two_features(name):
    shape = (4, 3, 1) if name == "patient_hidden" else (4, 1)
    x = np.ones(shape, np.float32)
    with pytest.raises(ValueError, match="have one feature on axis -1: a direction takes two or more"):
        getattr(losses, name)(x, x)
