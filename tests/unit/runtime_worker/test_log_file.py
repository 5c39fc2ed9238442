"""One file per stream: what Python, children and forks write comes out once, in order, by lines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.runtime.worker import log_file
from shoal.runtime.worker.log_file import LogFile


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A descriptor that stands for 1."""
    fd = os.open(os.devnull, os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def opened(tmp_path: Path, descriptor: int) -> Iterator[LogFile]:
    file = LogFile(descriptor, tmp_path / "w.out", lambda: "f", bytes_max=1000, files_max=2)
    yield file
    os.close(file._part.fd)
    if file._older is not None:
        os.close(file._older.fd)


def lines_of(file: LogFile) -> list[str]:
    file.look()
    return [line for _, line in file.hand_on()[0]]


def test_lines_come_in_the_order_of_the_file_whoever_wrote_them(opened: LogFile, descriptor: int) -> None:
    opened.write(b"one\n")
    os.write(descriptor, b"two\nthr")
    opened.write(b"ee\nfo")
    subprocess.run(["sh", "-c", "echo ur"], stdout=descriptor, check=True)
    opened.write(b"five\n")

    assert lines_of(opened) == ["one", "two", "three", "four", "five"]
    assert lines_of(opened) == []
    assert opened.path.read_bytes() == b"one\ntwo\nthree\nfour\nfive\n"


def test_how_far_it_reaches_leaves_the_incomplete_line_to_the_reader_of_the_file(opened: LogFile) -> None:
    opened.write(b"one\ntw")
    lines, inode, offset = opened.hand_on()
    assert (lines, inode, offset) == ([("f", "one")], os.stat(opened.path).st_ino, 4)


def test_progress_bars_show_their_last_state_and_bytes_that_are_no_text_are_escaped(opened: LogFile) -> None:
    opened.write(b"10 %\r50 %\r100 %\n\xff\nwindows\r\n")
    assert lines_of(opened) == ["100 %", "\\xff", "windows"]


def test_a_full_file_is_turned_over_and_children_of_before_are_still_heard(opened: LogFile, descriptor: int) -> None:
    with subprocess.Popen(["sh", "-c", "read x; echo late"], stdin=subprocess.PIPE, stdout=descriptor) as child:
        for n in range(3):
            opened.write(b"%d" % n * 600 + b"\n")
        child.communicate(b"\n")
    assert lines_of(opened) == [str(n) * 600 for n in range(3)] + ["late"]
    names = sorted(path.name for path in opened.path.parent.iterdir())
    assert names == ["w.out", "w.out.1"]
    os.write(descriptor, b"x" * 2000 + b"\n")  # what others write fills it as well
    assert len(lines_of(opened)) == 1
    assert (opened.path.stat().st_size, (opened.path.parent / "w.out.1").stat().st_size) == (0, 601 + 2001)
    assert sorted(path.name for path in opened.path.parent.iterdir()) == names  # two files at most


def test_a_flood_is_left_to_the_file_and_says_so(
    opened: LogFile, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "BEHIND_BYTES_MAX", 100)
    monkeypatch.setattr(log_file, "READ_BYTES_MAX", 50)
    monkeypatch.setattr(log_file, "LINES_WAITING_MAX", 3)
    os.write(descriptor, b"line\n" * 40)
    assert lines_of(opened) == [
        "[150 bytes left out here: see w.out]",
        "line",
        "line",
        "[8 lines left out here: see w.out]",
    ]


def test_a_forks_child_writes_like_any_other(opened: LogFile) -> None:
    opened.write(b"before\n")
    child = os.fork()
    if child == 0:
        opened.forked()
        opened.write(b"child\n")
        os._exit(0)
    os.waitpid(child, 0)
    opened.write(b"parent\n")
    assert lines_of(opened) == ["before", "child", "parent"]


def test_a_name_that_prints_does_not_go_round(tmp_path: Path, descriptor: int) -> None:
    def name() -> str:
        file.write(b"naming\n")
        return "n"

    file = LogFile(descriptor, tmp_path / "w.out", name, bytes_max=1000, files_max=1)
    file.write(b"line\n")
    assert sorted(line for _, line in file.hand_on()[0]) == ["line", "naming"]
    os.close(file._part.fd)


def test_without_a_place_for_the_file_the_lines_are_shown_all_the_same(tmp_path: Path, descriptor: int) -> None:
    file = LogFile(descriptor, tmp_path / "missing" / "w.out", lambda: "f", bytes_max=1000, files_max=1)
    file.write(b"line\n")
    assert lines_of(file) == ["line"]
    os.close(file._part.fd)
