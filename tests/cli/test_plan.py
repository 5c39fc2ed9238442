"""`shoal plan --demand` and `shoal prices`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import verify_plan

Run = Callable[..., tuple[int, str, str]]

CLUSTER = """
cluster_name: planned
max_workers: 200
provider: {type: aws, region: us-east-1}
head_node_type: head
available_node_types:
  head: {node_config: {InstanceType: m5.large}, resources: {}, max_workers: 0}
  cpu: {machine_types: [m5.large, m5.xlarge, c5.2xlarge, r5.xlarge], max_workers: 200}
  gpu: {machine_types: "gpu: 1 x L4", max_workers: 2}
"""
DEMAND = """cpu,memory_gib,gpu,gpu_model,count,gang,strategy,labels
1,2,,,20,,,
1,2,,,10,,,
2,12,,,5,,,
2,4,1,L4,2,,,
4,8,,,3,train,STRICT_SPREAD,
1,2,,,1,train,STRICT_SPREAD,
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    cluster, demand = tmp_path / "cluster.yaml", tmp_path / "demand.csv"
    cluster.write_text(CLUSTER)
    demand.write_text(DEMAND)
    return cluster, demand


def _plan(run: Run, files: tuple[Path, Path], *more: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run("plan", files[0], "--demand", files[1], "--format", "json", "--effort", 2, *more)
    return code, json.loads(out)


def test_every_unit_is_placed_on_a_machine_that_holds_it(run: Run, files: tuple[Path, Path]) -> None:
    code, said = _plan(run, files)

    assert code == 0
    assert said["is_served"]
    lines = {row["line"]: row for row in said["demand"]}
    placed: Counter[int] = Counter()
    for machine in said["machines"]:
        used = {"cpu": 0.0, "memory_gib": 0.0, "gpu": 0.0}
        for one in machine["placed"]:
            assert sum(part["count"] for part in one["lines"]) == one["count"]
            for part in one["lines"]:
                placed[part["line"]] += part["count"]
                for name in used:
                    used[name] += part["count"] * lines[part["line"]][name]
        assert all(used[name] <= machine[name] + 1e-9 for name in used), machine
    assert placed == Counter({row["line"]: row["count"] for row in said["demand"]})


def test_the_answer_holds_against_a_check_without_planner_code(run: Run, files: tuple[Path, Path]) -> None:
    _, said = _plan(run, files)

    cluster = yaml.safe_load(files[0].read_text())
    assert verify_plan.mistakes(said, cluster, verify_plan.read_demand(files[1]), None) == []
    said["machines"].pop()
    assert verify_plan.mistakes(said, cluster, verify_plan.read_demand(files[1]), None) != []


def test_the_members_of_a_strictly_spread_gang_stand_on_different_machines(run: Run, files: tuple[Path, Path]) -> None:
    _, said = _plan(run, files)

    holders = [one["count"] for machine in said["machines"] for one in machine["placed"] if one["demand"] == "train"]
    assert holders == [1, 1, 1, 1]


def test_the_price_is_the_sum_of_the_machines_list_prices(run: Run, files: tuple[Path, Path]) -> None:
    _, said = _plan(run, files)

    known = {"m5.large": 0.096, "m5.xlarge": 0.192, "c5.2xlarge": 0.34, "r5.xlarge": 0.252}
    for machine in said["machines"]:
        assert machine["usd_per_h"] == known.get(machine["type"], machine["usd_per_h"])
    assert said["usd_per_h"] == pytest.approx(sum(machine["usd_per_h"] for machine in said["machines"]))
    assert said["is_price_complete"]
    assert any("list prices as of 2026-07-20" in note for note in said["notes"])
    if said["lower_bound_usd_per_h"] is not None:
        assert said["lower_bound_usd_per_h"] <= said["usd_per_h"] + 1e-9


def test_the_same_files_seed_and_effort_give_the_same_bytes(run: Run, files: tuple[Path, Path]) -> None:
    assert _plan(run, files) == _plan(run, files)


def test_a_files_own_resources_and_prices_hold_beside_what_the_tables_know(run: Run, files: tuple[Path, Path]) -> None:
    cluster, demand = files
    cluster.write_text(CLUSTER.replace("max_workers: 200}", "resources: {special: 1}, price_usd_per_h: 0.5}"))
    demand.write_text("cpu,memory_gib,count\n2,4,1\n")

    _, said = _plan(run, files)

    (machine,) = said["machines"]
    assert (machine["cpu"] >= 2, machine["memory_gib"] >= 4, machine["usd_per_h"]) == (True, True, 0.5)
    assert any(note.endswith("are the cluster file's own") for note in said["notes"])


def test_a_type_without_offers_is_told_why(run: Run, files: tuple[Path, Path]) -> None:
    cluster, demand = files
    says = {
        "provider: {type: aws, region: us-west-2}": "`shoal prices refresh --provider aws --region us-west-2`",
        "provider: {type: ssh, head_ip: h, worker_ips: [a]}": "write `resources: {CPU: ...}` to plan with it",
    }
    for provider, said in says.items():
        kinds = "gpu: {machine_types: 'gpu: 1 x L4', max_workers: 2}" if "aws" in provider else "w: {max_workers: 1}"
        cluster.write_text(
            f"cluster_name: c\n{provider}\nhead_node_type: h\navailable_node_types:\n"
            f"  h: {{{'node_config: {InstanceType: m5.large}' if 'aws' in provider else ''}}}\n  {kinds}\n"
        )

        code, _, err = run("plan", cluster, "--demand", demand)

        assert code == 1
        assert said in err


def test_a_process_of_its_own_writes_json_to_stdout_and_nothing_else(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Solvers print from C, which no captured `sys.stdout` shows."""
    cluster, demand = files
    words = ["plan", cluster, "--demand", demand, "--format", "json", "--effort", "3"]

    ended = subprocess.run(
        [sys.executable, "-m", "shoal", *map(str, words)],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )

    assert json.loads(ended.stdout)["effort"] > 0, "the solver must have run"
    assert ended.returncode == 0


def test_demand_that_nothing_holds_ends_in_1_and_says_why(run: Run, files: tuple[Path, Path]) -> None:
    files[1].write_text("cpu,memory_gib,count\n500,1,2\n1,1,1\n")

    code, said = _plan(run, files)

    assert code == 1
    (lack,) = said["unmet"]
    assert (lack["demand"], lack["count"], lack["verdict"]) == ("L2", 2, "infeasible")
    assert {reason["word"] for reason in lack["reasons"]} == {"too-small"}


def test_limits_are_kept_and_named(run: Run, files: tuple[Path, Path]) -> None:
    files[1].write_text("cpu,gpu,gpu_model,count\n1,1,L4,50\n")

    code, said = _plan(run, files)

    gpus = sum(machine["gpu"] for machine in said["machines"])
    assert code == 1
    assert len(said["machines"]) <= 2
    assert said["unmet"][0]["count"] == 50 - gpus
    assert said["unmet"][0]["verdict"] == "blocked"


def test_an_offer_file_is_all_that_is_sold(run: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    files[1].write_text("cpu,memory_gib,count\n2,4,4\n")
    offers = tmp_path / "offers.csv"
    offers.write_text(
        "provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch\n"
        "aws,us-east-1,us-east-1a,m5.xlarge,on-demand,4,16,,0.2,amd64\n"
        "aws,us-east-1,us-east-1a,c5.2xlarge,on-demand,8,16,,0.3,amd64\n"
        "aws,us-east-1,us-east-1a,x9.huge,on-demand,64,256,,0.01,amd64\n"
    )

    code, said = _plan(run, files, "--offers", offers)

    assert code == 0
    assert [machine["type"] for machine in said["machines"]] == ["c5.2xlarge"], "x9.huge is no type of the file"
    assert said["usd_per_h"] == pytest.approx(0.3)


def test_an_offer_files_prices_hold_over_those_of_the_cluster_file(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    cluster = tmp_path / "priced.yaml"
    cluster.write_text(
        "cluster_name: priced\nprovider: {type: sim}\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 1}, max_workers: 0}\n"
        "  any: {resources: {CPU: 4, memory: 16 GiB}, price_usd_per_h: 0.9, max_workers: 5}\n"
    )
    files[1].write_text("cpu,memory_gib,count\n2,4,4\n")
    offers = tmp_path / "offers.csv"
    offers.write_text("provider,type,cpu,memory_gib,usd_per_h\nsim,a,4,16,0.2\n")

    with_file = _plan(run, (cluster, files[1]), "--offers", offers)[1]
    offers.write_text("provider,type,cpu,memory_gib,usd_per_h\nsim,a,4,16,\n")
    unknown = _plan(run, (cluster, files[1]), "--offers", offers)[1]

    assert with_file["usd_per_h"] == pytest.approx(0.4)
    assert unknown["usd_per_h"] == pytest.approx(1.8), "where the file knows none, the cluster file's counts"


def test_a_simulated_provider_sells_every_row_and_names_it_as_written(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    files[0].write_text(
        "cluster_name: sold\nmax_workers: 10\nprovider: {type: sim}\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 1}, max_workers: 0}\n"
        '  any: {machine_types: "cpu >= 1", max_workers: 10, markets: [on-demand, spot]}\n'
    )
    files[1].write_text("cpu,memory_gib,count\n2,4,6\n")
    offers = tmp_path / "offers.csv"
    offers.write_text(
        "provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch,limit\n"
        "aws,us-east-1,us-east-1a,m5.xlarge,on-demand,4,16,,0.192,amd64,\n"
        "gcp,us-central1,,n2-standard-4,spot,4,16,,0.05,amd64,2\n"
    )

    code, said = _plan(run, files, "--offers", offers)

    names = ("provider", "region", "zone", "type", "market")
    assert code == 0
    assert Counter(tuple(machine[name] for name in names) for machine in said["machines"]) == {
        ("gcp", "us-central1", "", "n2-standard-4", "spot"): 2,
        ("aws", "us-east-1", "us-east-1a", "m5.xlarge", "on-demand"): 1,
    }


def test_an_unknown_price_is_never_0_and_comes_last(run: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    files[1].write_text("cpu,count\n2,1\n")
    offers = tmp_path / "offers.csv"
    header = "provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch\n"
    unpriced = "aws,us-east-1,,m5.large,on-demand,2,8,,,amd64\n"
    offers.write_text(header + unpriced + "aws,us-east-1,,m5.xlarge,on-demand,4,16,,90,amd64\n")

    _, dear = _plan(run, files, "--offers", offers)
    offers.write_text(header + unpriced)
    code, blind = _plan(run, files, "--offers", offers)

    assert [machine["type"] for machine in dear["machines"]] == ["m5.xlarge"]
    assert code == 0
    assert blind["machines"][0]["usd_per_h"] is None
    assert not blind["is_price_complete"]


def test_offers_of_other_providers_are_refused_with_a_hint(run: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    offers = tmp_path / "offers.csv"
    offers.write_text("provider,type,cpu,usd_per_h\ngcp,n2-standard-4,4,0.2\n")

    code, out, err = run("plan", files[0], "--demand", files[1], "--offers", offers)

    assert code == 2
    assert out == ""
    assert "expected some of provider `aws`, got only `gcp`" in err


def test_wrong_files_end_in_2_with_every_line(run: Run, files: tuple[Path, Path]) -> None:
    files[1].write_text("cpu,count\nx,1\n1,y\n")

    code, out, err = run("plan", files[0], "--demand", files[1])

    assert code == 2
    assert out == ""
    assert "demand.csv:2:1: cpu: expected a number, got `x`" in err
    assert "demand.csv:3:1: count: expected a whole number" in err


def test_a_table_groups_equal_machines_and_words_go_to_stderr(run: Run, files: tuple[Path, Path]) -> None:
    code, out, err = run("plan", files[0], "--demand", files[1], "--effort", 1)

    assert code == 0
    assert out.splitlines()[0].split()[:2] == ["COUNT", "NODE"]
    assert "per hour for" in err
    assert "per hour" not in out


def test_prices_show_the_cheapest_with_date_and_source(run: Run) -> None:
    code, out, err = run("prices", "m5.*", "--provider", "aws", "--region", "us-east-1", "--format", "json")

    rows = json.loads(out)
    assert code == 0
    assert rows[0]["type"] == "m5.large"
    assert {row["source"] for row in rows} == {"shipped"}
    assert "as of 2026-07-20" in err


def test_prices_of_nothing_end_in_1_and_name_the_near_ones(run: Run) -> None:
    code, out, err = run("prices", "m5.lrge", "--provider", "aws")

    assert (code, out) == (1, "")
    assert "did you mean `m5.large`" in err


def test_refreshing_from_nowhere_is_one_line(run: Run) -> None:
    code, out, err = run(
        "prices", "refresh", "--provider", "azure", "--region", "eastus", "--base", "http://127.0.0.1:1"
    )

    assert (code, out) == (1, "")
    assert "expected the price list" in err
