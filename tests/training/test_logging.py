import errno
import json
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.training import logging
from jaxkd.training.logging import MetricsLog, TensorBoardLog, read_metrics


def test_floats_come_back_with_their_bits(tmp_path):
    random = np.random.default_rng(0)
    # Random bit patterns: subnormals, huge ones and exact halves alike.
    floats = random.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    floats = floats[np.isfinite(floats)]
    halves = jnp.asarray(random.normal(size=50), jnp.bfloat16)
    doubles = random.normal(size=50) * 10.0 ** random.integers(-300, 300, 50)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write(1, {"float32": floats, "bfloat16": halves, "float64": doubles, "one": np.float32(0.1)})
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert np.asarray(record["float32"], np.float32).tobytes() == floats.tobytes()
    assert np.asarray(jnp.asarray(record["bfloat16"], jnp.bfloat16)).tobytes() == np.asarray(halves).tobytes()
    assert np.asarray(record["float64"]).tobytes() == doubles.tobytes()
    assert struct.pack("f", record["one"]) == np.float32(0.1).tobytes()
    assert record["one"] == float(np.float32(0.1))


def test_every_line_is_strict_json_also_with_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = {"loss": math.nan, "grad": jnp.asarray([1.0, jnp.inf, -jnp.inf]), "n": jnp.int32(3), "ok": np.bool_(True)}
    with MetricsLog(path) as log:
        log.write(7, metrics, phase="distilled")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert list(line) == ["step", "phase", "loss", "grad", "n", "ok"]
    assert line["loss"] == "NaN"
    (record,) = read_metrics(path)
    assert math.isnan(record["loss"])
    assert record["grad"] == [1.0, math.inf, -math.inf]
    assert (record["step"], record["phase"], record["n"], record["ok"]) == (7, "distilled", 3, True)


def test_cut_drops_what_a_resume_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for phase in ("alone", "distilled"):
            for step in (100, 200, 300):
                log.write(step, {"loss": step / 7}, phase=phase)
    undisturbed = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"step": 400, "phase": "dist')
    with MetricsLog(path) as log:
        log.cut("distilled", 200)
        assert [(r["phase"], r["step"]) for r in read_metrics(path)] == [
            *(("alone", step) for step in (100, 200, 300)),
            *(("distilled", step) for step in (100, 200)),
        ]
        log.write(300, {"loss": 300 / 7}, phase="distilled")
    assert path.read_bytes() == undisturbed
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_half_a_line_is_not_glued_to_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    with MetricsLog(path) as log:
        log.write(2, {"loss": 0.25})
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_killed_process_loses_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = f"""
        import os, signal
        import runpy
        # The file alone: the imports of the package take seconds.
        log = runpy.run_path({logging.__file__!r})["MetricsLog"]({str(path)!r})
        for step in range(50):
            log.write(step, {{"loss": step / 3}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert read_metrics(path) == [{"step": step, "loss": step / 3} for step in range(50)]


def test_a_full_disk_leaves_whole_lines_and_names_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = f"""
        import resource
        import runpy
        # The file alone: the imports of the package take seconds.
        log = runpy.run_path({logging.__file__!r})["MetricsLog"]({str(path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            for step in range(50):
                log.write(step, {{"loss": step / 3}})
        except OSError as error:
            print(error.errno, error.filename)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.write(99, {{"loss": 1.0}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(errno.EFBIG), str(path)]
    records = read_metrics(path)
    assert len(records) > 10
    assert records[-1] == {"step": 99, "loss": 1.0}
    assert [r["step"] for r in records[:-1]] == list(range(len(records) - 1))


def test_a_full_disk_while_cutting_leaves_the_file_and_names_what_it_could_not_write(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = f"""
        import resource
        import runpy
        log = runpy.run_path({logging.__file__!r})["MetricsLog"]({str(path)!r})
        for step in range(50):
            log.write(step, {{"loss": step / 3}}, phase="p")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            log.cut("p", 40)
        except OSError as error:
            print(error.errno, error.filename)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.write(99, {{"loss": 1.0}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(errno.EFBIG), f"{path}.tmp"]
    assert [record["step"] for record in read_metrics(path)] == [*range(50), 99]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_bad_input(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        with pytest.raises(ValueError, match=r"\['phase'\] have the name of a field"):
            log.write(1, {"phase": 2.0}, phase="alone")
        with pytest.raises(TypeError, match="number, a string or an array of numbers, not <object"):
            log.write(1, {"loss": object()})
        log.write(1, {"loss": 0.5})
    path.write_bytes(b'{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not JSON"):
        read_metrics(path)
    path.write_bytes(b"3\n")
    with pytest.raises(ValueError, match="line 1: not a JSON object"):
        read_metrics(path)


def _tensorboard_records(directory):
    """The events of the files in order of writing, by the framing of TFRecord (length, its CRC, data, its CRC)."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(directory.iterdir()):
        raw = file.read_bytes()
        while raw:
            (length,) = struct.unpack("<Q", raw[:8])
            yield Event.FromString(raw[12 : 12 + length])
            raw = raw[16 + length :]


def test_tensorboard_scalars(tmp_path):
    pytest.importorskip("tensorboardX")
    with TensorBoardLog(tmp_path) as log:
        log.write(5, {"loss": jnp.float32(0.1), "seeds": np.asarray([1.0, 2.0]), "note": "text"}, phase="distilled")
    with TensorBoardLog(tmp_path, purge_step=3) as log:
        log.write(3, {"loss": 0.5})
    events = list(_tensorboard_records(tmp_path))
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [
        (5, "distilled/loss", np.float32(0.1)),
        (5, "distilled/seeds/0", 1.0),
        (5, "distilled/seeds/1", 2.0),
        (3, "loss", 0.5),
    ]
    # A session that starts at step 3 makes TensorBoard forget what came at or after it.
    assert any(e.session_log.status == e.session_log.START and e.step == 3 for e in events)


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"jaxkd\[tensorboard\]"):
        TensorBoardLog(tmp_path)
