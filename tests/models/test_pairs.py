"""Pairs of the CIFAR-100 tables and every method: shapes fit, or one clear line says what does not."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import methods, models, networks
from jaxkd.objectives import Signals

CLASSES, BATCH = 100, 4
PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("vgg13", "vgg8"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet50_cifar", "mobilenet_v2_half"),
)
# "nd" runs the teacher over a whole data set; of methods in phases, those whose first one looks at inner features.
NAMES = [method.name for method in methods.methods() if not method.staged and method.name != "nd"]
NAMES += ["fitnets_staged", "ab", "fsp"]
ON_LOGITS = {method.name for method in methods.methods() if method.family == "response"}
IMAGES = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)


@functools.cache
def seen(name):
    """A network, and the shapes of its variables and of all that its roles name."""
    network = networks.from_linen(models.create(name, CLASSES))
    taps = [f"{role}[{i}]" for role, paths in network.roles.items() for i in range(len(paths)) if role != "norms"]
    taps += [role for role, paths in network.roles.items() if len(paths) == 1] + ["stages[-1]"]
    batch = {"image": IMAGES}
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    outputs, _ = jax.eval_shape(functools.partial(network.apply, taps=taps), variables, batch)
    return network, variables, outputs


def objective_of(method, student, teacher):
    """That of the first phase."""
    made = []

    def learner(make, **how):
        made.append(make.args[-1])  # make(student, teacher, objective)
        return make(optimizer=optax.sgd(0.1))

    facts = {
        "n_data": 50_000,
        "labels": np.arange(50_000) % CLASSES,
        "classes": CLASSES,
        "steps": 100,
        "steps_per_epoch": 10.0,
        "training": methods.Training(learner, 100, (), (), lambda: (), (), lambda name: seen(name)[0]),
    }
    known = {name: facts[name] for name in methods.find(method).from_training}
    created = methods.create(method, student, teacher, **known)
    return made[0] if made else created


def terms(method, student, teacher):
    """The terms of a method's objective on shapes alone."""
    (of_student, student_variables, s), (of_teacher, teacher_variables, t) = seen(student), seen(teacher)
    objective = objective_of(method, of_student, of_teacher)
    batch = {"image": IMAGES, "label": jnp.zeros(BATCH, jnp.int32), "index": jnp.zeros(BATCH, jnp.int32)}
    key = jax.random.key(0)
    s, t = (
        outputs._replace(taps={name: outputs.taps[name] for name in wanted})
        for outputs, wanted in zip((s, t), objective.taps, strict=True)
    )

    def apply(s, t, student_variables, teacher_variables, batch):
        signals = Signals(s, t, teacher_variables, batch, jnp.int32(0), key, None, student_variables)
        return objective.apply(objective.init(key, signals), signals)[0]

    return jax.eval_shape(apply, s, t, student_variables, teacher_variables, batch)


# What needs maps of one size, where they differ.
OF_ONE_SIZE = {
    ("resnet32x4", "shufflenet_v1"): {
        "mgd": 'is [4,4,4,960], teacher tap "map_before_pool" is [4,8,8,256]: the generator takes maps',
        "ofd": 'is [4,16,16,240], teacher tap "pre_relu[0]" is [4,32,32,64]: overhaul takes maps',
    },
    ("resnet50_cifar", "mobilenet_v2_half"): {
        "mgd": 'is [4,2,2,1280], teacher tap "map_before_pool" is [4,4,4,2048]: the generator takes maps',
        "ofd": 'is [4,16,16,12], teacher tap "pre_relu[0]" is [4,32,32,256]: overhaul takes maps',
        "sdd": "features [4,2,2,1280] are smaller than the grid 4: give smaller grids",
    },
}


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_methods(teacher, student):
    for method in NAMES:
        if method in ON_LOGITS and student != "vgg8":
            continue  # one pair's logits are like another's
        expected = OF_ONE_SIZE.get((teacher, student), {}).get(method)
        if expected is None:
            found = terms(method, student, teacher)
            assert {leaf.sum.shape for leaf in found.values()} == {()}, method
            continue
        with pytest.raises(ValueError, match=re.escape(expected)):
            terms(method, student, teacher)
