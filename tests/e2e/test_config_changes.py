"""A changed YAML of a live cluster: shown, applied without touching work, refused whole when it cannot be."""

from __future__ import annotations

from collections.abc import Callable

from shoal.transport import discovery
from tests.e2e.conftest import SMALL, Cluster, until


def kinds(cluster: Cluster) -> list[str]:
    return [event["kind"] for event in cluster.events()]


def test_a_changed_limit_is_shown_and_taken_over_while_running(cluster: Cluster) -> None:
    before = cluster.file()
    cluster.rewrite({**SMALL, "max_workers": 2})

    _, shown, _ = cluster.shoal("up", str(cluster.path), "--dry-run")
    assert "max_workers" in shown
    assert "1 change applied" in cluster.up()
    until(lambda: "config_changed" in kinds(cluster), what="the autoscaler takes it over")
    assert cluster.file() == before
    assert "nothing to change" in cluster.up()


def test_up_with_a_changed_file_asks_and_a_no_changes_nothing(cluster: Cluster) -> None:
    kept = (discovery.state_dir("t") / "cluster.yaml").read_text()
    cluster.rewrite({**SMALL, "max_workers": 2})

    code, shown, asked = cluster.shoal("up", str(cluster.path), says="n\n")

    assert code == 1
    assert "max_workers from `4` to `2`" in shown
    assert "apply to `t`?" in asked
    assert "nothing was changed" in asked
    assert (discovery.state_dir("t") / "cluster.yaml").read_text() == kept
    code, _, _ = cluster.shoal("up", str(cluster.path), says="y\n")
    assert code == 0
    assert (discovery.state_dir("t") / "cluster.yaml").read_text() == cluster.path.read_text()


def test_what_needs_a_new_cluster_is_refused(cluster: Cluster) -> None:
    kept = (discovery.state_dir("t") / "cluster.yaml").read_text()
    cluster.rewrite({**SMALL, "provider": {"type": "sim"}})

    code, _, error = cluster.shoal("up", str(cluster.path), "-y")

    assert code == 2
    assert "need a new cluster" in error
    assert (discovery.state_dir("t") / "cluster.yaml").read_text() == kept


def test_a_broken_file_is_reported_and_the_old_one_stays(cluster: Cluster) -> None:
    path = discovery.state_dir("t") / "cluster.yaml"
    path.write_text("max_workers: [")
    until(lambda: "config_refused" in kinds(cluster), what="the autoscaler reports it")

    report = until(lambda: cluster.status()["autoscaler"], what="a report of the autoscaler")
    assert report["session"] == 1

    out = cluster.up()

    assert "nothing to change" in out
    assert path.read_text() == cluster.path.read_text()


def test_a_changed_file_is_taken_over_a_broken_one(cluster: Cluster) -> None:
    """What is compared is the file in force; what the autoscaler goes by afterwards is the new one."""
    path = discovery.state_dir("t") / "cluster.yaml"
    path.write_text("max_workers: [")
    until(lambda: "config_refused" in kinds(cluster), what="the autoscaler reports it")
    cluster.rewrite({**SMALL, "max_workers": 2})

    assert "max_workers from `4` to `2`" in cluster.up()

    until(lambda: "config_changed" in kinds(cluster), what="the autoscaler takes it over")
    assert path.read_text() == cluster.path.read_text()


def test_a_mistake_in_the_file_is_told_with_its_place_and_starts_nothing(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(max_wrokers=3)

    code, out, error = made.shoal("up", str(made.path), "-y")

    assert (code, out) == (2, "")
    assert error.startswith(str(made.path) + ":")
    assert "max_workers" in error
    assert discovery.find("t") is None
