"""Where a cluster's processes find each other on one machine: a directory per cluster, a file naming who lives there.

    <runtime dir>/shoal-<uid of the user>/            0700
        clusters/<cluster name>.json                  0600  the discovery file of a live cluster
        <first 12 of the cluster uid>/                0700  sockets and secrets of one cluster

The runtime directory is SHOAL_RUNTIME_DIR, else XDG_RUNTIME_DIR, else the system temporary directory. Paths stay short
(sockets take at most 100 bytes). A discovery file names a process and when it started; it is live only while exactly
that process is, so a file that a killed cluster left behind never misleads anyone and is swept away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shoal.foundation.errors import BadInput, Held, UserError
from shoal.wire.hello import Credential, Role

_NAME_MAX = 60


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the discovery file of a live cluster says. `frames` and `grpc` are address texts, `pid` the process whose
    life is the cluster's (the guard of the head machine, or an embedded cluster's node process)."""

    name: str
    uid: str
    pid: int
    started: str
    directory: str
    frames: str
    grpc: str = ""
    agent: str = ""
    epoch: int = 1
    kind: str = "cluster"  # "cluster" | "embedded" | "node"
    config: str = ""
    started_wall_s: float = 0.0
    version: str = ""


def runtime_dir() -> Path:
    """Return this user's runtime directory, made 0700.

    Raises:
        UserError: it belongs to somebody else or others may enter it.
    """
    above = os.environ.get("SHOAL_RUNTIME_DIR") or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    path = Path(above) / f"shoal-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"runtime directory: expected `{path}` to be a directory of this user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def cluster_dir(uid: str) -> Path:
    """Return the directory of one cluster's sockets and secrets, made 0700."""
    path = runtime_dir() / uid[:12]
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def state_dir(name: str) -> Path:
    """Return the directory of what must outlive the machine's runtime (journal, ledger, logs), made 0700."""
    path = state_path(name)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def state_path(name: str) -> Path:
    """Return where a cluster's state directory is, or would be.

    SHOAL_STATE_DIR, else XDG_STATE_HOME, else ~/.local/state, then `shoal/<cluster name>`.
    """
    above = os.environ.get("SHOAL_STATE_DIR") or os.environ.get("XDG_STATE_HOME")
    return (Path(above) if above else Path.home() / ".local" / "state") / "shoal" / checked_name(name)


def checked_name(name: str) -> str:
    """Return a cluster's name if it can be one.

    Raises:
        BadInput: it is empty, too long, or has other characters than letters, digits, `-`, `_` and `.`.
    """
    good = name and len(name) <= _NAME_MAX and all(c.isalnum() or c in "-_." for c in name) and name.isascii()
    if not good or name.startswith("."):
        raise BadInput(f"cluster name: expected letters, digits, `-`, `_` (at most {_NAME_MAX}), got `{name[:80]}`")
    return name


def process_started(pid: int) -> str:
    """Return when a process started, as the system writes it ('' if there is none): with the pid it is unique."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _started_without_proc(pid)
    after_name = text.rpartition(")")[2].split()
    return "" if after_name[0] in ("Z", "X") else after_name[19]


def is_live(cluster: ClusterFile) -> bool:
    """Say whether exactly the process that the file names is alive."""
    return bool(cluster.started) and process_started(cluster.pid) == cluster.started


def write(cluster: ClusterFile) -> Path:
    """Write the discovery file (0600, at once or not at all) and return its path.

    Raises:
        Held: another live cluster has the name.
    """
    path = _file_of(cluster.name)
    with _lock(path.parent):
        held = _read(path)
        if held is not None and held.uid != cluster.uid and is_live(held):
            raise Held(
                f"cluster `{cluster.name}` is already up on this machine (pid {held.pid})",
                hint=f"use `shoal down {cluster.name}`, or another `cluster_name`",
            )
        write_private(path, msgspec.json.encode(cluster))
    return path


def remove(name: str, uid: str) -> None:
    """Remove the discovery file if it is still this cluster's."""
    path = _file_of(name)
    with _lock(path.parent):
        held = _read(path)
        if held is not None and held.uid == uid:
            path.unlink(missing_ok=True)


def find(name: str) -> ClusterFile | None:
    """Return the live cluster of that name on this machine, None if there is none."""
    held = _read(_file_of(name))
    return held if held is not None and is_live(held) else None


def live_clusters(*, kinds: tuple[str, ...] = ("cluster",)) -> list[ClusterFile]:
    """Return this user's live clusters on this machine, by name; files of dead ones are removed."""
    folder = runtime_dir() / "clusters"
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.glob("*.json")):
        held = _read(path)
        if held is not None and is_live(held):
            if held.kind in kinds:
                found.append(held)
        else:
            with _lock(folder):
                again = _read(path)
                if again is None or not is_live(again):
                    path.unlink(missing_ok=True)
    return found


def save_secret(directory: Path, role: Role, secret: bytes, uid: str) -> Path:
    """Write the secret of a role into a cluster's directory, 0600, and return its path."""
    path = directory / f"{role.name.lower()}.secret"
    write_private(path, f"{uid} {role.name.lower()} {secret.hex()}\n".encode())
    return path


def load_credential(path: Path) -> Credential:
    """Return the credential that a secret file holds.

    Raises:
        UserError: it is missing, not ours, or readable for others.
    """
    try:
        status = path.stat()
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"secret file `{path}`: expected it readable by this user, got {error}") from error
    credential = parsed_credential(text, f"secret file `{path}`")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(f"secret file `{path}`: expected mode 0600", hint=f"chmod 600 {path}")
    return credential


def parsed_credential(text: str, where: str) -> Credential:
    """Return the credential that a secret file's line holds; `where` names the place for errors.

    Raises:
        UserError: it is no such line.
    """
    try:
        uid, role, digits = text.split()
        return Credential(uid, bytes.fromhex(digits), Role[role.upper()])
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: expected `uid role hex`, as a head writes its secrets") from error


def best_credential(directory: Path) -> Credential:
    """Return the highest credential that this user can read in a cluster's directory.

    Raises:
        UserError: there is none.
    """
    for role in sorted(Role, reverse=True):
        path = directory / f"{role.name.lower()}.secret"
        if path.exists():
            return load_credential(path)
    raise UserError(f"no secret in `{directory}`", hint="is the cluster up, and yours?")


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _file_of(name: str) -> Path:
    return runtime_dir() / "clusters" / f"{checked_name(name)}.json"


def _read(path: Path) -> ClusterFile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterFile)
    except (OSError, msgspec.DecodeError):
        return None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _started_without_proc(pid: int) -> str:
    """Return a process's start time where there is no /proc (macOS)."""
    if Path("/proc/self/stat").exists():
        return ""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return ""
