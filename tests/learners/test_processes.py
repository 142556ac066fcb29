"""Two processes of two devices are one process of one device, also when one of them stops both and both go on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxkd
from jaxkd import evaluation
from jaxkd.data import padded_batches
from jaxkd.learners import Phase, distill, fresh
from jaxkd.objectives import hard_label, soft_label, weighted_sum
from jaxkd.training import InterruptedTraining, example_batch, parallel, run
from jaxkd.training.logging import read_metrics

from .. import small

KEY = jax.random.key(0)
STEPS = 20
# What each process runs: this module, by the path it has, as the package of the tests is not installed.
PROGRAM = """
import importlib, json, sys
sys.path[:0] = {paths!r}
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("127.0.0.1:{port}", num_processes=2, process_id={process})
module = importlib.import_module("tests.learners.test_processes")
result = module.train(module.parallel.make_mesh(), process_index={process}, process_count=2)
resumed = module.run_phases(module.parallel.make_mesh(), {workdir!r}, process_index={process}, process_count=2)
if {process} == 0:
    print(json.dumps([result, resumed]))
"""


def train(mesh, **of_process):
    """Losses of every step, and the trained parameters."""
    teacher = small.mlp(6)
    objective = weighted_sum(hard=(0.3, hard_label()), soft=(0.7, soft_label(4.0)), gram=(0.05, small.similarity()))
    learner = distill(small.mlp(4), teacher, objective, optax.adam(1e-2), prepare=small.noisy)
    data = small.batches(16, **of_process)
    batch = example_batch(data)
    frozen = jax.jit(teacher.init)(jax.random.key(1), batch)
    state = jax.jit(learner.init)(KEY, frozen, batch)
    compiled = parallel.compile(learner, data, mesh=mesh)
    source, xs = compiled.put_source(data.source), compiled.put_chunk(data.chunk(0, STEPS))
    state, metrics = compiled.chunk(compiled.put(state), compiled.put(frozen), source, xs)
    params = jax.tree.leaves(state.params)
    return {"loss": np.asarray(metrics["loss"]).tolist(), "params": [np.asarray(x).tolist() for x in params]}


def run_phases(mesh, workdir, **of_process):
    """What two phases deploy; with several processes, the second one alone asks once for an interruption."""
    alone = distill(small.mlp(4), None, hard_label(), optax.adam(1e-2))
    taught = distill(small.mlp(4), small.mlp(4), soft_label(4.0), optax.adam(1e-2))
    phases = [
        Phase("teacher", alone, 4, jax.jit(fresh(alone))),
        Phase("student", taught, 6, jax.jit(fresh(taught, lambda results: results["teacher"]))),
    ]

    split = evaluation.on_device(padded_batches(small.examples(), 32), mesh)

    def evaluate(phase):
        def size(state, frozen):
            logits = evaluation.predict(phase.learner.network, phase.learner.deploy(state, frozen), split)
            return {"size": np.square(logits).mean()}

        return size

    def attempt(stop):
        return run(
            phases, small.batches(16, **of_process), key=KEY, workdir=workdir, mesh=mesh, chunk=2, every=4, best="size",
            evaluate=evaluate, stop=stop,
        )  # fmt: skip

    if of_process:
        asking = of_process["process_index"] == 1
        asked = iter([None, "SIGTERM"])  # at step 2 of the first phase and of the second one
        with pytest.raises(InterruptedTraining) as interruption:
            attempt(lambda step: next(asked) if asking else None)
        assert (interruption.value.step, interruption.value.reason) == (2, "SIGTERM" if asking else "another process")
    results = attempt(lambda step: None)
    return [np.asarray(x).tolist() for x in jax.tree.leaves(results)]


def test_two_processes_are_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workdir = str(tmp_path / "two")
    paths = [str(Path(jaxkd.__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(paths=paths, port=port, process=process, workdir=workdir)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors for _, errors in outputs)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    expected = [train(mesh), run_phases(mesh, tmp_path / "one")]
    small.assert_close(json.loads(outputs[0][0].splitlines()[-1]), expected)
    two, one = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("two", "one"))
    assert [(x["phase"], x["step"]) for x in two] == [(x["phase"], x["step"]) for x in one]
