"""Orbax and what it brings, or an error that says how to get it."""

try:
    import tensorstore as ts
    from etils import epath  # type: ignore[import-untyped]

    # Orbax's v1 interface: one atomic directory of named parts, an object with an async `save` as one of the parts,
    # and no deprecation on the way to its 1.0. The v0 manager would need a registered handler for the same.
    from orbax.checkpoint import v1 as ocp
except ImportError as error:
    raise ImportError('checkpoints need Orbax: pip install "jaxkd[train]"') from error

__all__ = ["epath", "ocp", "ts"]
