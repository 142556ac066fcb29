"""A small run in two phases, for test_kill.py to kill: python killable.py DIRECTORY."""

import sys

import jax
import numpy as np
import optax
from flax import linen as nn

from jaxkd import data, learners, networks, objectives, training
from jaxkd.learners import Phase


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))


def main(directory: str) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (96, 4, 4, 1), np.uint8)
    label = (image.reshape(96, -1).sum(1) % 3).astype(np.int32)
    examples = data.from_arrays("small", "train", image, label, ("a", "b", "c"))
    batches = data.Batches(examples, 16, seed=1)
    teacher, student = networks.from_linen(Net(16)), networks.from_linen(Net(4))
    alone = learners.distill(teacher, None, objectives.hard_label(), optax.adam(1e-2))
    taught = learners.seeds(learners.distill(student, teacher, objectives.distillation(2.0, 0.5), optax.adam(1e-2)), 2)
    phases = [
        Phase("teacher", alone, 60, learners.fresh(alone)),
        Phase("distilled", taught, 90, learners.fresh(taught, lambda results: results["teacher"])),
    ]

    def evaluate(phase):
        def size(state, frozen):
            return {"size": sum(x.sum() for x in jax.tree.leaves(phase.learner.deploy(state, frozen)))}

        return size

    training.run(
        phases,
        batches,
        key=jax.random.key(3),
        workdir=directory,
        chunk=5,
        evaluate=evaluate,
        every=10,
        best="size",
        on_phase=lambda phase, start: print(phase.name, start, flush=True),
        on_chunk=lambda phase, step, metrics: print(phase.name, step, flush=True),
    )
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
