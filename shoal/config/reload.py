"""Take a changed file over while the cluster runs: a good one with what it changes, a broken one not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.config.diagnostics import ConfigErrors
from shoal.config.difference import Change, Effect, difference
from shoal.config.load import Loaded, loaded
from shoal.config.source import read


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """How a second look at the file went. `current` is what holds from now on: the old one unless `is_taken`.

    `errors` says why a changed file was not taken; `changes` what it changes, or would.
    """

    current: Loaded
    is_taken: bool = False
    changes: tuple[Change, ...] = ()
    errors: ConfigErrors | None = None


def reload(old: Loaded, path: Path | None = None) -> Reloaded:
    """Look at the file again (or at `path` instead of it); whatever is in it, or its absence, raises nothing.

    An unchanged text is not parsed. A change that only a new cluster can take (`Effect.REBUILD`) keeps the old file
    in force as a whole: half of a file holds for nobody.
    """
    try:
        source = read(path or old.path)
        if source.text_hash == old.text_hash:
            return Reloaded(current=old)
        new = loaded(source, path or old.path)
    except ConfigErrors as errors:
        return Reloaded(current=old, errors=errors)
    changes = difference(old, new)
    if any(change.effect is Effect.REBUILD for change in changes):
        return Reloaded(current=old, changes=changes)
    return Reloaded(current=new, is_taken=True, changes=changes)
