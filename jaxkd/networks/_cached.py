"""A teacher whose outputs are in the batch already."""

from collections.abc import Mapping, Sequence

import jax

from jaxkd.networks._network import Batch, Network, Outputs, Variables


def cached(logits: str = "teacher_logits", taps: Mapping[str, str] | None = None) -> Network:
    """Makes a network that has no variables and reads its outputs from the batch, where a cache has put them.

    ``jaxkd.data.CachedBatches`` does that for logits.

    Args:
      logits: the batch's key of the logits.
      taps: the batch's keys of taps that are not under ``"teacher/" + tap``.

    Returns:
      A network. Its ``apply`` raises ValueError for logits or a tap that are not in the batch.
    """
    renamed = dict(taps or {})

    def init(key: jax.Array, batch: Batch) -> Variables:
        return {}

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        keys = {tap: renamed.get(tap, f"teacher/{tap}") for tap in taps}
        for wanted in (logits, *keys.values()):
            if wanted not in batch:
                raise ValueError(
                    f'the batch has no "{wanted}" but {sorted(batch)}: write the teacher\'s outputs into the data set '
                    "under this key, or distil from the teacher itself"
                )
        return Outputs(batch[logits], {tap: batch[key] for tap, key in keys.items()}), {}

    return Network(init, apply)
