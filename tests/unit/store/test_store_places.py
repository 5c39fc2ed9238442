"""A node's directory is its own while it lives, and swept only after that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.foundation.errors import BadInput
from shoal.runtime.store.places import NodeDirectory, room_bytes, shared_memory_root, sweep_stale

UID, NODE = "ab12cd34" * 4, "99887766" * 3


def test_it_is_private_and_named_after_cluster_and_node(tmp_path: Path) -> None:
    place = NodeDirectory(tmp_path, UID, NODE)
    assert place.path.name == "shoal-ab12cd34-99887766"
    assert place.path.stat().st_mode & 0o777 == 0o700
    assert (place.path / "owner").stat().st_mode & 0o777 == 0o600
    place.remove()
    assert list(tmp_path.iterdir()) == []
    place.remove()


def test_it_is_nobody_elses(tmp_path: Path) -> None:
    place = NodeDirectory(tmp_path, UID, NODE)
    (place.path / "s1").write_bytes(b"x")
    with pytest.raises(BadInput, match="cannot create"):
        NodeDirectory(tmp_path, UID, NODE)
    assert (place.path / "s1").exists()
    assert [path.name for path in tmp_path.iterdir()] == [place.path.name]
    place.remove()


def test_a_link_planted_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "shoal-ab12cd34-99887766").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput):
        NodeDirectory(tmp_path / "root", UID, NODE)
    assert sweep_stale(tmp_path / "root") == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_missing_root_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file") as caught:
        NodeDirectory(tmp_path / "none", UID, NODE)
    assert "another directory" in caught.value.hint


def test_the_living_are_never_swept_and_the_killed_are(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from shoal.runtime.store.places import NodeDirectory; "
        "p = NodeDirectory(Path(sys.argv[1]), 'cd' * 16, 'ef' * 14); (p.path / 's1').write_bytes(b'x'); "
        "print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        ours = NodeDirectory(tmp_path, UID, NODE)
        assert sweep_stale(tmp_path) == []
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()

    assert [path.name for path in sweep_stale(tmp_path)] == ["shoal-cdcdcdcd-efefefef"]
    assert [path.name for path in tmp_path.iterdir()] == [ours.path.name]
    ours.remove()


def test_without_locks_process_and_start_time_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    place = NodeDirectory(tmp_path, UID, NODE)
    assert sweep_stale(tmp_path) == []

    record = json.loads((place.path / "owner").read_text())
    record["started_s"] -= 100  # the number was taken by another process since
    (place.path / "owner").write_text(json.dumps(record))
    assert sweep_stale(tmp_path) == [place.path]
    place.remove()


def test_other_names_and_broken_records_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "shoal-file").write_text("x")
    (tmp_path / "shoal-new-one.starting").mkdir()
    (tmp_path / "shoal-foreign").mkdir()
    assert sweep_stale(tmp_path) == []
    os.utime(tmp_path / "shoal-new-one.starting", (0, 0))
    assert [path.name for path in sweep_stale(tmp_path)] == ["shoal-new-one.starting"]
    assert sweep_stale(tmp_path / "none") == []


def test_the_default_root_has_room() -> None:
    assert room_bytes(shared_memory_root()) > 0
