"""`shoal simulate`, as a user calls it, and the numbers behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.testing.sim_report import percentile

Run = Callable[..., tuple[int, str, str]]

CLUSTER = """
cluster_name: simulated
max_workers: 20
idle_timeout_minutes: 1
min_up: 0
provider: {type: sim, boot_s: 30, boot_spread: 0, catalogue: aws}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 1}, max_workers: 0}
  cpu: {machine_types: [m5.large, m5.xlarge], max_workers: 20}
"""


@pytest.fixture
def day(run: Run, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    def play(trace: str, *more: object, cluster: str = CLUSTER) -> tuple[int, dict[str, Any]]:
        config, file = tmp_path / "cluster.yaml", tmp_path / "trace.csv"
        config.write_text(cluster)
        file.write_text(trace)
        code, out, _ = run("simulate", config, "--trace", file, "--format", "json", *more)
        return code, json.loads(out)

    return play


Play = Callable[..., tuple[int, dict[str, Any]]]


def test_a_day_of_one_task_costs_what_its_machine_costs(day: Play) -> None:
    code, said = day("submit_s,duration_s,cpu\n0,3600,2\n")

    (machine,) = said["machines"]["by_type"]
    assert code == 0
    assert machine["type"] == "m5.large"
    assert said["usd"] == pytest.approx(machine["hours"] * 0.096, rel=1e-6)
    assert 1.0 + 30 / 3600 < machine["hours"] < 1.1, "an hour of work, the boot, a minute idle, the way out"
    assert said["work"] == {"submitted": 1, "started": 1, "finished": 1, "put_back": 0}
    assert 30 <= said["waiting_s"]["p50"] < 45, "the boot and a moment to join"


def test_a_price_of_the_cluster_file_is_billed(day: Play) -> None:
    """Both where the tables know another price and where nobody but the file knows one."""
    trace = "submit_s,duration_s,cpu\n0,3600,2\n"
    of_type = CLUSTER.replace("m5.xlarge]", "m5.xlarge], price_usd_per_h: 0.5")
    own = CLUSTER.replace(", catalogue: aws", "").replace("machine_types: [m5.large, m5.xlarge]", "PRICED")

    for cluster in (of_type, own.replace("PRICED", "resources: {CPU: 2}, price_usd_per_h: 0.5")):
        code, said = day(trace, cluster=cluster)
        assert code == 0
        assert said["usd"] == pytest.approx(said["machines"]["by_type"][0]["hours"] * 0.5, rel=1e-6)


def test_an_offer_files_price_is_billed_instead(day: Play, tmp_path: Path) -> None:
    offers = tmp_path / "offers.csv"
    offers.write_text("provider,type,cpu,memory_gib,usd_per_h\nsim,m5.large,2,8,0.25\n")
    cluster = CLUSTER.replace("m5.xlarge]", "m5.xlarge], price_usd_per_h: 0.5")

    code, said = day("submit_s,duration_s,cpu\n0,3600,2\n", "--offers", offers, cluster=cluster)

    assert code == 0
    assert said["usd"] == pytest.approx(said["machines"]["by_type"][0]["hours"] * 0.25, rel=1e-6)


def test_the_same_seed_tells_the_same_day_and_another_seed_another(day: Play) -> None:
    trace = "submit_s,duration_s,cpu,count\n0,300,1,30\n600,60,2,8\n"
    told = []
    for seed in (1, 1, 2):
        _, said = day(trace, "--seed", seed)
        told.append(
            {name: value for name, value in said.items() if name not in ("took_s", "memory_bytes_most", "seed")}
        )

    assert told[0] == told[1]
    assert told[0] != told[2]


def test_all_work_finishes_and_all_machines_go(day: Play) -> None:
    code, said = day("submit_s,duration_s,cpu,count\n0,120,1,100\n300,30,0.5,50\n900,600,4,5\n")

    last = said["over_time"][-1]
    assert code == 0
    assert said["work"]["finished"] == 155
    assert (last["machines"], last["waiting"], last["cpu_used"]) == (0, 0, 0.0)
    assert said["machines"]["most"] <= 20
    assert 0 < said["utilisation_cpu"] <= 1
    assert said["usd"] == pytest.approx(last["usd"])


def test_work_used_is_work_submitted(day: Play) -> None:
    _, said = day("submit_s,duration_s,cpu,count\n0,100,1,10\n50,200,2,3\n")

    assert said["usd_per_used_cpu_hour"] == pytest.approx(said["usd"] / ((10 * 100 + 3 * 2 * 200) / 3600))


def test_a_gang_starts_together(day: Play) -> None:
    trace = "submit_s,duration_s,cpu,count,gang,strategy\n0,60,2,4,g,STRICT_SPREAD\n"

    code, said = day(trace)

    assert code == 0
    assert said["machines"]["most"] == 4
    assert said["waiting_s"]["p50"] == said["waiting_s"]["most"], "one wait for all"


def test_work_that_nothing_holds_ends_in_1_with_its_reason(day: Play) -> None:
    code, said = day("submit_s,duration_s,cpu\n0,60,64\n0,60,1\n")

    assert code == 1
    assert said["work"]["finished"] == 1
    assert [(one["demand"], one["verdict"]) for one in said["unmet"]] == [("L2", "infeasible")]


def test_no_policy_knows_a_length_before_work_has_finished(day: Play) -> None:
    """40 tasks of 1 s: while their length is unknown each gets a slot; the second 40 run on what finishes them soon."""
    wide = CLUSTER.replace("max_workers: 20", "max_workers: 100")
    first, second = "submit_s,duration_s,cpu,count\n0,1,2,40\n", "3000,1,2,40\n"

    _, once = day(first, cluster=wide)
    _, twice = day(first + second, cluster=wide)

    assert once["machines"]["started"] >= 20
    assert twice["machines"]["started"] - once["machines"]["started"] <= 4


def test_interrupted_work_waits_again_and_is_finished(day: Play) -> None:
    spot = CLUSTER.replace("catalogue: aws", "catalogue: gcp, faults: {interruptions_per_h: 1.0}").replace(
        "machine_types: [m5.large, m5.xlarge]", "machine_types: [n2-standard-2], markets: [spot]"
    )
    trace = "submit_s,duration_s,cpu,count\n0,2400,2,12\n"

    code, said = day(trace, cluster=spot)

    assert code == 0
    assert said["work"]["put_back"] > 0
    assert said["work"]["finished"] == 12


def test_policies_are_compared_on_the_same_day(day: Play) -> None:
    _, days = day(
        "submit_s,duration_s,cpu,count\n0,300,1,20\n", "--policy", "ours", "--policy", "ray", "--policy", "static"
    )

    ours, ray, static = days
    assert [one["policy"] for one in days] == ["ours", "ray", "static"]
    assert all(one["is_served"] for one in days)
    assert static["machines"]["started"] == 20, "a fixed fleet of max_workers"
    assert static["usd"] > max(ours["usd"], ray["usd"])
    assert ours["waiting_s"]["p50"] <= ray["waiting_s"]["p50"], "Ray looks every 5 s and starts with one of a type"


def test_a_chart_is_drawn_as_png_and_svg(day: Play, tmp_path: Path) -> None:
    day("submit_s,duration_s,cpu,count\n0,60,1,4\n", "--chart", tmp_path / "day")

    png, svg = (tmp_path / "day.png").read_bytes(), (tmp_path / "day.svg").read_text()
    assert png.startswith(b"\x89PNG")
    assert "units waiting" in svg
    assert "simulated" in svg


def test_without_matplotlib_one_line_names_the_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, file = tmp_path / "cluster.yaml", tmp_path / "trace.csv"
    config.write_text(CLUSTER)
    file.write_text("submit_s,duration_s,cpu\n0,60,1\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    code, _, err = run("simulate", config, "--trace", file, "--chart", tmp_path / "day.png")

    assert code == 1
    assert "expected matplotlib" in err
    assert "shoal[plots]" in err


def test_a_chart_that_cannot_be_written_is_told_before_the_day(run: Run, tmp_path: Path) -> None:
    config, file = tmp_path / "cluster.yaml", tmp_path / "trace.csv"
    config.write_text(CLUSTER)
    file.write_text("submit_s,duration_s,cpu\n0,60,1\n")

    code, out, err = run("simulate", config, "--trace", file, "--chart", tmp_path / "nowhere" / "day.png")

    assert (code, out) == (1, "")
    assert "expected a folder" in err and "nowhere" in err


def test_beside_the_table_stands_what_was_left_and_why(run: Run, tmp_path: Path) -> None:
    config, file = tmp_path / "cluster.yaml", tmp_path / "trace.csv"
    config.write_text(CLUSTER)
    file.write_text("submit_s,duration_s,cpu,count\n0,60,64,2\n0,60,1,1\n")

    code, _, err = run("simulate", config, "--trace", file, "--policy", "ours", "--policy", "static")

    assert code == 1
    assert "ours: 2 of 3 units had not finished when it ended" in err
    assert "ours: unmet at the end: 2 x L2 (64 CPU): infeasible" in err
    assert "static: " in err


def test_wrong_traces_end_in_2(run: Run, tmp_path: Path) -> None:
    config, file = tmp_path / "cluster.yaml", tmp_path / "trace.csv"
    config.write_text(CLUSTER)
    file.write_text("submit_s,duration_s,cpu\n-1,60,1\n0,0,1\n")

    code, out, err = run("simulate", config, "--trace", file)

    assert (code, out) == (2, "")
    assert "trace.csv:2:1: submit_s" in err
    assert "trace.csv:3:1: duration_s" in err


def test_percentiles_count_units() -> None:
    waits = [(0.0, 90), (10.0, 9), (60.0, 1)]

    assert [percentile(waits, share) for share in (0.5, 0.9, 0.95, 0.99, 1.0)] == [0.0, 0.0, 10.0, 10.0, 60.0]
