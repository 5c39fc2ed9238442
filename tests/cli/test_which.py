"""Which cluster a command means: what is named, SHOAL_ADDRESS, the only live one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.cli.main import main
from shoal.cli.which import live, name_in
from shoal.foundation.errors import BadInput, NoCluster
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile

ONE = "tcp:127.0.0.1:7001"
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


@pytest.fixture(autouse=True)
def two_clusters() -> Iterator[None]:
    """Two live clusters by their discovery files; nobody answers at them."""
    for name, frames in (("one", ONE), ("two", "tcp:127.0.0.1:7002")):
        discovery.write(
            ClusterFile(
                name=name,
                uid=name * 10,
                pid=os.getpid(),
                started=discovery.process_started(os.getpid()),
                directory=str(discovery.cluster_dir(name * 10)),
                frames=frames,
                grpc="tcp:127.0.0.1:9",
            )
        )
    yield
    for name in ("one", "two"):
        discovery.remove(name, name * 10)


@pytest.mark.parametrize(("address", "name"), [("one", "one"), ("two", "two"), (ONE, "one"), ("two" * 10, "two")])
def test_the_address_in_the_environment_says_which(monkeypatch: pytest.MonkeyPatch, address: str, name: str) -> None:
    monkeypatch.setenv("SHOAL_ADDRESS", address)

    assert live(None).name == name_in(None) == name


@pytest.mark.parametrize("address", ["", "auto"])
def test_without_a_word_several_are_too_many(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("SHOAL_ADDRESS", address)

    with pytest.raises(BadInput, match="several live clusters on this machine: `one`, `two`"):
        live(None)
    discovery.remove("two", "two" * 10)
    assert live(None).name == "one"


def test_a_name_or_a_file_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_ADDRESS", "two")
    path = tmp_path / "cluster.yaml"
    path.write_text(LOCAL.read_text().replace("cluster_name: local", "cluster_name: one"))

    assert live("one").name == name_in("one") == name_in(str(path)) == name_in(None, "one") == "one"


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("three", NoCluster, "SHOAL_ADDRESS: no live cluster `three`"),
        ("ray://elsewhere:10001", NoCluster, "no live cluster `ray://elsewhere:10001`"),
        ("local", BadInput, "SHOAL_ADDRESS is `local`"),
    ],
)
def test_an_address_of_nothing_here_is_said(
    monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception], said: str
) -> None:
    """It is never passed over for the only cluster that is live."""
    discovery.remove("two", "two" * 10)
    monkeypatch.setenv("SHOAL_ADDRESS", address)

    with pytest.raises(error, match=said):
        live(None)


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["monitor"],
        ["logs"],
        ["memory"],
        ["timeline"],
        ["down", "-y"],
        ["down", "-y", "--workers-only"],
        ["list", "nodes"],
        ["get", "nodes", "x"],
        ["summary", "tasks"],
        ["explain", "x"],
    ],
    ids=lambda words: " ".join(words),
)
def test_every_command_hears_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """`three` is not there: whoever did not ask the environment would complain of two clusters, or go on."""
    monkeypatch.setenv("SHOAL_ADDRESS", "three")
    monkeypatch.setattr(sys, "argv", ["shoal", *words])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: SHOAL_ADDRESS: no live cluster `three` on this machine"
