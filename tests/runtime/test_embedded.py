"""The embedded cluster as a program sees it: start, prints, exit, sudden death, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import shoal
from shoal.foundation.errors import NoCluster
from shoal.runtime.client import api
from tests.conftest import marked
from tests.runtime.conftest import eventually


def program(text: str, *, wait: bool = True, folder: Path | None = None) -> subprocess.Popen[str]:
    script = (folder or Path(os.environ["SHOAL_RUNTIME_DIR"])) / "program.py"
    script.write_text(textwrap.dedent(text))
    started = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=script.parent
    )
    if wait:
        out, _ = started.communicate(timeout=60)
        started.said = out  # type: ignore[attr-defined]
        script.unlink()
    return started


def test_init_works_again_after_shutdown_and_not_twice(own_places: Path) -> None:
    @shoal.remote
    def one() -> int:
        return 1

    for _ in range(2):
        with shoal.init("local", num_cpus=1) as context:
            assert context["node_id"]
            assert shoal.is_initialized()
            assert shoal.get(one.remote()) == 1
            with pytest.raises(RuntimeError, match="connected already"):
                shoal.init("local")
            shoal.init(ignore_reinit_error=True)
        assert not shoal.is_initialized()
    assert list((own_places / f"shoal-{os.getuid()}").glob("*/*.sock")) == []


def test_addresses_that_name_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("auto", "nowhere"):
        with pytest.raises(NoCluster) as caught:
            shoal.init(address)
        assert isinstance(caught.value, ConnectionError)
    with pytest.raises(ValueError, match="shoal submit"):
        shoal.init("ray://head:10001")
    monkeypatch.setenv("SHOAL_ADDRESS", "nowhere")
    with pytest.raises(NoCluster):
        shoal.init()
    with pytest.raises(ValueError, match="num_cpus"):
        shoal.init("local", num_cpus=-1)
    with pytest.raises(ValueError, match="conda"):
        shoal.init("local", runtime_env={"conda": "x"})


def test_prints_reach_the_driver_with_name_and_pid_and_equal_ones_once() -> None:
    ran = program(
        """
        import shoal, sys, time, os
        shoal.init("local", num_cpus=2)
        @shoal.remote
        def shout(): print("alpha"); print("beta", file=sys.stderr); time.sleep(0.3)
        @shoal.remote
        class Crier:
            def cry(self): print("gamma")
        @shoal.remote
        class Named:
            def cry(self): print("delta")
            def __repr__(self): return "town"
        shoal.get(shout.remote())
        shoal.get([Crier.remote().cry.remote(), Named.remote().cry.remote()])
        shoal.get([shout.remote() for _ in range(2)])
        time.sleep(1)
        """
    )
    said = ran.said.splitlines()  # type: ignore[attr-defined]
    for name, word in (("shout", "alpha"), ("shout", "beta"), ("Crier", "gamma"), ("town", "delta")):
        assert any(line.startswith(f"({name} pid=") and line.endswith(f") {word}") for line in said), ran.said  # type: ignore[attr-defined]


def test_what_c_code_children_forks_and_the_dying_print_reaches_the_driver(own_places: Path) -> None:
    ran = program(
        """
        import os, shoal, subprocess, time
        shoal.init("local", num_cpus=2)
        @shoal.remote
        def mixed():
            print("one")
            os.system("echo two")
            os.write(1, b"three\\n")
            subprocess.run(["sh", "-c", "printf fo"])
            print("ur")
        @shoal.remote
        def forked():
            if (child := os.fork()) == 0:
                print("in a fork")
                os._exit(0)
            os.waitpid(child, 0)
        @shoal.remote(max_retries=0)
        def crash():
            print("begins")
            time.sleep(0.5)
            print("crashes soon")
            os.write(2, b"half a line")
            os.kill(os.getpid(), 11)
        @shoal.remote
        class Late:
            def begin(self): subprocess.Popen(["sh", "-c", "sleep 0.3; echo late"])
        shoal.get([mixed.remote(), forked.remote()])
        late = Late.remote()
        shoal.get(late.begin.remote())
        try:
            shoal.get(crash.remote())
        except shoal.exceptions.WorkerCrashedError:
            pass
        @shoal.remote
        def last():
            os.system("echo last")
            print("words")
        time.sleep(1.5)
        shoal.get(last.remote())
        """
    )
    said = ran.said.splitlines()  # type: ignore[attr-defined]
    mixed = [line.split(") ")[1] for line in said if line.startswith("(mixed pid=")]
    assert mixed == ["one", "two", "three", "four"], ran.said  # type: ignore[attr-defined]
    for name, text in (
        ("forked", "in a fork"),
        ("crash", "begins"),
        ("crash", "crashes soon"),
        ("crash", "half a lineFatal Python error: Segmentation fault"),
        ("Late", "late"),
        ("last", "last"),
        ("last", "words"),
    ):
        assert sum(line.startswith(f"({name} pid=") and line.endswith(f") {text}") for line in said) == 1, (text, said)


def test_equal_lines_of_many_processes_are_counted(own_places: Path) -> None:
    ran = program(
        """
        import os, shoal
        shoal.init("local", num_cpus=4)
        @shoal.remote(num_cpus=0)
        class Crier:
            def cry(self, n): os.system(f"echo step {n} is done")
        criers = [Crier.remote() for _ in range(4)]
        for n, crier in enumerate(criers):
            shoal.get(crier.cry.remote(n))
        """
    )
    said = [line for line in ran.said.splitlines() if "is done" in line]  # type: ignore[attr-defined]
    assert len(said) == 2, ran.said  # type: ignore[attr-defined]
    assert said[0].endswith(" is done")
    assert said[1].endswith(" is done [repeated 3x across cluster]")


def test_the_scripts_folder_can_be_imported_by_workers(own_places: Path) -> None:
    folder = own_places / "app"
    folder.mkdir()
    (folder / "beside.py").write_text("def answer():\n    return 42\n")
    ran = program(
        """
        import shoal, beside
        shoal.init("local", num_cpus=1)
        @shoal.remote
        def ask():
            import beside
            return beside.answer()
        print("got", shoal.get(ask.remote()), shoal.get(shoal.remote(beside.answer).remote()))
        """,
        folder=folder,
    )
    assert "got 42 42" in ran.said  # type: ignore[attr-defined]
    import shutil

    shutil.rmtree(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_however_the_driver_ends(own_places: Path, number: signal.Signals) -> None:
    ran = program(
        """
        import shoal, time, numpy
        shoal.init("local", num_cpus=2)
        @shoal.remote
        class Sleeper:
            def sleep(self): time.sleep(600)
        @shoal.remote
        def sleep(): time.sleep(600)
        held = [Sleeper.options(lifetime="detached", name="x").remote().sleep.remote(), sleep.remote()]
        big = shoal.put(numpy.zeros(10**6))
        time.sleep(0.5)
        print("ready", flush=True)
        time.sleep(600)
        """,
        wait=False,
    )
    assert ran.stdout is not None
    assert ran.stdout.readline() == "ready\n"
    eventually(lambda: len(marked(own_places)) >= 5)
    ran.send_signal(number)
    ran.wait(20)
    ran.stdout.close()
    (own_places / "program.py").unlink()
    eventually(lambda: not marked(own_places), 15)
    # Files and segments are checked by the fixture of every test.


def test_a_forked_child_of_the_driver_does_not_keep_the_cluster_alive(own_places: Path) -> None:
    ran = program(
        """
        import os, shoal, sys, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        shoal.init("local", num_cpus=1)
        child = os.fork()
        if child == 0:
            time.sleep(60.0)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), 9)
        """,
        wait=False,
    )
    assert ran.stdout is not None
    child = int(ran.stdout.readline())
    ran.wait(10)
    eventually(lambda: marked(own_places) == [child], 20)
    os.kill(child, signal.SIGKILL)
    ran.stdout.close()
    (own_places / "program.py").unlink()
    eventually(lambda: not marked(own_places), 10)


def test_a_killed_cluster_ends_every_wait_and_can_be_followed_by_another() -> None:
    @shoal.remote
    def sleep() -> None:
        time.sleep(60)

    shoal.init("local", num_cpus=1)
    try:
        refs = [sleep.remote(), sleep.remote()]
        waiting = threading.Thread(target=_end_of_wait, args=(refs[1], ended := []))
        waiting.start()
        time.sleep(0.3)
        assert api._embedded is not None
        os.kill(api._embedded.process.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            shoal.get(refs[0])
        waiting.join(10)
        assert ended == [ConnectionError]
    finally:
        shoal.shutdown()
    with shoal.init("local", num_cpus=1):
        assert shoal.get(shoal.put(1)) == 1


def _end_of_wait(ref: shoal.ObjectRef, ended: list[type]) -> None:
    try:
        shoal.get(ref)
    except Exception as error:
        ended.append(type(error))


def test_import_is_light() -> None:
    code = (
        "import sys, shoal; shoal.remote, shoal.init; "
        "print([m for m in ('grpc', 'pydantic', 'highspy', 'numpy', 'uvloop') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "[]"


def test_workers_import_nothing_heavy() -> None:
    @shoal.remote
    def loaded() -> list[str]:
        return [one for one in ("grpc", "pydantic", "highspy", "numpy", "uvloop") if one in sys.modules]

    with shoal.init("local", num_cpus=1):
        assert shoal.get(loaded.remote()) == []


def test_a_command_says_that_an_embedded_cluster_cannot_be_asked(own_places: Path) -> None:
    from shoal.cli.live import ask
    from shoal.cli.which import live
    from shoal.foundation.errors import UserError

    with (
        shoal.init("local", num_cpus=1) as context,
        pytest.raises(UserError, match="lives inside a program") as caught,
    ):
        ask(live(context["name"]), lambda client: client.status())
    assert "shoal.util.state" in str(caught.value.hint)
