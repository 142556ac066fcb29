"""Image classification sets of TFDS, read by position and without TensorFlow."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.data._examples import Examples, from_arrays
from jaxkd.data._extras import require

_IN_MEMORY_BYTES = 1 << 30
_VARIABLE_TO = 224
_BLOCK = 1024
FIXED_SIZE = "image_size={image_size}: the images of {name} are all {shape}, and are used as they are"

# The test split that TFDS has of it has no labels: the field tests on the validation split.
_TESTED_ON_VALIDATION = ("imagenet2012",)


def is_prepared(builder: Any) -> bool:
    """Whether the files of a TFDS builder are there (its own method logs a warning where they are not)."""
    return bool((builder.data_path / "dataset_info.json").exists())


def carve(name: str, sizes: Mapping[str, int], split: str) -> tuple[str, int, int]:
    """Which examples of which TFDS split make up ``split``: (TFDS split, start, stop).

    A set keeps its own ``validation`` and ``test`` splits. With one of the two only, that is the test split. What is
    missing is carved from the end of ``train``: 10 %, at most 5000 examples, for each.
    """
    if "train" not in sizes:
        raise ValueError(f"{name} has no train split, only {sorted(sizes)}")
    tested_on = "test" if "test" in sizes and name not in _TESTED_ON_VALIDATION else "validation"
    own = {"test": tested_on} if tested_on in sizes else {}
    if tested_on == "test" and "validation" in sizes:
        own["validation"] = "validation"
    if split in own:
        return own[split], 0, sizes[own[split]]
    n = sizes["train"]
    carved = min(n // 10, 5000)
    if split == "test":
        return "train", n - carved, n
    end = n if "test" in own else n - carved
    if split == "validation":
        return "train", end - carved, end
    return "train", 0, end if "validation" in own else end - carved


def open_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The TFDS builder of ``name``. Raises LookupError where there is no such set."""
    tfds = require("tensorflow_datasets", "train", f"the data set {name}")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise LookupError(name) from error


def all_names() -> list[str]:
    """The names of all sets TFDS has; none where it is not installed."""
    try:
        tfds = require("tensorflow_datasets", "train", "listing data sets")
    except ImportError:
        return []
    return list(tfds.list_builders(with_community_datasets=False))


def read_split(
    builder: Any,
    split: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    image_size: int | None = None,
) -> Examples:
    """A split of a prepared set: in memory up to 1 GiB of images, else read as it is needed.

    Images that differ in size are resized and cropped to ``image_size`` (by default 224) squares.
    """
    name, info = builder.name, builder.info
    if builder.builder_config is not None:  # a set in several forms, "imagenet_resized/32x32"
        name = f"{name}/{builder.builder_config.name}"
    image_key, label_key = _keys(name, info)
    shape, class_names = info.features[image_key].shape, tuple(info.features[label_key].names)
    varies = None in shape[:2]
    if varies:
        image_size = image_size or _VARIABLE_TO
        shape = (image_size, image_size, shape[2])
    elif image_size is not None:
        raise ValueError(FIXED_SIZE.format(image_size=image_size, name=name, shape=shape))
    sizes = {key: value.num_examples for key, value in info.splits.items()}
    records = _Records(builder, *carve(name, sizes, split), image_key, label_key, image_size)
    n = len(records)
    if n * int(np.prod(shape)) > _IN_MEMORY_BYTES or varies:
        channels = shape[2]
        return Examples(
            name,
            split,
            class_names,
            shape,
            mean or (0.5,) * channels,
            std or (0.5,) * channels,
            arrays=None,
            _reader=records,
            _positions=np.arange(n, dtype=np.int32),
        )
    image, label = np.empty((n, *shape), np.uint8), np.empty(n, np.int64)
    for start in range(0, n, _BLOCK):
        block = slice(start, min(start + _BLOCK, n))
        image[block], label[block] = records.read(np.arange(block.start, block.stop))
    return from_arrays(name, split, image, label, class_names, mean=mean, std=std)


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Names of the image and the label feature: what TFDS trains on, else the only one of its kind."""
    kinds = require("tensorflow_datasets", "train", f"the data set {name}").features
    features = dict(info.features.items()) if isinstance(info.features, kinds.FeaturesDict) else {}
    supervised = info.supervised_keys or ()

    def pick(kind: str, candidates: list[str]) -> str:
        preferred = [key for key in candidates if key in supervised] or candidates
        if len(preferred) != 1:
            raise ValueError(f"{name} is no image classification set: it has {len(candidates)} {kind} features")
        return preferred[0]

    def is_image(feature: Any) -> bool:
        if not isinstance(feature, kinds.Image | kinds.Tensor):
            return False
        return feature.np_dtype == np.uint8 and len(feature.shape) == 3  # (plain `dtype` imports TensorFlow)

    return (
        pick("image", [key for key, feature in features.items() if is_image(feature)]),
        pick("class label", [key for key, feature in features.items() if isinstance(feature, kinds.ClassLabel)]),
    )


class _Records:
    """A stretch of a TFDS split, by position."""

    def __init__(
        self, builder: Any, split: str, start: int, stop: int, image_key: str, label_key: str, resize_to: int | None
    ):
        self._builder, self._split = builder, split
        self._start, self._stop = start, stop
        self._image_key, self._label_key = image_key, label_key
        self._resize_to = resize_to
        try:
            self._source = builder.as_data_source(split=split)
        except NotImplementedError as error:  # prepared by another program, as TFRecord
            found = builder.info.file_format.value
            raise ValueError(
                f"{builder.name} in {builder.data_dir} is prepared as {found}, which cannot be read by position: "
                f"prepare it as array_record in another data_dir (`jaxkd prepare {builder.name}`)"
            ) from error

    def __len__(self) -> int:
        return self._stop - self._start

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = [self._source[i] for i in (positions + self._start).tolist()]
        images = [record[self._image_key] for record in records]
        if self._resize_to is not None:
            images = [_resized(image, self._resize_to) for image in images]
        return np.stack(images), np.array([record[self._label_key] for record in records], np.int64)

    def labels(self) -> np.ndarray:
        tfds = require("tensorflow_datasets", "train", f"the data set {self._builder.name}")
        skip = {self._image_key: tfds.decode.SkipDecoding()}
        source = self._builder.as_data_source(split=self._split, decoders=skip)
        return np.array([source[i][self._label_key] for i in range(self._start, self._stop)], np.int64)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """The centre square of an image whose shorter side was resized to ``size`` (bilinear, antialiased)."""
    pil = require("PIL.Image", "train", "resizing images")
    height, width = image.shape[:2]
    scale = size / min(height, width)
    # The box of the original that becomes the square: one resampling, of no pixel that is then cropped away.
    side = size / scale
    left, top = (width - side) / 2, (height - side) / 2
    picture = pil.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    box = (left, top, left + side, top + side)
    resized = np.asarray(picture.resize((size, size), pil.Resampling.BILINEAR, box=box))
    return resized.reshape(size, size, image.shape[2])
