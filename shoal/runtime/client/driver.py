"""`init` and `shutdown`: find or start a cluster, become one of its drivers, leave it."""

from __future__ import annotations

import atexit
import collections
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shoal.foundation.errors import NoCluster
from shoal.runtime.client.core import Core, settle_here
from shoal.runtime.client.elsewhere import Remote, connect_from_elsewhere, remote
from shoal.runtime.client.environment import environment
from shoal.runtime.client.origins import sites_wanted
from shoal.runtime.client.session import JOB_INFO, Session
from shoal.transport import discovery
from shoal.wire.hello import Credential, Role

START_LIMIT_S = 30.0
AGENT_LIMIT_S = 10.0
"""How long the agent of a live cluster may be away (its guard starts it again) before we give up."""
SWITCH_INTERVAL_S = 0.001
# The default of 5 ms is what a thread waits for the GIL while another computes: 1 ms answers five times faster and
# costs no throughput (measured).


class Embedded:
    """A cluster of our own, in one process beside the driver; it ends with us."""

    def __init__(self, process: subprocess.Popen[bytes], link: int, file: discovery.ClusterFile) -> None:
        self.process, self._link, self.file = process, link, file

    def close(self) -> None:
        """End it and wait until nothing is left."""
        os.close(self._link)  # it ends when this end closes, however that comes
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.process.returncode != 0:
            self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed cluster could not remove itself."""
        from shoal.runtime.store.places import shared_memory_root, sweep_stale

        discovery.remove(self.file.name, self.file.uid)
        shutil.rmtree(self.file.directory, ignore_errors=True)
        sweep_stale(shared_memory_root())


def start_embedded(settings: dict[str, Any]) -> Embedded:
    """Start a cluster for this driver alone.

    Raises:
        RuntimeError: it did not come up; the message holds what it said.
    """
    import msgspec

    read_end, write_end = os.pipe()
    answer_read, answer_write = os.pipe()
    argument = msgspec.json.encode(
        {**settings, "life_fd": read_end, "answer_fd": answer_write, "driver_pid": os.getpid()}
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _EMBEDDED, _import_path(), argument.decode()],
            pass_fds=[read_end, answer_write],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        os.close(read_end)
        os.close(answer_write)
    with os.fdopen(answer_read, "rb") as answers:
        said = answers.readline()
    if not said:
        os.close(write_end)
        process.wait()
        text = process.stderr.read().decode(errors="replace") if process.stderr else ""
        raise RuntimeError(f"the embedded cluster did not start: {text.strip() or f'exit code {process.returncode}'}")
    if process.stderr is not None:
        process.stderr.close()
    return Embedded(process, write_end, msgspec.json.decode(said, type=discovery.ClusterFile))


_EMBEDDED = "import sys; sys.path.insert(0, sys.argv.pop(1)); from shoal.assembly.early import main; main()"


def _import_path() -> str:
    """Return the folder from which this shoal is imported, so that the child finds the same one."""
    import shoal

    assert shoal.__file__ is not None
    return str(Path(shoal.__file__).parent.parent)


def locate(address: str | None) -> discovery.ClusterFile | Remote | None:
    """Return the cluster that `init` means, None for an embedded one.

    `None`: SHOAL_ADDRESS, else this user's one live cluster here, else embedded. `local`: embedded. `auto`: a live one.
    HOST:PORT that is not of a cluster here: one of other hosts.

    Raises:
        NoCluster: there is none where one was named, or several to choose from.
    """
    if address is None:
        address = os.environ.get("SHOAL_ADDRESS") or None
        is_asked = address is not None
    else:
        is_asked = True
    if address == "local":
        return None
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            'address: `ray://` is not spoken here; drive a cluster of other hosts with init("HOST:PORT") and its '
            "secret in SHOAL_SECRET_FILE, or run the script where the cluster is: `shoal submit CONFIG SCRIPT`"
        )
    live = discovery.live_clusters()
    if address in (None, "auto"):
        if len(live) == 1:
            return live[0]
        if not live:
            if is_asked:
                raise NoCluster(
                    "no live cluster of this user on this machine",
                    hint="start one with `shoal up` or `shoal start --head`, or call init() without an address",
                )
            return None
        names = ", ".join(f"`{one.name}`" for one in live)
        raise NoCluster(f"several live clusters: {names}", hint="say which: init(address=NAME), or set SHOAL_ADDRESS")
    for one in discovery.live_clusters(kinds=("cluster", "embedded", "node")):
        if address in (one.name, one.frames, one.agent, one.uid):
            return one
    far = remote(address)
    if far is not None:
        return far
    raise NoCluster(f"no live cluster `{address}` on this machine", hint="`shoal clusters` lists those that are live")


def connect(
    agent: str, session: Path, credential: Credential, info: dict[str, Any], ssl_context: Any = None
) -> Session:
    """Return a session of a driver at the agent `agent`.

    Raises:
        OSError, ShoalError: it is not there or not ours.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
    core = Core(credential, ssl_context, session, is_worker=False)
    here = Session(core)
    try:
        core.attach(agent, b"", info, kind="driver")
    except BaseException:
        core.close()
        raise
    here.job = core.info["job"]
    here.namespace = info["namespace"]
    here.environment = environment(info.get("environment"))
    here.job_info = {name: info[name] for name in JOB_INFO}
    core.start_helper()
    settle_here(core)
    return here


def driver_info(namespace: str | None, runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """Return what workers and the head must know of this driver."""
    script = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c") else ""
    folder = str(Path(script).resolve().parent) if script and Path(script).exists() else str(Path.cwd())
    own = environment(runtime_env)
    return {
        "entrypoint": " ".join(sys.argv) or "interactive",
        "sys_path": [folder, *[path for path in sys.path if path and path != folder]],
        "cwd": str(Path.cwd()),
        "namespace": namespace or f"anonymous-{os.getpid()}-{time.time_ns():x}",
        "environment": own.shown(),
        "records_sites": sites_wanted(),
    }


def at_fork(session_of: Any) -> None:
    """Have children that user code forks let go of the runtime, so that they can do it no harm."""
    global _is_registered
    if not _is_registered:
        _is_registered = True
        os.register_at_fork(before=_tell_fork, after_in_child=lambda: _forked(session_of))


_is_registered = False


def _tell_fork() -> None:
    """The child may look for ever at what is mapped now."""
    from shoal.runtime.client import api

    found = api._session
    if found is not None and not found.is_closed:
        found.stored.forked()


def _forked(session_of: Any) -> None:
    from shoal.runtime.client import refs

    session = session_of()
    refs.drops = collections.deque()
    refs.dropped = _drop_nothing
    if session is not None:
        session.core.reactor.close_in_child()


def _drop_nothing(item: Any) -> None:
    """In a forked child nobody must hear of refs that end: the parent still holds them."""


def register_exit(close: Any) -> None:
    """Leave the cluster at the end of the program."""
    atexit.register(close)


def connect_to(found: discovery.ClusterFile | Remote, info: dict[str, Any]) -> Session:
    """Return a session of a driver in a cluster. Raises as `connect` and `connect_from_elsewhere`.

    On this machine, an agent that is starting (again) is waited for, as long as its cluster lives.
    """
    if isinstance(found, Remote):
        return connect_from_elsewhere(found, info)
    credential = discovery.best_credential(Path(found.directory)).lowered(Role.DRIVER)
    agent = found.agent
    session = Path(agent[5:]).parent if agent.startswith("unix:") else discovery.cluster_dir(found.uid)
    deadline_s = time.monotonic() + AGENT_LIMIT_S
    while True:
        try:
            return connect(agent, session, credential, info)
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > deadline_s or not discovery.is_live(found):
                raise
        time.sleep(0.02)
