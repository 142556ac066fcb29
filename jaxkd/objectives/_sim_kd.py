"""SimKD: the student's last map in place of the teacher's, under the teacher's classifier, which is deployed."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from jaxkd import losses
from jaxkd._checks import shape_of
from jaxkd.losses._maps import pooled_alike
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables
from jaxkd.objectives._blocks import moments, norm, standardize
from jaxkd.objectives._common import mean_over_examples, without_padding
from jaxkd.objectives._objective import Deployment, Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, poolable_maps, pooled, valid_taps

# Of the running statistics: the older ones' share at each step.
_DECAY = 0.9
_LAYERS = (1, 3, 1)


def sim_kd(
    student: str, teacher: str, *, head: Callable[[Variables, jax.Array], jax.Array] | None, factor: int = 2
) -> Objective:
    """SimKD: mean (projector(student's map) - teacher's map)^2, to predict with the teacher's classifier.

    The projector is 1x1, 3x3 and 1x1 convolutions without bias, to C / factor, C / factor and C channels, C the
    teacher's, each with BatchNorm and ReLU. The larger of the two maps is averaged to the size of the other. This is
    the whole loss: no labels, no soft labels (published weights: cross-entropy 0, KD 0, this 1).

    **The projector and the teacher's classifier are part of the deployed student**: it predicts
    head(GAP(projector(map))), and they are in its parameters, FLOPs and latency. The learner's ``network`` and
    ``deploy`` give that network; its variables are the student's, the projector's and those leaves of the teacher's
    that its classifier reads, under ``"student"``, ``"projector"`` and ``"teacher"`` of each collection. Metrics of
    other objectives beside this one are of the student's own classifier, which no one trains or uses.

    BatchNorm normalizes by the statistics of the global batch, padding left out, and keeps running ones for deployment.

    Args:
      student: a tap of the student: its last map before the average, [batch, height, width, channels].
      teacher: a tap of the teacher: its last map before the average.
      head: ``(teacher's variables, features [batch, channels]) -> logits``: the teacher network's ``head``.
      factor: by how much the projector's inner layers are narrower than the teacher's map.

    Raises:
      ValueError: if ``head`` is None or ``factor`` below 1; in ``init``: if the taps are no maps of which one is the
        larger, ``factor`` does not divide the teacher's channels, or ``head`` needs more of the teacher than it reads.

    References:
      Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", 2022,
      https://arxiv.org/abs/2203.14001
    """
    if head is None:
        raise ValueError("sim_kd needs the teacher's classifier: pass head=network.head of a network that has one")
    if factor < 1:
        raise ValueError(f"factor is {factor}: it has to be at least 1")

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = check_taps(signals, student, teacher, poolable_maps)
        width = of_teacher[-1]
        if width % factor:
            raise ValueError(f'teacher tap "{teacher}" has {width} channels, which factor={factor} does not divide')
        features = jax.ShapeDtypeStruct((of_teacher[0], width), jnp.float32)
        try:
            jax.eval_shape(head, signals.teacher_variables, features)
        except Exception as error:
            raise ValueError(
                f'head does not run on features {shape_of(features)}, the averages of teacher tap "{teacher}" '
                f"{shape_of(signals.teacher.taps[teacher])} over height and width (channels are the last axis): {error}"
            ) from error
        try:
            jax.eval_shape(head, _read_by(head, signals.teacher_variables, features), features)
        except Exception as error:
            raise ValueError(
                "head does not run on those of the teacher's variables alone that it reads, which are what is "
                f"deployed: give one that takes them apart itself, as the head of a Linen network does ({error})"
            ) from error
        widths = (of_student[-1], width // factor, width // factor, width)
        keys = jax.random.split(key, len(_LAYERS))
        layers = {
            f"layer{i}": {
                "conv": draw_conv(keys[i], size, widths[i], widths[i + 1]),
                "norm": norm(widths[i + 1]),
            }
            for i, size in enumerate(_LAYERS)
        }
        statistics = {
            f"layer{i}": {"mean": jnp.zeros(widths[i + 1]), "var": jnp.ones(widths[i + 1])} for i in range(len(_LAYERS))
        }
        return {"params": layers, "batch_stats": statistics}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        of_student, of_teacher = valid_taps(signals, student, teacher)
        of_student, of_teacher = pooled_alike(of_student, of_teacher, -1)
        updated = {}

        def normalize(name: str, params: PyTree, x: jax.Array) -> jax.Array:
            mean, var, count = moments(x, signals.batch, signals.axis_name)
            old = variables["batch_stats"][name]
            # Unbiased, as the code behind the published numbers keeps it.
            new = {"mean": mean, "var": var * count / jnp.maximum(count - 1, 1)}
            updated[name] = jax.tree.map(lambda a, b: _DECAY * a + (1 - _DECAY) * jax.lax.stop_gradient(b), old, new)
            return without_padding(standardize(params, x, mean, var), signals.batch)

        values = losses.hint(_project(variables["params"], of_student, normalize), of_teacher, axis=(1, 2, 3))
        return {"sim_kd": mean_over_examples(values, signals.batch)}, {}, {"batch_stats": updated}

    def network(trunk: Network) -> Network:
        def no_init(key: jax.Array, batch: Batch) -> Variables:
            raise ValueError("the variables of a deployed SimKD student come from its learner: learner.deploy(...)")

        def apply(
            variables: Variables,
            batch: Batch,
            *,
            train: bool = False,
            rng: jax.Array | None = None,
            taps: tuple[str, ...] = (),
        ) -> tuple[Outputs, Variables]:
            if train:
                raise ValueError("a deployed SimKD student predicts: train it with its learner")
            outputs, _ = trunk.apply(_part(variables, "student"), batch, train=False, rng=rng, taps=(*taps, student))
            projector = _part(variables, "projector")

            def normalize(name: str, params: PyTree, x: jax.Array) -> jax.Array:
                statistics = projector["batch_stats"][name]
                return standardize(params, x, statistics["mean"], statistics["var"])

            features = pooled(_project(projector["params"], outputs.taps[student], normalize))
            logits = head(_part(variables, "teacher"), features)
            return Outputs(logits, {name: outputs.taps[name] for name in taps}), {}

        return Network(no_init, apply, trunk.roles)

    def deployed(of_student: Variables, own: Variables, of_teacher: Variables) -> Variables:
        width = own["params"][f"layer{len(_LAYERS) - 1}"]["norm"]["scale"].shape[0]
        classifier = _read_by(head, of_teacher, jax.ShapeDtypeStruct((1, width), jnp.float32))
        parts = {"student": of_student, "projector": own, "teacher": classifier}
        collections = {name for variables in parts.values() for name in variables}
        return {
            name: {part: variables[name] for part, variables in parts.items() if name in variables}
            for name in sorted(collections)
        }

    return Objective(Taps((student,), (teacher,)), init, apply, Deployment(network, deployed))


def _project(params: PyTree, x: jax.Array, normalize: Callable[[str, PyTree, jax.Array], jax.Array]) -> jax.Array:
    for name in sorted(params):
        x = jax.nn.relu(normalize(name, params[name]["norm"], convolve(params[name]["conv"], x)))
    return x


def _part(variables: Variables, name: str) -> dict[str, Any]:
    return {collection: parts[name] for collection, parts in variables.items() if name in parts}


def _read_by(head: Callable, variables: Variables, features: Any) -> Variables:
    """Those of the variables, nested mappings of arrays, that the classifier's result depends on."""
    jaxpr = jax.make_jaxpr(head)(variables, features).jaxpr
    # Dead code is looked for inside of jit and remat too, which take all variables, whatever they read.
    _, read = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    leaves, structure = jax.tree.flatten(variables)
    flags = list(read[: len(leaves)])

    def pruned(tree: Any, flags: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        kept = {name: pruned(tree[name], flags[name]) for name in tree if any(jax.tree.leaves(flags[name]))}
        return kept

    return pruned(variables, jax.tree.unflatten(structure, flags))
