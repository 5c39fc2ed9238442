"""Spill files hold exactly one object, privately, and the disk's thread answers on the caller's."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from shoal.exceptions import OutOfDiskError
from shoal.runtime.store import spill
from shoal.runtime.store.errors import ObjectAbsent

ID = b"i" * 24


def test_round_trip_at_offsets(tmp_path: Path) -> None:
    data = os.urandom(9_000_000)
    (tmp_path / "segment").write_bytes(b"-" * 4096 + data + b"-" * 100)
    spill.write(tmp_path / "segment", 4096, len(data), tmp_path / "o1", ID)
    (tmp_path / "other").write_bytes(bytes(10_000_000))

    spill.restore(tmp_path / "o1", tmp_path / "other", 8192, len(data), ID)

    found = (tmp_path / "other").read_bytes()
    assert found[8192 : 8192 + len(data)] == data
    assert found[:8192] == bytes(8192)
    assert found[8192 + len(data) :] == bytes(10_000_000 - 8192 - len(data))
    assert (tmp_path / "o1").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "o1").stat().st_size == spill.HEADER_BYTES + len(data)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(b"short")
    with pytest.raises(EOFError):
        spill.write(tmp_path / "segment", 0, 1000, tmp_path / "o1", ID)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["segment"]


def test_a_disk_that_would_be_nearly_full_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segment").write_bytes(bytes(1000))
    monkeypatch.setattr(spill, "DISK_FREE_LEAST", 1.0)
    with pytest.raises(OutOfDiskError, match="cannot spill 1000 B to"):
        spill.write(tmp_path / "segment", 0, 1000, tmp_path / "o1", ID)
    assert not (tmp_path / "o1").exists()


def test_a_wrong_size_or_id_is_another_object(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(bytes(1000))
    spill.write(tmp_path / "segment", 0, 1000, tmp_path / "o1", ID)
    for size, object_id in ((999, ID), (1000, b"j" * 24)):
        with pytest.raises(ObjectAbsent, match="another object"):
            spill.restore(tmp_path / "o1", tmp_path / "segment", 0, size, object_id)


def test_results_and_errors_arrive_on_polls_in_order() -> None:
    woken = threading.Semaphore(0)
    disk = spill.DiskThread(woken.release)
    seen: list[object] = []
    here = threading.get_ident()

    for number in range(3):
        disk.submit(
            lambda number=number: 1 // (number - 1), lambda result: seen.append((result, threading.get_ident()))
        )
    for _ in range(3):
        assert woken.acquire(timeout=10)
    disk.poll()
    disk.close()

    assert [thread for _, thread in seen] == [here] * 3
    assert seen[0][0] == -1
    assert isinstance(seen[1][0], ZeroDivisionError)
    assert seen[2][0] == 1
