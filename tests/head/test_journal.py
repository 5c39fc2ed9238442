"""The journal: group commit, mode, full disks, restarts, and what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.foundation.errors import UserError
from shoal.runtime.head.core.events import Row
from shoal.runtime.head.core.rows import KeyRow, MetaRow
from shoal.runtime.head.journal import MemoryJournal, SqliteJournal

LIMIT_S = 20.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.002)


def key(name: str, size: int = 1) -> Row:
    return Row("keys", name, KeyRow(value=b"x" * size))


async def test_rows_survive_and_the_newest_value_holds(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "head.db")
    journal.start(lambda: None, lambda full: None)

    journal.write([Row("meta", "meta", MetaRow(uid="u", epoch=3)), key("a"), key("b")])
    ticket = journal.write([key("a", 2), Row("keys", "b", None)])
    await until(lambda: journal.committed >= ticket)
    journal.close()

    found = SqliteJournal(tmp_path / "head.db")
    rows = found.load()
    found.close()
    assert rows["meta"]["meta"].epoch == 3
    assert {name: one.value for name, one in rows["keys"].items()} == {"a": b"xx"}


async def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "head.db")
    journal.start(lambda: None, lambda full: None)
    ticket = journal.write([key("a")])
    await until(lambda: journal.committed >= ticket)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    journal.close()

    assert modes["head.db"] == 0o600
    assert set(modes.values()) == {0o600}, modes


async def test_what_queues_during_a_commit_shares_the_next_one(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()
    sizes: list[int] = []

    class Held(SqliteJournal):
        """Its first commit takes until it is let go."""

        def _commit(self, pending: dict[tuple[str, str], bytes | None]) -> None:
            sizes.append(len(pending))
            begun.set()
            assert may_end.wait(LIMIT_S)
            super()._commit(pending)

    journal = Held(tmp_path / "head.db")
    journal.start(lambda: None, lambda full: None)
    journal.write([key("first")])
    assert begun.wait(LIMIT_S)
    for number in range(2000):
        ticket = journal.write([key(f"k{number}")])
    assert journal.committed == 0
    may_end.set()
    await until(lambda: journal.committed >= ticket)
    journal.close()

    assert sizes == [1, 2000]


async def test_what_was_written_is_what_is_kept_even_if_the_row_changes_after(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "head.db")
    row = KeyRow(value=b"before")
    journal.write([Row("keys", "a", row)])
    row.value = b"after"
    journal.start(lambda: None, lambda full: None)
    journal.close()

    again = SqliteJournal(tmp_path / "head.db")
    assert again.load()["keys"]["a"].value == b"before"
    again.close()


async def test_a_full_disk_is_said_kept_and_made_up_for(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "head.db", bytes_max=256 * 1024)
    said: list[bool] = []
    journal.start(lambda: None, said.append)

    first = journal.write([key("small")])
    await until(lambda: journal.committed >= first)
    second = journal.write([key("large", 300 * 1024), key("other")])
    await until(lambda: said == [True])
    assert journal.committed == first, "nothing of a failed commit counts"
    third = journal.write([Row("keys", "large", None)])
    await until(lambda: said == [True, False])
    await until(lambda: journal.committed >= third)
    journal.close()

    again = SqliteJournal(tmp_path / "head.db")
    assert set(again.load()["keys"]) == {"small", "other"}
    again.close()
    assert second < third


def test_what_is_no_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is not a database at all, but quite long a text " * 20)
    with pytest.raises(UserError, match="no journal can be kept there"):
        SqliteJournal(tmp_path / "text.db")
    with pytest.raises(UserError, match="no journal can be kept there"):
        SqliteJournal(tmp_path / "nowhere" / "head.db")


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "head.db").close()
    database = sqlite3.connect(tmp_path / "head.db")
    database.execute("insert into journal values ('keys', 'k', x'c1')")
    database.commit()
    database.close()

    journal = SqliteJournal(tmp_path / "head.db")
    with pytest.raises(UserError, match="row `keys k`"):
        journal.load()
    journal.close()


def test_memory_keeps_nothing_and_everything_is_committed_at_once() -> None:
    journal = MemoryJournal()

    assert journal.write([key("a")]) <= journal.committed
    assert journal.load() == {}
