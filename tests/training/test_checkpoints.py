import random
import shutil
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.training.checkpoints import (
    CheckpointError,
    CheckpointMismatchError,
    Checkpoints,
    load_result,
    save_result,
    tree_hash,
)

MESH = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
SHARDED = jax.NamedSharding(MESH, jax.P("data"))
REPLICATED = jax.NamedSharding(MESH, jax.P())


class State(NamedTuple):
    step: jax.Array
    params: dict[str, Any]
    opt_state: Any
    keys: jax.Array
    flag: jax.Array
    history: tuple
    nothing: None = None


def make_state(seed=0):
    key = jax.random.key(seed)
    params = {
        "dense/0": {"kernel": jax.random.normal(key, (8, 48)), "bias": jnp.full(48, seed, jnp.bfloat16)},
        "head": [jnp.arange(10, dtype=jnp.int8), jnp.asarray([jnp.nan, -0.0, jnp.inf])],
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.identity())
    return State(
        step=jnp.int32(seed),
        params=params,
        opt_state=optimizer.init(params["dense/0"]),
        keys=jax.random.split(jax.random.key(seed, impl="rbg"), 8),
        flag=jnp.asarray(True),
        history=(jnp.zeros((0, 3)), ()),
    )


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path, x in jax.tree_util.tree_leaves_with_path(a):
        y = dict(jax.tree_util.tree_leaves_with_path(b))[path]
        assert x.dtype == y.dtype, path
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).shape == np.asarray(y).shape, path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with sound checkpoints of steps 1, 2 and 3, to be copied and damaged."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory, config_hash="c0", frozen_hash="f0") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"accuracy": step / 7, "loss": float("nan")})
    return directory


def reopen(directory):
    return Checkpoints(directory, config_hash="c0", frozen_hash="f0")


def test_round_trip_bit_for_bit(saved):
    like = jax.eval_shape(make_state)
    restored = reopen(saved).restore(like)
    assert (restored.step, restored.skipped) == (3, [])
    assert restored.metrics["accuracy"] == 3 / 7
    assert np.isnan(restored.metrics["loss"])
    assert_same_bits(restored.state, make_state(3))
    assert jax.random.key_impl(restored.state.keys) == "rbg"
    # The program does not see whether its state was made or restored: no second trace, and the buffers can be donated.
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        return state.params["dense/0"]["kernel"].sum()

    step(make_state())
    step(restored.state)
    assert len(traces) == 1
    assert step._cache_size() == 1
    jax.jit(lambda x: x + 1, donate_argnums=0)(restored.state.params["dense/0"]["kernel"])


def test_restores_onto_the_shardings_of_like(saved, tmp_path):
    def place(leaf):
        sharding = SHARDED if leaf.ndim and leaf.shape[0] == 8 else REPLICATED
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    like = jax.tree.map(place, jax.eval_shape(make_state))
    state = reopen(saved).restore(like).state
    assert_same_bits(state, make_state(3))
    jax.tree.map(
        lambda x, l: x.sharding.is_equivalent_to(l.sharding, x.ndim) or pytest.fail(f"{x.sharding}"), state, like
    )
    # And back: what eight devices hold is saved whole, and read by one.
    with Checkpoints(tmp_path / "x") as checkpoints:
        checkpoints.save(1, state)
        assert_same_bits(checkpoints.restore(jax.eval_shape(make_state)).state, make_state(3))
    assert tree_hash(state) == tree_hash(make_state(3))


def test_buffers_may_be_donated_right_after_save(tmp_path):
    def make(n):
        return {"x": jnp.arange(2**18, dtype=jnp.float32) + n, "y": jax.device_put(jnp.arange(64.0) + n, SHARDED)}

    def address(x):
        return x.addressable_shards[0].data.unsafe_buffer_pointer()

    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    step(make(0))
    state = make(1)
    before = address(state["x"])
    with Checkpoints(tmp_path / "x") as checkpoints:
        checkpoints.save(1, state)
        new = step(state)
        assert address(new["x"]) == before, "the checkpoint kept the buffer from being reused"
        restored = checkpoints.restore(jax.eval_shape(make, 0))
    assert_same_bits(restored.state, make(1))
    assert float(new["x"][5]) == -1


def test_keeps_the_last_ones_and_the_best(tmp_path):
    accuracies = {10: 0.2, 20: 0.9, 30: float("nan"), 40: 0.9, 50: 0.3}
    with Checkpoints(tmp_path / "x", keep=2, best="accuracy") as checkpoints:
        assert checkpoints.restore({"x": jnp.ones(3)}) is None
        assert checkpoints.best_step() is None
        for step, accuracy in accuracies.items():
            checkpoints.save(step, {"x": jnp.full(3, step)}, {"accuracy": accuracy})
        checkpoints.wait()
        assert checkpoints.steps() == [20, 40, 50]
        assert checkpoints.best_step() == 20
        restored = checkpoints.restore({"x": jnp.ones(3, int)}, step=checkpoints.best_step())
        assert restored.state["x"].tolist() == [20, 20, 20]
        with pytest.raises(ValueError, match=r"no 'accuracy', by which the best .*\['loss'\]"):
            checkpoints.save(60, {"x": jnp.ones(3)}, {"loss": 1.0})
        with pytest.raises(CheckpointError, match="already holds a checkpoint of step 50, and step 50"):
            checkpoints.save(50, {"x": jnp.ones(3)}, {"accuracy": 1.0})
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["20", "40", "50"]


def damaged(saved, tmp_path, damage):
    directory = tmp_path / "copy"
    shutil.copytree(saved, directory)
    damage(directory / "3")
    return directory


def test_a_changed_byte_in_any_file_is_harmless_or_found(saved, tmp_path):
    directory = damaged(saved, tmp_path, lambda _: None)
    like = jax.eval_shape(make_state)
    generator = random.Random(0)
    found, reasons = set(), set()
    for file in sorted(path for path in (directory / "3").rglob("*") if path.is_file()):
        raw = file.read_bytes()
        places = {0, len(raw) - 1, *(generator.randrange(len(raw)) for _ in range(10))} if raw else set()
        variants = [raw[:i] + bytes([raw[i] ^ (1 << generator.randrange(8))]) + raw[i + 1 :] for i in places]
        variants.append(raw[: len(raw) // 2])
        for variant in variants:
            file.write_bytes(variant)
            restored = reopen(directory).restore(like)
            assert_same_bits(restored.state, make_state(restored.step))
            assert restored.metrics["accuracy"] == restored.step / 7
            if restored.step != 3:
                ((step, reason),) = restored.skipped
                assert (restored.step, step) == (2, 3)
                assert "\n" not in reason
                assert len(reason) < 400
                reasons.add(reason)
                found.add(file.relative_to(directory / "3").parts[0])
        file.write_bytes(raw)
    assert found == {"arrays", "manifest"}
    assert reopen(directory).restore(like).step == 3


def test_an_altered_array_that_orbax_accepts_is_found_and_named(saved, tmp_path):
    # Another checkpoint's arrays are perfectly sound to Orbax.
    def swap(step):
        shutil.rmtree(step / "arrays")
        shutil.copytree(step.parent / "2" / "arrays", step / "arrays")

    restored = reopen(damaged(saved, tmp_path, swap)).restore(jax.eval_shape(make_state))
    assert restored.step == 2
    assert restored.skipped == [(3, "leaf step: digest differs (a changed byte)")]


def test_an_empty_step_directory_is_passed_over_and_replaced(saved, tmp_path):
    directory = damaged(saved, tmp_path, lambda step: (shutil.rmtree(step), step.mkdir()))
    checkpoints = reopen(directory)
    assert checkpoints.steps() == [1, 2]
    restored = checkpoints.restore(jax.eval_shape(make_state))
    assert restored.step == 2
    assert restored.skipped == [(3, "it has no manifest: it is empty or was not completed")]
    checkpoints.save(3, make_state(3))
    checkpoints.close()
    assert reopen(directory).restore(jax.eval_shape(make_state)).step == 3


def test_damaged_ones_are_not_counted_among_those_to_keep(saved, tmp_path):
    directory = damaged(saved, tmp_path, lambda step: shutil.rmtree(step / "arrays"))
    like = jax.eval_shape(make_state)
    with Checkpoints(directory, keep=2, config_hash="c0", frozen_hash="f0") as checkpoints:
        assert checkpoints.restore(like).step == 2
        # Saved at another step than the damaged one: 2 and 4 stay, 3 goes.
        checkpoints.save(4, make_state(4))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]
    assert sorted(p.name for p in directory.iterdir()) == ["2", "4"]


def test_nothing_sound_is_an_error_and_nothing_is_deleted(saved, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(saved, directory)
    for manifest in directory.glob("*/manifest/process_0.json"):
        manifest.write_text("")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound \(step 3: .*; step 2: .*; step 1: .*anew"):
        reopen(directory).restore(jax.eval_shape(make_state))
    assert len(list(directory.iterdir())) == 3


def test_mismatches_name_both_sides(saved):
    like = jax.eval_shape(make_state)
    with pytest.raises(CheckpointMismatchError, match="config_hash 'c0', this run has 'c1': resume with the config"):
        Checkpoints(saved, config_hash="c1", frozen_hash="f0").restore(like)
    with pytest.raises(CheckpointMismatchError, match="frozen_hash 'f0', this run has 'f1': resume with the teacher"):
        Checkpoints(saved, config_hash="c0", frozen_hash="f1").restore(like)
    wrong = make_state()._replace(step=jnp.zeros(2))
    with pytest.raises(CheckpointMismatchError, match=r"leaf step is int32\[\] in the checkpoint and float32\[2\] in"):
        reopen(saved).restore(wrong)
    with pytest.raises(
        CheckpointMismatchError, match=r"leaf flag is missing in the checkpoint|leaf nothing is missing"
    ):
        reopen(saved).restore(make_state()._replace(nothing=jnp.zeros(2)))
    with pytest.raises(
        CheckpointMismatchError, match=r"leaf flag is bool\[\] in the checkpoint and missing in the prog"
    ):
        reopen(saved).restore(make_state()._replace(flag=None))
    other_key = make_state()._replace(keys=jax.random.split(jax.random.key(0), 8))
    with pytest.raises(
        CheckpointMismatchError, match=r"leaf keys is rbg key uint32\[8,4\] .* threefry2x32 key uint32\["
    ):
        reopen(saved).restore(other_key)


def test_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="it is or is below a file"):
            Checkpoints(path)
    # Below /proc no one may write, not even root.
    with pytest.raises(CheckpointError, match="cannot be written"):
        Checkpoints("/proc/self")
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path / "x", keep=0)
    checkpoints = Checkpoints(tmp_path / "x")
    with pytest.raises(TypeError, match="leaf a is a float, not an array"):
        checkpoints.save(1, {"a": 1.0})
    with pytest.raises(ValueError, match=r"two leaves have the same name 'a\.b'"):
        checkpoints.save(1, {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})
    assert checkpoints.steps() == []


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_of_saving(tmp_path):
    program = """
        import sys
        import numpy as np
        from jaxkd.training.checkpoints import Checkpoints
        checkpoints = Checkpoints(sys.argv[1], keep=2)
        for step in range(1, 10000):
            state = {f"leaf{i}": np.full((40, 40), step + i, np.float32) for i in range(30)}
            checkpoints.save(step, state, {"step": step})
            print(step, flush=True)
    """
    directories = [tmp_path / str(i) for i in range(2)]
    processes = [start(program, directory) for directory in directories]
    generator = random.Random(1)
    for directory, process in zip(directories, processes, strict=True):
        while int(process.stdout.readline()) < 4:
            pass
        time.sleep(generator.uniform(0.0, 0.2))
        process.kill()
        started = int((process.communicate()[0].split() or [4])[-1])
        with Checkpoints(directory, keep=2) as checkpoints:
            like = {f"leaf{i}": np.zeros((40, 40), np.float32) for i in range(30)}
            restored = checkpoints.restore(like)
            # One was being written, the one before it was complete.
            assert restored.step >= started - 1
            assert restored.skipped == []
            assert restored.metrics == {"step": restored.step}
            for i in range(30):
                assert (restored.state[f"leaf{i}"] == restored.step + i).all()
            checkpoints.save(restored.step + 1, restored.state)
        assert {p.name for p in directory.iterdir()} == {str(restored.step), str(restored.step + 1)}


def test_full_disk(tmp_path):
    program = """
        import resource, sys
        import numpy as np
        from jaxkd.training.checkpoints import CheckpointError, Checkpoints, save_result
        random = np.random.default_rng(0)
        state = lambda n: {"x": random.normal(size=n)}
        checkpoints = Checkpoints(sys.argv[1], keep=1)
        checkpoints.save(1, state(10))
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        checkpoints.save(2, state(100_000))
        for again in (lambda: checkpoints.save(3, state(10)), lambda: checkpoints.save(3, state(100_000))):
            try:
                again()
                checkpoints.wait()
            except CheckpointError as error:
                print(error)
        try:
            save_result(sys.argv[1] + "/results", "teacher", state(100_000))
        except CheckpointError as error:
            print(error)
        print(checkpoints.restore({"x": np.zeros(10)}).step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        checkpoints.save(4, state(10))
        checkpoints.close()
        print(checkpoints.steps())
    """
    process = start(program, tmp_path / "x")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 5, out
    for step, line in zip((2, 3), lines, strict=False):
        assert f"the checkpoint of step {step} in" in line
        assert "the last good one is of step 1:" in line
        assert "File too large" in line
    assert "the result" in lines[2]
    assert "File too large" in lines[2]
    assert lines[3:] == ["1", "[4]"]


def test_results_are_written_once_and_verified(tmp_path):
    variables = {"params": {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3)}}, "batch_stats": {"n": jnp.int32(4)}}
    metadata = {"accuracy": np.float32(0.1), "seeds": [1, 2], "loss": float("inf"), "git": "abc"}
    save_result(tmp_path, "teacher", variables, metadata)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    save_result(tmp_path, "teacher", variables, {"accuracy": 0.0})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "teacher").rglob("*")}.items() <= before.items()
    loaded = load_result(tmp_path, "teacher")
    assert_same_bits(loaded.variables, variables)
    assert loaded.metadata == {**metadata, "accuracy": float(np.float32(0.1))}
    placed = load_result(
        tmp_path,
        "teacher",
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=REPLICATED), variables),
    )
    assert_same_bits(placed.variables, variables)
    assert placed.variables["batch_stats"]["n"].sharding == REPLICATED
    with pytest.raises(CheckpointError, match="already written, with other variables"):
        save_result(tmp_path, "teacher", {"params": jnp.zeros(2)})
    with pytest.raises(
        CheckpointMismatchError, match=r"another network: leaf params is missing .* float32\[2\] in the"
    ):
        load_result(tmp_path, "teacher", {"params": jnp.zeros(2)})
    with pytest.raises(FileNotFoundError, match=r"no result 'student'; it has \['teacher'\]"):
        load_result(tmp_path, "student")
    with pytest.raises(ValueError, match=r"plain file name, not '\.\./x'"):
        save_result(tmp_path, "../x", variables)
    manifest = tmp_path / "teacher" / "manifest" / "process_0.json"
    manifest.write_text(manifest.read_text().replace("abc", "abd"))
    with pytest.raises(CheckpointError, match=r"teacher is damaged: its manifest's digest differs"):
        load_result(tmp_path, "teacher")
    save_result(tmp_path, "teacher", variables)
    assert_same_bits(load_result(tmp_path, "teacher").variables, variables)


def test_tree_hash_is_of_the_content():
    tree = {"a": jnp.arange(8.0), "b": {"10": jnp.int32(1), "9": jax.random.key(0)}}
    digest = tree_hash(tree)
    assert digest == tree_hash({"b": tree["b"], "a": np.arange(8, dtype=np.float32)})
    assert digest == tree_hash({**tree, "a": jax.device_put(tree["a"], SHARDED)})
    assert digest == tree_hash({**tree, "b": {10: tree["b"]["10"], 9: tree["b"]["9"]}})
    others = [
        {**tree, "a": tree["a"].at[3].set(np.nextafter(np.float32(3), np.float32(4)))},
        {**tree, "a": tree["a"].reshape(2, 4)},
        {**tree, "a": tree["a"].astype(int)},
        {**tree, "c": tree["a"]},
        {**tree, "b": {**tree["b"], "9": jax.random.key(1)}},
        {**tree, "b": {**tree["b"], "9": jax.random.key_data(tree["b"]["9"])}},
        {"a2": tree["a"], "b": tree["b"]},
        {**tree, "a": -tree["a"]},
    ]
    hashes = {digest, *map(tree_hash, others)}
    assert len(hashes) == 1 + len(others)
    # A sign of zero is a bit as well.
    assert tree_hash(jnp.zeros(2)) != tree_hash(-jnp.zeros(2))
