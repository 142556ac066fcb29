"""What a step does about the devices it runs on: nothing passes over a memory that all devices know to be the same."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxkd.learners import distill
from jaxkd.objectives import Objective, Taps, Term, crd, progressive_self, weighted_sum
from jaxkd.training import example_batch, fit, parallel

from .. import small

DATA = 48


def traced(objective, mode, accumulate=1):
    """The program of one step on eight devices, as text."""
    net, data = small.mlp(6), small.batches(16, n=DATA)
    learner = distill(net, net, objective, optax.sgd(0.1), accumulate=accumulate)
    frozen = jax.eval_shape(net.init, jax.random.key(1), example_batch(data))
    state = jax.eval_shape(learner.init, jax.random.key(0), frozen, example_batch(data))
    compiled = parallel.compile(learner, data, mesh=parallel.make_mesh(), mode=mode)
    xs = compiled.put_chunk(data.chunk(0, 1))
    return str(jax.make_jaxpr(compiled.chunk)(state, frozen, data.source, xs))


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_memories_are_not_compared_from_device_to_device(mode):
    taps = {"student": "penultimate", "teacher": "penultimate"}
    objective = weighted_sum(
        banks=(1.0, crd(**taps, n_data=DATA, dim=5, negatives=7)),
        queue=(1.0, crd(**taps, dim=5, negatives=20, variant="queue")),
        predictions=(1.0, progressive_self(DATA, 0.5)),
    )
    assert "pmax" not in traced(objective, mode, accumulate=2)


def remembering(gather):
    """Keeps what it has gathered of the last global batch's logits."""

    def apply(variables, signals):
        logits = signals.student.logits
        kept = logits if signals.axis_name is None else gather(logits, signals.axis_name)
        term = Term(1.0, jnp.sum(jnp.square(logits)), jnp.float32(len(logits)))
        return {"squares": term}, {}, {"memory": {"logits": jax.lax.stop_gradient(kept)}}

    def init(key, signals):
        return {"memory": {"logits": jnp.zeros(signals.student.logits.shape)}}

    return Objective(Taps(), init, apply)


def test_an_objective_may_gather_as_it_likes():
    objective = remembering(lambda x, axis_name: jax.lax.all_gather(x, axis_name, tiled=True))
    assert "pmax" in traced(objective, "shard_map")
    net, data = small.mlp(6), small.batches(16, n=DATA)
    learner = distill(net, None, objective, optax.sgd(0.1))
    state = jax.jit(learner.init)(jax.random.key(0), {}, example_batch(data))
    kept = []
    for mode, mesh in (("jit", None), ("shard_map", parallel.make_mesh())):
        compiled = parallel.compile(learner, data, mesh=mesh, mode=mode)
        kept.append(fit(learner, data, 2, state=state, frozen={}, compiled=compiled, chunk=2).state.collections)
    small.assert_close(*kept)
