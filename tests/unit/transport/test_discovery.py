"""Discovery: private files, live processes only, one cluster per name."""

import os
from pathlib import Path

import msgspec
import pytest

from shoal.foundation.errors import BadInput, Held, UserError
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile
from shoal.wire.hello import Role, fresh_secret


def cluster(name: str = "c", uid: str = "ab" * 16, **changes: object) -> ClusterFile:
    here = os.getpid()
    held = ClusterFile(
        name=name, uid=uid, pid=here, started=discovery.process_started(here), directory="", frames="unix:/x"
    )
    return msgspec.structs.replace(held, **changes)


def test_what_was_written_is_found_and_private() -> None:
    path = discovery.write(cluster())

    assert discovery.find("c") == cluster()
    assert discovery.live_clusters() == [cluster()]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    discovery.remove("c", "ab" * 16)


def test_a_dead_clusters_file_misleads_nobody_and_is_swept() -> None:
    path = discovery.write(cluster(started="1"))

    assert discovery.find("c") is None
    assert discovery.live_clusters() == []
    assert not path.exists()


def test_a_live_name_is_held() -> None:
    discovery.write(cluster())
    with pytest.raises(Held, match="already up"):
        discovery.write(cluster(uid="cd" * 16))
    discovery.remove("c", "cd" * 16)

    assert discovery.find("c") is not None
    discovery.remove("c", "ab" * 16)
    assert discovery.find("c") is None


def test_a_torn_file_is_no_cluster() -> None:
    path = discovery.write(cluster())
    path.write_bytes(b'{"name": "c", "ui')

    assert discovery.find("c") is None
    assert discovery.live_clusters() == []


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 61, "ü", "a\0b"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cluster name"):
        discovery.checked_name(name)


class TestSecrets:
    def test_they_are_private_and_load_again(self, tmp_path: Path) -> None:
        secret = fresh_secret()
        path = discovery.save_secret(tmp_path, Role.NODE, secret, "ab" * 16)

        credential = discovery.load_credential(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert (credential.role, credential.secret(Role.NODE)) == (Role.NODE, secret)

    def test_one_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        path = discovery.save_secret(tmp_path, Role.NODE, fresh_secret(), "ab" * 16)
        path.chmod(0o644)

        with pytest.raises(UserError, match="0600"):
            discovery.load_credential(path)

    @pytest.mark.parametrize("content", ["", "x y", "zz admin 00", "ab boss 00"])
    def test_garbage_is_one_line(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "s"
        path.write_text(content)

        with pytest.raises(UserError, match="secret file"):
            discovery.load_credential(path)

    def test_the_best_one_is_taken(self, tmp_path: Path) -> None:
        for role in (Role.READ, Role.NODE, Role.DRIVER):
            discovery.save_secret(tmp_path, role, fresh_secret(), "ab" * 16)

        assert discovery.best_credential(tmp_path).role is Role.NODE
