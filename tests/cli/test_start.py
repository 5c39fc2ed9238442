"""`shoal start` says in one line what of its options cannot be, and starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.transport import discovery


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--head", "--address", "192.0.2.1:5"], "expected --head or --address, got both"),
        (["--head", "--host", "0.0.0.0"], "expected the address by which other hosts reach this one, got `0.0.0.0`"),
        (["--head", "--host", "203.0.113.9"], "--host: cannot listen on `203.0.113.9`"),
        (["--head", "--driver-port", "5"], "--driver-port: expected --host with it"),
        (["--head", "--host", "192.0.2.1", "--port", "7", "--driver-port", "7"], "another port than the head's, 7"),
        (["--head", "--fence-after", "50"], "--fence-after: expected less than --node-dead-after, got 50 s"),
        (["--address", "nonsense"], "address: expected HOST:PORT or unix:PATH, got `nonsense`"),
        (["--address", "127.0.0.1:1"], "expected --secret-file"),
        (["--address", "127.0.0.1:1", "--secret-file", "/nowhere"], "secret file `/nowhere`"),
        (["--head", "--resources", "{bad"], "--resources: expected a JSON object"),
        (["--head", "--resources", '{"disk": -1}'], "disk"),
        (["--head", "--labels", "x"], "--labels: expected name=value,..., got `x`"),
        (["--head", "--memory", "12parsecs"], "--memory: expected bytes, or a size such as `16 GiB`"),
        (["--head", "--object-store-memory", "much"], "--object-store-memory: expected bytes, or a size"),
        (["--head", "--num-cpus", "-1"], "--num-cpus"),
        (["--head", "--tls-cert", "/x"], "got no --tls-key and no --tls-ca"),
        (["--head", "--name", "../x"], "cluster name: expected letters, digits"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_starts(
    run: Callable[..., tuple[int, str, str]], words: list[str], expected: str, own_places: Path
) -> None:
    code, out, error = run("start", *words)

    assert code in (1, 2) and not out
    assert error.startswith("error: ") and expected in error.splitlines()[0]
    assert discovery.live_clusters(kinds=("cluster", "node")) == []
