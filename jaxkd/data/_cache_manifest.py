"""The manifest of a teacher cache: which teacher, which data and which views its records are of."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.data._views import ViewBatches

_FORMAT = 1
_PROBED = (8, 32)  # examples, and pixels of each


def check_digest(digest: str) -> None:
    """Raises ValueError unless it may be a teacher's."""
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(
            f"digest is {digest!r}: it has to be 64 hexadecimal digits, training.checkpoints.tree_hash(variables)"
        )


def describe_data(views: ViewBatches) -> dict[str, Any]:
    """The data set as a manifest has it; of a set that streams, images are told apart by ``describe_views`` only."""
    examples, content = views.examples, None
    if examples.arrays is not None:
        content = hashlib.sha256(np.ascontiguousarray(examples.arrays["image"]))
        content.update(np.ascontiguousarray(examples.arrays["index"], "<i4"))
    return {
        "name": examples.name,
        "split": examples.split,
        "examples": len(examples),
        "classes": examples.classes,
        "shape": list(examples.shape),
        "mean": list(examples.mean),
        "std": list(examples.std),
        "content": content and content.hexdigest(),
    }


def describe_views(views: ViewBatches) -> dict[str, Any]:
    """The views as a manifest has them: their key, and pixels of some that the augmentation has made.

    A function has no fingerprint; what it does to the first examples tells it apart from another one.
    """
    count, pixels = _PROBED
    rows = np.arange(min(count, len(views.examples)))
    read = views.examples.read(rows)
    look = jax.jit(views.look)
    probe = []
    for view in sorted({0, views.views - 1}):
        image = np.asarray(look(np.full(len(rows), view, np.int32), read)["image"], np.float32).reshape(len(rows), -1)
        chosen = np.linspace(0, image.shape[1] - 1, min(pixels, image.shape[1])).astype(int)
        probe.append(image[:, chosen].tolist())
    key = None
    if views.key is not None:
        key = [str(jax.random.key_impl(views.key)), np.asarray(jax.random.key_data(views.key)).tolist()]
    return {"count": views.views, "key": key, "probe": probe}


def write_manifest(directory: Path, body: Mapping[str, Any]) -> None:
    """Writes the manifest, with a digest of itself: a changed byte must not pass for the truth."""
    body = {"format": _FORMAT, **body}
    document = {"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(document, indent=1) + "\n")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a cache.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it was changed, or is of another format.
    """
    path = directory / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{directory} is no teacher cache, as it has no manifest.json: write one by cache_teacher"
        )
    try:
        document = json.loads(path.read_text())
        body = document["body"]
        sound = document["sha256"] == hashlib.sha256(_canonical(body)).hexdigest()
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is damaged: its digest differs; write the cache again (cache_teacher)")
    if body["format"] != _FORMAT:
        raise ValueError(f"{directory} has format {body['format']}, and this version reads {_FORMAT}: write it again")
    return dict(body)


def check_identity(directory: Path, manifest: Mapping[str, Any], digest: str, views: ViewBatches) -> None:
    """Raises ValueError where a cache is of another teacher, data set or augmentation, with both sides."""
    cure = "write another one by cache_teacher, or give what it was written for"

    def refuse(what: str, there: Any, here: Any) -> None:
        raise ValueError(f"the cache {directory} is of another {what}: {there} in the cache, {here} here; {cure}")

    if manifest["teacher"] != digest:
        refuse("teacher", f"digest {manifest['teacher'][:12]}", digest[:12])
    there, here = manifest["data"], describe_data(views)
    names = {"examples": "number of examples", "classes": "class count", "content": "content of the data set"}
    for field, value in here.items():
        unknown = field == "content" and None in (there[field], value)
        if there[field] != value and not unknown:
            refuse(names.get(field, f"data set ({field})"), there[field], value)
    there, here = manifest["views"], describe_views(views)
    for field, what in (("count", "number of views"), ("key", "augmentation key")):
        if there[field] != here[field]:
            refuse(what, there[field], here[field])
    pixels, seen = np.asarray(there["probe"]), np.asarray(here["probe"])
    if pixels.shape != seen.shape:
        refuse("augmentation", f"{pixels.shape} pixels that were looked at", seen.shape)
    at = np.unravel_index(np.argmax(np.abs(pixels - seen)), pixels.shape)
    # Of unit size; another machine may round them differently.
    if not abs(pixels[at] - seen[at]) < 1e-3:
        refuse("augmentation", f"a pixel of example {at[1]} is {pixels[at]:.3f}", f"{seen[at]:.3f}")


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
