"""What an import costs, and that the public packages say what is public."""

import importlib
import json
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import jaxkd

# What the extras of pyproject.toml bring; Flax itself brings rich.
EXTRAS = {"orbax", "grain", "tensorflow_datasets", "tyro", "tensorflow", "sklearn", "matplotlib", "tensorboardX"}
EXTRAS |= {"safetensors", "qwix", "jax2onnx", "onnx", "onnxruntime"}
PACKAGES = sorted(
    f"jaxkd.{module.name}" for module in pkgutil.iter_modules(jaxkd.__path__) if module.ispkg and module.name[0] != "_"
)


def loaded_by(*modules):
    """The top-level packages in ``sys.modules`` of a fresh interpreter that has imported these."""
    root = str(Path(jaxkd.__file__).parent.parent)
    code = f"import json, sys; sys.path.insert(0, {root!r}); import {', '.join(modules)}"
    code += "; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-W", "error", "-c", code]
    return set(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def test_losses_cost_no_more_than_jax_and_optax():
    losses = loaded_by("jaxkd", "jaxkd.losses")
    assert not losses & (EXTRAS | {"flax", "rich"})
    assert losses - loaded_by("jax", "numpy", "optax") == {"jaxkd"}


def test_what_a_library_user_trains_with_needs_no_extras():
    loaded = loaded_by(*(f"jaxkd.{name}" for name in ("networks", "objectives", "learners", "models", "methods")))
    assert "flax" in loaded
    assert not loaded & EXTRAS


def test_training_in_memory_needs_no_extras():
    loaded = loaded_by("jaxkd.training", "jaxkd.training.parallel", "jaxkd.training.logging")
    assert loaded - loaded_by("flax.linen", "flax.nnx", "optax") == {"jaxkd"}
    assert not loaded & (EXTRAS | {"tensorstore"})


@pytest.mark.parametrize("missing", ["orbax.checkpoint", "tensorstore", "etils"])
def test_checkpoints_name_their_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("_orbax", "_tree_store", "checkpoints"):
        monkeypatch.delitem(sys.modules, f"jaxkd.training.{module}", raising=False)
    with pytest.raises(ImportError, match=r'^checkpoints need Orbax: pip install "jaxkd\[train\]"$'):
        importlib.import_module("jaxkd.training.checkpoints")


@pytest.mark.parametrize("package", ["jaxkd", *PACKAGES])
def test_public_names_are_complete_and_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(f"{package}._")
    }
    assert public <= set(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and typing.get_origin(value) is None:
            assert (value.__doc__ or "").strip(), name
        methods = vars(value).items() if isinstance(value, type) else ()
        for method, function in methods:
            if not method.startswith("_") and callable(function):
                assert (function.__doc__ or "").strip(), f"{name}.{method}"
