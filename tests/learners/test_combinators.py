"""What combines learners gives the trainings it combines: member by member, point by point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.data import Batches
from jaxkd.learners import distill, ema, mean_teacher, product, seeds, stacked, sweep
from jaxkd.objectives import distillation, hard_label, hint, soft_label, weighted_sum
from jaxkd.training import example_batch, fit
from jaxkd.training.checkpoints import Checkpoints

from .. import small

KEY = jax.random.key(0)
STEPS = 20
N = 3
TEACHER = small.mlp(8)


@pytest.fixture(scope="module")
def data():
    return small.batches(16)


@pytest.fixture(scope="module")
def frozen(data):
    return TEACHER.init(jax.random.key(1), example_batch(data))


@pytest.fixture(scope="module")
def learner():
    """With all that a member has of its own: dropout, augmentation, a connector."""
    objective = weighted_sum(kd=(1.0, distillation(2.0, 0.5)), hint=(0.1, hint("penultimate", "penultimate")))
    student = small.mlp(6, dropout=0.3)
    return distill(student, TEACHER, objective, optax.adam(1e-2), prepare=small.noisy)


def train(learner, data, frozen, key=KEY):
    state = jax.jit(learner.init)(key, frozen, example_batch(data))
    return fit(learner, data, STEPS, state=state, frozen=frozen, chunk=STEPS)


def member(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


class TestEma:
    def test_average_of_every_step(self, learner, data, frozen):
        averaged = ema(learner, 0.8)
        state = averaged.init(KEY, frozen, example_batch(data))
        expected = jax.tree.map(lambda x: np.asarray(x, np.float64), learner.deploy(state.learner, frozen))
        step = jax.jit(averaged.step)
        for i in range(4):
            batch = data.examples.decode(data[i])
            state, _ = step(state, frozen, batch)
            newest = learner.deploy(state.learner, frozen)
            expected = jax.tree.map(lambda old, new: 0.8 * old + 0.2 * np.asarray(new, np.float64), expected, newest)
        small.assert_close(averaged.deploy(state, frozen), expected)

    def test_learns_like_the_learner(self, learner, data, frozen):
        plain, averaged = (train(x, data, frozen) for x in (learner, ema(learner, 0.0)))
        small.assert_close(averaged.state.learner, plain.state)
        small.assert_close(averaged.state.average, learner.deploy(plain.state, frozen))

    def test_counters_are_the_newest(self):
        class Counts:
            def init(key, frozen, batch):
                return {"count": jnp.int32(0), "value": jnp.float32(0)}

            def step(state, frozen, batch, *, axis_name=None):
                return jax.tree.map(lambda x: x + 1, state), {}

            def deploy(state, frozen):
                return state

            network = None

        averaged = ema(Counts, 0.5)
        state = averaged.init(KEY, {}, {})
        for _ in range(3):
            state, _ = averaged.step(state, {}, {})
        assert state.average["count"] == 3
        assert state.average["value"] == 2.125

    def test_bfloat16_is_averaged_in_float32_and_deployed_in_bfloat16(self):
        class Jumps:
            def init(key, frozen, batch):
                return {"weight": jnp.ones(2, jnp.bfloat16)}

            def step(state, frozen, batch, *, axis_name=None):
                return {"weight": jnp.full(2, 2, jnp.bfloat16)}, {}

            def deploy(state, frozen):
                return state

            network = None

        @jax.jit
        def after_500(decay):
            averaged = ema(Jumps, decay)
            fresh = averaged.init(KEY, {}, {})
            state, _ = jax.lax.scan(lambda state, _: averaged.step(state, {}, {}), fresh, None, 500)
            return state.average, averaged.deploy(state, {})

        average, deployed = after_500(0.999)
        # In bfloat16 the first step, of 0.001, would already be lost.
        np.testing.assert_allclose(average["weight"], 2 - 0.999**500, rtol=1e-4)
        np.testing.assert_array_equal(deployed["weight"], average["weight"].astype(jnp.bfloat16))
        assert deployed["weight"].dtype == jnp.bfloat16

    def test_decay_out_of_range(self, learner):
        with pytest.raises(ValueError, match=r"decay is 1\.5: it has to lie in \[0, 1\]"):
            ema(learner, 1.5)


@pytest.fixture(scope="module")
def together(learner, data, frozen):
    return train(seeds(learner, N), data, frozen)


class TestSeeds:
    def test_member_is_a_training_of_its_own(self, learner, data, frozen, together):
        assert together.history["loss"].shape == (STEPS, N)
        assert len(set(together.history["loss"][-1].tolist())) == N
        for i, key in enumerate(jax.random.split(KEY, N)[:2]):
            alone = train(learner, data, frozen, key=key)
            small.assert_close(member(together.state, i), alone.state)
            np.testing.assert_allclose(together.history["loss"][:, i], alone.history["loss"], rtol=1e-5)

    def test_chunks_are_all_at_once(self, learner, data, frozen, together):
        small.assert_close(train(seeds(learner, N, chunk=2), data, frozen).state, together.state)

    def test_orders_of_their_own(self, learner, frozen):
        orders = small.batches(16, seed=5)
        together = train(seeds(learner, 2, data="own"), orders.stack(2), frozen)
        key = jax.random.split(KEY, 2)[1]
        alone = train(learner, Batches(orders.examples, 16, seed=6), frozen, key=key)
        small.assert_close(member(together.state, 1), alone.state)
        same = train(learner, orders, frozen, key=key)
        assert abs(same.history["loss"] - alone.history["loss"]).max() > 1e-3

    def test_network_of_all(self, learner, data, frozen, together):
        batch = example_batch(data)
        combined = seeds(learner, N)
        variables = combined.deploy(together.state, frozen)
        outputs, _ = combined.network.apply(variables, batch, taps=("penultimate",))
        assert outputs.logits.shape == (N, 16, small.CLASSES)
        for i in range(N):
            single, _ = learner.network.apply(member(variables, i), batch, taps=("penultimate",))
            small.assert_close(member(outputs, i), single)

    def test_arguments(self, learner):
        with pytest.raises(ValueError, match="n is 0: at least one seed"):
            seeds(learner, 0)
        with pytest.raises(ValueError, match=r'data=\'each\': it is "same" or "own"'):
            seeds(learner, 2, data="each")


def test_stacked_network(data):
    network = small.conv("linen")
    batch = example_batch(data)
    both = stacked(network, 2)
    variables = both.init(KEY, batch)
    outputs, updated = both.apply(variables, batch, train=True, rng=KEY, taps=("norm",))
    for i in range(2):
        expected = network.apply(member(variables, i), batch, train=True, rng=KEY, taps=("norm",))
        small.assert_close(member((outputs, updated), i), expected)


GRID = {"temperature": np.array([1.0, 4.0, 4.0], np.float32), "lr": np.array([0.1, 0.1, 1e8], np.float32)}


def at_point(point):
    # A squared error has no bound: a learning rate that is too high is sure to blow up.
    match = hint("classifier", "classifier", "identity")
    objective = weighted_sum(soft=(1.0, soft_label(point["temperature"])), match=(0.1, match))
    return distill(small.mlp(6), TEACHER, objective, optax.sgd(point["lr"]))


@pytest.fixture(scope="module")
def swept(data, frozen):
    return train(sweep(at_point, GRID), data, frozen)


class TestSweep:
    def test_point_is_a_training_of_its_own(self, data, frozen, swept):
        for i in range(2):
            alone = train(at_point({name: float(x[i]) for name, x in GRID.items()}), data, frozen)
            small.assert_close(member(swept.state.learner, i), alone.state)
            np.testing.assert_allclose(swept.history["loss"][:, i], alone.history["loss"], rtol=1e-5)

    def test_diverging_point_is_frozen_and_reported(self, swept):
        at = int(swept.state.diverged_at[2])
        np.testing.assert_array_equal(swept.state.diverged_at[:2], [-1, -1])
        assert 0 < at < STEPS - 1
        np.testing.assert_array_equal(swept.history["diverged_at"][:, 2], [-1] * at + [at] * (STEPS - at))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(swept.state.learner.params))
        np.testing.assert_array_equal(swept.state.learner.step, [STEPS, STEPS, at])

    def test_point_of_which_only_the_optimizer_overflows(self, data, frozen, tmp_path):
        def at_weight(point):
            return distill(
                small.mlp(6), TEACHER, weighted_sum(soft=(point["weight"], soft_label(2.0))), optax.adam(0.01)
            )

        options = {"key": KEY, "frozen": frozen, "chunk": 2}
        # Its second moment is infinite, its loss and its parameters are not; a checkpoint takes nothing infinite.
        grid = {"weight": np.array([1.0, 1e21], np.float32)}
        with Checkpoints(tmp_path) as checkpoints:
            both = fit(sweep(at_weight, grid), data, 4, every=2, checkpoints=checkpoints, **options)
        np.testing.assert_array_equal(both.state.diverged_at, [-1, 0])
        alone = fit(at_weight({"weight": 1.0}), data, 4, **options)
        small.assert_close(member(both.state.learner, 0), alone.state)

    def test_chunks_are_all_at_once(self, data, frozen, swept):
        chunked = train(sweep(at_point, GRID, chunk=2), data, frozen)
        first_two = jax.tree.map(lambda x: x[:2], (chunked.state.learner, swept.state.learner))
        small.assert_close(*first_two)
        np.testing.assert_array_equal(chunked.state.diverged_at, swept.state.diverged_at)

    def test_grid(self):
        grid = product(a=(1, 2), b=(0.5, 0.25, 0.125))
        np.testing.assert_array_equal(grid["a"], [1, 1, 1, 2, 2, 2])
        np.testing.assert_array_equal(grid["b"], [0.5, 0.25, 0.125] * 2)
        for bad in (
            {},
            {"lr": jnp.ones(2), "t": jnp.ones(3)},
            {"lr": jnp.ones((2, 2))},
            {"lr": jnp.ones(0)},
            {"lr": 1.0},
        ):
            with pytest.raises(
                ValueError, match="a grid is one-dimensional arrays of one length by name, and this one"
            ):
                sweep(at_point, bad)


def test_term_and_metric_of_one_name(data):
    clash = weighted_sum(loss=(1.0, hard_label()))
    learner = distill(small.mlp(), None, clash, optax.sgd(0.1))
    batch = example_batch(data)
    state = jax.eval_shape(learner.init, KEY, {}, batch)
    with pytest.raises(ValueError, match=r"terms and metrics are named by one mapping, and it has \['loss'\] twice"):
        jax.eval_shape(learner.step, state, {}, batch)


class TestMeanTeacher:
    def test_learns_from_the_average_of_itself(self, data):
        student, decay = small.mlp(6), 0.7
        objective = distillation(2.0, 0.5)
        learner = mean_teacher(student, objective, optax.sgd(0.5), decay=decay)
        by_hand = distill(student, student, objective, optax.sgd(0.5))
        state = learner.init(KEY, {}, example_batch(data))
        inner = state.learner
        teacher = jax.tree.map(lambda x: np.asarray(x, np.float64), learner.deploy(state, {}))
        step, step_by_hand = jax.jit(learner.step), jax.jit(by_hand.step)
        for i in range(4):
            batch = data.examples.decode(data[i])
            state, metrics = step(state, {}, batch)
            rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), teacher)
            inner, expected = step_by_hand(inner, rounded, batch)
            np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
            newest = by_hand.deploy(inner, rounded)
            teacher = jax.tree.map(lambda a, b: decay * a + (1 - decay) * np.asarray(b, np.float64), teacher, newest)
        assert float(expected["soft"]) > 0
        for x, y in zip(jax.tree.leaves(learner.deploy(state, {})), jax.tree.leaves(teacher), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)

    def test_the_objective_starts_from_the_student_that_is_drawn(self, data):
        """What it keeps of its teacher in ``init`` is no zeros: of norms and centres it would make values of them."""

        def init(key, signals):
            return {"kept": {"of_teacher": jax.tree.map(jnp.array, signals.teacher_variables["params"])}}

        plain = hard_label()
        objective = plain._replace(init=init, apply=lambda variables, signals: plain.apply({}, signals))
        learner = mean_teacher(small.mlp(6), objective, optax.sgd(0.1))
        state = jax.jit(learner.init)(KEY, {}, example_batch(data))
        small.assert_same_bits(state.learner.collections["objective"]["kept"]["of_teacher"], state.teacher["params"])
        small.assert_same_bits(state.learner.params["student"], state.teacher["params"])
        assert np.any(state.teacher["params"]["hidden_0"]["kernel"])

    def test_trains_with_donated_state(self, data):
        learner = mean_teacher(small.mlp(6), distillation(), optax.adam(1e-2), decay=0.9)
        assert int(fit(learner, data, 4, key=KEY, chunk=2).state.learner.step) == 4

    def test_decay_out_of_range(self):
        with pytest.raises(ValueError, match="decay"):
            mean_teacher(small.mlp(6), distillation(), optax.sgd(0.1), decay=1.5)
