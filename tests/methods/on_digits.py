"""Real images, small students, and teachers that are right about nearly all: what methods are tried on."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxkd import data, learners, models, networks, objectives

STEPS, BATCH, EXAMPLES, LABELLED = 100, 32, 320, 40


def network(name):
    return networks.from_linen(models.create(name, 10))


# Student and teacher; the maps are 8x8 and 4x4.
PAIRS = {"mlp": (network("mlp_16_16"), network("mlp_64_64")), "cnn": (network("cnn_2_4"), network("cnn_4_8"))}


def read():
    """The examples, and ``{"few": batches of all steps, "all": ...}`` with few labels and with all."""
    whole = data.load("digits", "train")
    arrays = {name: x[:EXAMPLES] for name, x in whole.arrays.items()}
    examples = data.from_arrays("digits", "train", arrays["image"], arrays["label"], whole.class_names)
    stacks = {}
    for name, part in {"all": examples, "few": data.keep_labels(examples, LABELLED)}.items():
        batches = data.Batches(part, BATCH)
        source = jax.device_put(batches.source)
        stacks[name] = jax.vmap(functools.partial(batches.fetch, source))(batches.chunk(0, STEPS))
    return examples, stacks


def teach(kind, batches):
    """The variables of a trained teacher."""
    learner = learners.distill(PAIRS[kind][1], None, objectives.hard_label(), optax.adam(3e-2))
    state = jax.jit(learner.init)(jax.random.key(0), {}, first(batches))
    epochs = jax.jit(lambda state: jax.lax.scan(lambda s, b: learner.step(s, {}, b), state, batches))
    for _ in range(2):
        state, metrics = epochs(state)
    assert metrics["loss"][-5:].mean() < 1
    return learner.deploy(state, {})


def first(batches):
    return jax.tree.map(lambda x: x[0], batches)


def norm(grads):
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(grads)))
