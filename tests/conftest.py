"""The whole suite runs on 8 virtual CPU devices, set before JAX is first used."""

import os
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run once or twice: optimizing their machine code takes longer than it saves.
_flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_flags} {os.environ.get('XLA_FLAGS', '')}"

# Compiling is what the suite spends its time on: tests, workers and the processes they start share what they compile.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="jaxkd-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The directory of the digits, as the commands take it: they are written there once."""
    from jaxkd import data  # after JAX has its devices

    directory = tmp_path_factory.mktemp("data")
    data.load("digits", "train", data_dir=str(directory))
    return str(directory)
