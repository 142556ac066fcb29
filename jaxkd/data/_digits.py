"""The digits data set: 1797 images of 8x8 from scikit-learn, prepared once as a TFDS data set.

Imports tensorflow-datasets at the top, so it is itself imported only where digits are loaded.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxkd.data._extras import require
from jaxkd.data._random import SPLIT, permutation
from jaxkd.data._tfds import is_prepared

# Of every class; the rest, 1297 images, is for training.
TEST_PER_CLASS, VALIDATION_PER_CLASS = 35, 15


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, 8x8.

    A fixed permutation of the set is cut up class by class: 35 images of every digit are the test split (350), the next
    15 the validation split (150), the others the train split (1297). Values 0 to 16 become bytes 0 to 255.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Train, validation and test split, balanced by class."}  # noqa: RUF012

    # There are no downloads, so no checksums of them; and to look for these TFDS 4.9.10 needs a package
    # (importlib_resources) that it does not depend on.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of handwritten digits, 8x8: the test part of the UCI set that scikit-learn comes with.",
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            license="CC BY 4.0",
            # A Tensor and not an Image, which cannot be written without TensorFlow.
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order here is the order on disk, whatever the version of TFDS
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        del dl_manager  # nothing is downloaded
        digits = require("sklearn.datasets", "demo", "preparing the digits data set").load_digits()
        image = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        label = digits.target.astype(np.int64)
        order = permutation(len(label), seed=0, use=SPLIT)
        place = np.empty(len(label), np.int64)  # of each example of `order` within its class
        for digit in range(10):
            members = label[order] == digit
            place[members] = np.arange(members.sum())
        splits = {
            "train": order[place >= TEST_PER_CLASS + VALIDATION_PER_CLASS],
            "validation": order[(place >= TEST_PER_CLASS) & (place < TEST_PER_CLASS + VALIDATION_PER_CLASS)],
            "test": order[place < TEST_PER_CLASS],
        }
        return {name: self._generate_examples(image[rows], label[rows]) for name, rows in splits.items()}

    def _generate_examples(self, image: np.ndarray, label: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(len(label)):
            yield i, {"image": image[i], "label": int(label[i])}


def prepared(data_dir: str | os.PathLike[str] | None) -> Digits:
    """The digits builder, its files written if this is the first time.

    Safe against several processes at once: each writes a directory of its own and renames it when it is complete, and
    those that come second use what is there.
    """
    builder = Digits(data_dir=data_dir)
    if is_prepared(builder):
        return builder
    try:
        # A second's work that needs no progress bars, which TFDS can only switch off for the whole process.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
    except OSError:
        if not is_prepared(builder):
            raise
    return Digits(data_dir=data_dir)
