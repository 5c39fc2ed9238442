"""Which log files of a node are listed, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.runtime.agent.log_files import LogFiles


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    workers, machine = tmp_path / "logs" / "head", tmp_path / "logs"
    workers.mkdir(parents=True)
    (workers / "worker-1.out").write_bytes(b"printed\n")
    (machine / "head.log").write_bytes(b"one\ntwo\n")
    (machine / "same.log").write_bytes(b"the machine's")
    (workers / "same.log").write_bytes(b"the workers'")
    (tmp_path / "events.jsonl").write_bytes(b"{}\n")
    (tmp_path / "events.jsonl.1").write_bytes(b"{}\n{}\n")
    (tmp_path / "journal.sqlite").write_bytes(b"secret")
    others = {"logs": machine, "head-events.jsonl": tmp_path / "events.jsonl", "gone.log": tmp_path / "gone"}
    return LogFiles("ab" * 14, workers, others)


def test_files_of_workers_and_of_the_machine_are_listed_with_their_sizes(files: LogFiles) -> None:
    rows = {row["name"]: row["size"] for row in files.answer({})["rows"]}

    assert rows == {
        "worker-1.out": 8,
        "head.log": 8,
        "same.log": 12,
        "head-events.jsonl": 3,
        "head-events.jsonl.1": 6,
    }


def test_a_file_is_read_by_its_name_only(files: LogFiles, tmp_path: Path) -> None:
    assert files.answer({"name": "head.log"}) == {"data": b"one\ntwo\n", "offset": 8, "size": 8}
    assert files.answer({"name": "head.log", "offset": 4})["data"] == b"two\n"
    assert files.answer({"name": "head.log", "tail_bytes": 0})["data"] == b""
    assert files.answer({"name": "same.log"})["data"] == b"the workers'"
    for name in ("../journal.sqlite", "journal.sqlite", str(tmp_path / "journal.sqlite"), "head", "none"):
        with pytest.raises(ValueError, match="No such file"):
            files.answer({"name": name})


def test_a_file_that_was_turned_over_is_read_from_its_start(files: LogFiles) -> None:
    assert files.answer({"name": "head.log", "offset": 100}) == {"data": b"one\ntwo\n", "offset": 8, "size": 8}
