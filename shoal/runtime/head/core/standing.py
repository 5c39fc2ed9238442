"""Standing requests (`request_resources`) by (job, owner), and the key-value spaces: small and journaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shoal.foundation.amounts import amounts as exact
from shoal.foundation.amounts import quantities
from shoal.model.demand import Bundle, Standing
from shoal.runtime.head.core.events import Outbox, Rejected
from shoal.runtime.head.core.rows import KeyRow, StandingRow
from shoal.runtime.head.core.view import STANDING, WorkView

BUNDLES_MAX = 100_000


class Requests:
    """Every standing request that has not run out."""

    def __init__(self, out: Outbox, view: WorkView) -> None:
        self._out, self._view = out, view
        self._rows: dict[str, StandingRow] = {}
        self._until_s: dict[str, float] = {}

    def put(self, owner: str, job: str, bundles: tuple[Bundle, ...], ttl_s: float | None) -> None:
        """Set an owner's request; no bundles take it back. `ttl_s` None: as configured.

        Raises:
            Rejected: too many bundles, or a time that is none.
        """
        key = f"{job} {owner}"
        if not bundles:
            if self._rows.pop(key, None) is not None:
                self._until_s.pop(key, None)
                self._out.journal("standing", key, None)
                self._out.record("standing_requested", owner=owner, job=job, bundles=0, ttl_s=0)
                self._view.touch(STANDING, key)
            return
        if len(bundles) > BUNDLES_MAX:
            raise Rejected("ValueError", f"request_resources: at most {BUNDLES_MAX} bundles, got {len(bundles)}")
        ttl_s = self._out.settings.request_ttl_s if ttl_s is None else float(ttl_s)
        if not 0 < ttl_s < 1e9:
            raise Rejected("ValueError", f"request_resources: expected a time above 0 s, got `{ttl_s}`")
        row = StandingRow(owner=owner, job=job, bundles=bundles, ttl_s=ttl_s, until_wall_s=self._out.wall_s() + ttl_s)
        self._rows[key] = row
        self._until_s[key] = self._out.now_s + ttl_s
        self._out.journal("standing", key, row)
        self._out.record("standing_requested", owner=owner, job=job, bundles=len(bundles), ttl_s=ttl_s)
        self._view.touch(STANDING, key)

    def job_ended(self, job: str) -> None:
        """A job's requests end with it."""
        for row in [row for row in self._rows.values() if row.job == job]:
            self.put(row.owner, row.job, (), None)

    def expire(self) -> None:
        """Take back what nobody renewed."""
        for key, until_s in tuple(self._until_s.items()):
            if until_s <= self._out.now_s:
                self.put(self._rows[key].owner, self._rows[key].job, (), None)

    def keys(self) -> Iterable[str]:
        """Return every request's key."""
        return self._rows

    def model(self, key: str, now_s: float) -> Standing | None:
        """Return one request as the autoscaler sees it."""
        row = self._rows.get(key)
        if row is None:
            return None
        return Standing(owner=row.owner, bundles=row.bundles, job=row.job, ttl_s=max(0.0, self._until_s[key] - now_s))

    def shown(self) -> list[dict[str, Any]]:
        """Return every request for people: equal bundles counted together, amounts in natural units."""
        found = []
        for key, row in self._rows.items():
            counts: dict[bytes, int] = {}
            for bundle in row.bundles:
                mark = msgspec.json.encode(bundle.amounts, order="sorted")
                counts[mark] = counts.get(mark, 0) + 1
            found.append(
                {
                    "owner": row.owner,
                    "job": row.job,
                    "ttl_s": max(0.0, self._until_s[key] - self._out.now_s),
                    "bundles": [
                        {"amounts": quantities(msgspec.json.decode(mark)), "count": count}
                        for mark, count in counts.items()
                    ],
                }
            )
        return found

    def restore(self, rows: dict[str, StandingRow]) -> None:
        """Start from a journal; what is left of the time by the wall, at least a minute, at most all."""
        for key, row in rows.items():
            left_s = row.until_wall_s - self._out.wall_s()
            self._rows[key] = row
            self._until_s[key] = self._out.now_s + min(max(left_s, 60.0), max(row.ttl_s, 60.0))


class Keys:
    """Small values by space and key, within a limit for all of them."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._values: dict[tuple[str, str], bytes] = {}
        self._bytes = 0

    def put(self, space: str, key: str, value: bytes, *, is_overwriting: bool) -> bool:
        """Store a value; return False if there is another one and it may not be overwritten.

        Raises:
            Rejected: the value, or all of them together, would be too large.
        """
        settings = self._out.settings
        known = self._values.get((space, key))
        if known is not None and not is_overwriting:
            return known == value  # the same request again, after a reconnect
        if len(value) > settings.key_bytes_max:
            raise Rejected("ValueError", f"key `{key}`: at most {settings.key_bytes_max} bytes, got {len(value)}")
        size = self._bytes - len(known or b"") + len(value)
        if size > settings.keys_bytes_max:
            raise Rejected("ValueError", f"key `{key}`: all values together may hold {settings.keys_bytes_max} bytes")
        self._bytes = size
        self._values[space, key] = value
        self._out.journal("keys", f"{space}\0{key}", KeyRow(value=value))
        return True

    def read(self, space: str, key: str) -> bytes | None:
        """Return the value, None if there is none."""
        return self._values.get((space, key))

    def delete(self, space: str, key: str) -> bool:
        """Remove a value; return whether there was one."""
        value = self._values.pop((space, key), None)
        if value is None:
            return False
        self._bytes -= len(value)
        self._out.journal("keys", f"{space}\0{key}", None)
        return True

    def restore(self, rows: dict[str, KeyRow]) -> None:
        """Start from a journal."""
        for text, row in rows.items():
            space, _, key = text.partition("\0")
            self._values[space, key] = row.value
            self._bytes += len(row.value)


def bundles_of(values: Any) -> tuple[Bundle, ...]:
    """Return bundles as a request carries them: encoded `Bundle`s, or plain maps of natural units.

    Raises:
        Rejected: they are neither.
    """
    try:
        return tuple(_bundle(value) for value in values)
    except (msgspec.ValidationError, ValueError, TypeError, AttributeError) as error:
        raise Rejected("ValueError", f"bundles: {error}") from error


def _bundle(value: Any) -> Bundle:
    if isinstance(value, Bundle):
        return value
    if "amounts" in value and isinstance(value["amounts"], dict):
        return msgspec.convert(value, Bundle)
    return Bundle(amounts=exact(value))
