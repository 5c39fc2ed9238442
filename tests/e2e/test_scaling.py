"""0 -> N -> 0 under every kind of demand, with limits and budgets reached, and the reasons told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from shoal.transport import discovery
from tests.e2e.conftest import SMALL, Cluster, until


def workers_alive(cluster: Cluster) -> int:
    return len(cluster.nodes(state="ALIVE", is_head_node=False))


def unmet(cluster: Cluster) -> list[dict[str, Any]]:
    report = cluster.status()["autoscaler"]
    return report["unmet"] if report else []


def gone(cluster: Cluster) -> None:
    until(lambda: workers_alive(cluster) == 0, what="idle nodes go")


def test_actors_bring_nodes_and_their_end_frees_them(cluster: Cluster) -> None:
    printed = cluster.run(
        """
import shoal
shoal.init()
@shoal.remote(num_cpus=1)
class Here:
    def node(self):
        return shoal.get_runtime_context().get_node_id()
actors = [Here.remote() for _ in range(4)]
print(len(set(shoal.get([actor.node.remote() for actor in actors], timeout=40))))
"""
    )

    assert int(printed) >= 2
    gone(cluster)


def test_a_gang_gets_all_its_nodes_at_once(cluster: Cluster) -> None:
    printed = cluster.run(
        """
import shoal
from shoal.util.placement_group import placement_group, placement_group_table, remove_placement_group
shoal.init()
group = placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD")
shoal.get(group.ready(), timeout=40)
table = placement_group_table(group)
print(len(set(table["bundles_to_node_id"].values())))
remove_placement_group(group)
"""
    )

    assert printed.strip() == "3"
    launches = [event["fields"] for event in cluster.events() if event["kind"] == "launch_called"]
    assert sum(len(launch["instances"]) for launch in launches) == 3
    gone(cluster)


def test_a_standing_request_holds_nodes_without_work_until_it_is_taken_back(cluster: Cluster) -> None:
    cluster.run(
        """
import shoal
from shoal.autoscaler.sdk import request_resources
shoal.init()
request_resources(bundles=[{"CPU": 2}, {"CPU": 2}])
import time
end = time.monotonic() + 30
while sum(node["Alive"] for node in shoal.nodes()) < 3 and time.monotonic() < end:
    time.sleep(0.1)
time.sleep(3)   # longer than the idle limit: the request holds them
assert sum(node["Alive"] for node in shoal.nodes()) == 3, shoal.nodes()
request_resources(bundles=[])
"""
    )

    gone(cluster)


def test_a_budget_is_never_crossed_and_says_that_it_blocks(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(budget={"usd_per_hour_max": 0.25})
    cluster.up()
    cluster.start(
        """
import shoal, sys, time
shoal.init()
@shoal.remote(num_cpus=2)
def hold():
    time.sleep(60)
refs = [hold.remote() for _ in range(4)]
time.sleep(60)
"""
    )
    blocked = until(lambda: [one for one in unmet(cluster) if one["verdict"] == "blocked"], what="blocked demand")
    until(lambda: workers_alive(cluster) == 2, what="what the budget allows")

    assert any(reason["word"] == "budget" for one in blocked for reason in one["reasons"])
    assert cluster.status()["autoscaler"]["usd_per_hour"] <= 0.25
    cluster.end_drivers()
    gone(cluster)


def test_what_the_cluster_may_ever_cost_is_kept_and_named(make_cluster: Callable[..., Cluster]) -> None:
    """A machine is not begun that could not be paid for while its drain may last."""
    cluster = make_cluster(budget={"usd_total_max": 0.0001})
    cluster.up()
    cluster.start(
        """
import shoal
shoal.init()
@shoal.remote(num_cpus=2)
def never():
    pass
shoal.get(never.remote())
"""
    )
    blocked = until(lambda: [one for one in unmet(cluster) if one["verdict"] == "blocked"], what="blocked demand")
    _, shown, _ = cluster.shoal("status", cluster.name)

    assert any(reason["word"] == "budget" for one in blocked for reason in one["reasons"])
    assert re.search(r"budget: \$\S+ of \$0\.0001 are spent", shown), "the head's machine is paid from it, too"
    assert not any(event["kind"] == "launch_called" for event in cluster.events())


def test_a_limit_is_kept_and_named(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(max_workers=1)
    cluster.up()
    cluster.start(
        """
import shoal, time
shoal.init()
@shoal.remote(num_cpus=2)
def hold():
    time.sleep(60)
shoal.get([hold.remote() for _ in range(3)])
"""
    )
    blocked = until(lambda: [one for one in unmet(cluster) if one["verdict"] == "blocked"], what="blocked demand")

    assert any(reason["word"] == "limit" for one in blocked for reason in one["reasons"])
    assert workers_alive(cluster) <= 1


def test_what_nothing_can_hold_is_infeasible_and_buys_nothing(cluster: Cluster) -> None:
    cluster.start(
        """
import shoal
shoal.init()
@shoal.remote(num_gpus=1)
def never():
    pass
shoal.get(never.remote())
"""
    )
    found = until(lambda: [one for one in unmet(cluster) if one["verdict"] == "infeasible"], what="infeasible demand")
    _, shown, _ = cluster.shoal("status", cluster.name)

    assert found[0]["amounts"]["GPU"]
    assert "infeasible" in shown
    assert workers_alive(cluster) == 0


def test_down_workers_only_gives_workers_back_and_leaves_the_head_and_its_work(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(idle_timeout_s="300s")  # so that only the order can take them away
    cluster.up()
    before = cluster.file()
    code, out, error = cluster.shoal("down", cluster.name, "--workers-only", "--dry-run")
    assert (code, out) == (0, "would release nothing: there is no worker\n"), error
    cluster.start(
        """
import shoal, time
shoal.init(namespace="kept")
@shoal.remote(num_cpus=1, lifetime="detached", name="on the head")
class Counter:
    def __init__(self): self.value = 0
    def add(self):
        self.value += 1
        return self.value
@shoal.remote(num_cpus=2, max_retries=0)
def hold():
    time.sleep(300)
counter = Counter.options(label_selector={"shoal.io/node-group": "head"}).remote()
print(shoal.get(counter.add.remote()), flush=True)
holds = [hold.remote() for _ in range(2)]
time.sleep(300)
"""
    )
    until(lambda: len(cluster.status()["nodes"].get("active", [])) >= 2, what="work on a worker")
    workers = {one["instance_id"] for one in cluster.status()["autoscaler"]["instances"]}

    code, out, error = cluster.shoal("down", cluster.name, "--workers-only", "-y")

    assert code == 0, error
    assert "are released, its head stays" in out
    assert not workers & {one["instance_id"] for one in cluster.status()["autoscaler"]["instances"]}
    assert not workers & {node["instance_id"] for node in cluster.nodes(state="ALIVE")}
    assert cluster.file() == before
    counted = cluster.run(
        "import shoal; shoal.init(namespace='kept'); print(shoal.get(shoal.get_actor('on the head').add.remote()))"
    )
    assert counted.strip() == "2"


def test_down_workers_only_without_a_cluster_is_one_line(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()

    code, out, error = cluster.shoal("down", cluster.name, "--workers-only", "-y")

    assert (code, out) == (1, "")
    assert error.splitlines()[0] == "error: no live cluster `t` on this machine"


def test_a_forgotten_cluster_ends_itself(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(idle_shutdown="2s")
    cluster.up()
    until(lambda: discovery.find("t") is None, what="it goes by itself")
    until(lambda: not (discovery.state_dir("t") / "identity.json").exists(), what="and leaves nothing")


def test_a_cluster_ends_at_its_lifetime_even_if_it_works(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(lifetime="4s")
    cluster.up()
    cluster.start(
        """
import shoal, time
shoal.init()
@shoal.remote
def hold():
    time.sleep(60)
shoal.get([hold.remote() for _ in range(3)])
"""
    )
    until(lambda: discovery.find("t") is None, what="it goes by itself")
    until(lambda: not (discovery.state_dir("t") / "identity.json").exists(), what="and leaves nothing")


def test_the_same_numbers_hold_for_the_file_and_its_limits() -> None:
    """The tests above count on these: a worker holds 2 CPUs, at most 4 workers."""
    kinds: Any = SMALL["available_node_types"]
    assert kinds["small"]["resources"]["CPU"] == 2
    assert SMALL["max_workers"] == 4


def test_a_simulated_cloud_sells_machines_that_really_work(make_cluster: Callable[..., Cluster]) -> None:
    """Boot times, refusals and the bill are simulated; the nodes are processes and run the work."""
    cluster = make_cluster(
        provider={"type": "sim", "seed": 3, "boot_s": "0.5s", "faults": {"no_capacity": 0.3}},
        available_node_types={
            "head": {"resources": {"CPU": 1}, "price_usd_per_h": 0.01},
            "small": {"resources": {"CPU": 2}, "price_usd_per_h": 0.1, "max_workers": 4, "zones": ["a", "b", "c"]},
        },
    )
    cluster.up()
    printed = cluster.run(
        """
import shoal, time
shoal.init()
@shoal.remote
def nap(number):
    time.sleep(1)
    return number
print(sorted(shoal.get([nap.remote(n) for n in range(8)], timeout=50)))
"""
    )

    assert printed.strip() == str(list(range(8)))
    assert len(cluster.nodes(is_head_node=False)) >= 1
    gone(cluster)
    assert cluster.status()["autoscaler"]["usd_spent"] > 0
