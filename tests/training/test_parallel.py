"""How a batch gets onto devices, and what is refused before anything compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.learners import distill
from jaxkd.objectives import hard_label
from jaxkd.training import parallel

from .. import small


@pytest.fixture(scope="module")
def learner():
    return distill(small.mlp(4), None, hard_label(), optax.sgd(0.1))


def test_mesh_axes():
    assert dict(parallel.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(parallel.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    assert dict(parallel.make_mesh(devices=jax.devices()[:2]).shape) == {"data": 2, "fsdp": 1}
    assert set(parallel.make_mesh().axis_types) == {jax.sharding.AxisType.Auto}
    for sizes in ({"data": 3}, {"data": 4, "fsdp": 4}, {"fsdp": 3}, {"data": 0, "fsdp": 8}):
        with pytest.raises(ValueError, match=r"a mesh of data=.*, fsdp=.* has .* devices, and there are 8"):
            parallel.make_mesh(**sizes)


def test_which_leaves_are_split_and_how():
    mesh = parallel.make_mesh(fsdp=4)
    shapes = {"wide": (64, 128), "tall": (256, 16), "odd": (65, 130), "half": (63, 128), "small": (8, 8), "number": ()}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    specs = {name: tuple(sharding.spec) for name, sharding in parallel.fsdp_sharding(tree, mesh).items()}
    expected = {"wide": (None, "fsdp"), "tall": ("fsdp",), "half": (None, "fsdp"), "odd": (), "small": (), "number": ()}
    assert specs == expected
    keys = jax.random.split(jax.random.key(0), 4096)
    assert parallel.fsdp_sharding(keys, mesh).spec == jax.P()
    whole = parallel.fsdp_sharding(tree, parallel.make_mesh())
    assert all(tuple(sharding.spec) == () for sharding in whole.values())


def test_put_is_a_copy(learner):
    compiled = parallel.compile(learner, small.batches())
    x = jnp.arange(3.0)
    compiled.put({"x": x})["x"].delete()
    np.testing.assert_array_equal(x, [0, 1, 2])


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_every_device_holds_its_part_of_the_batch(learner, mode):
    data = small.batches(16)
    compiled = parallel.compile(learner, data, mesh=parallel.make_mesh(), mode=mode)
    xs = data.chunk(0, 3)
    put = compiled.put_chunk(xs)["index"]
    if mode == "pmap":
        np.testing.assert_array_equal(put, xs["index"].reshape(3, 8, 2))
    else:
        parts = sorted(put.addressable_shards, key=lambda shard: shard.index[1].start)
        np.testing.assert_array_equal(np.concatenate([part.data for part in parts], 1), xs["index"])
        assert [part.data.shape for part in parts] == [(3, 2)] * 8


@pytest.mark.parametrize(
    ("size", "devices", "nearest"), [(20, 8, "16 or 24"), (6, 8, "8"), (17, 2, "16 or 18"), (33, 8, "32 or 40")]
)
def test_batch_that_the_devices_do_not_divide(learner, size, devices, nearest):
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    expected = f"a batch of {size} examples does not divide over {devices} devices: take {nearest}, or fewer devices"
    with pytest.raises(ValueError, match=expected):
        parallel.compile(learner, small.batches(size), mesh=mesh)


def test_modes(learner):
    with pytest.raises(ValueError, match=r'mode=\'xmap\': there are "jit", "shard_map" and "pmap"'):
        parallel.compile(learner, small.batches(), mode="xmap")
    for mode in ("pmap", "shard_map"):
        with pytest.raises(ValueError, match=f'parameters are sharded over fsdp=4 under mode="jit" only, not "{mode}"'):
            parallel.compile(learner, small.batches(), mesh=parallel.make_mesh(fsdp=4), mode=mode)
