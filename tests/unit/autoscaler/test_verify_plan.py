"""The stand-alone verifier: it passes what `shoal plan` answers and names each planted fault."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.cli.main import main

_SPEC = importlib.util.spec_from_file_location("verify_plan", Path(__file__).parents[2] / "verify_plan.py")
assert _SPEC is not None and _SPEC.loader is not None
verify_plan = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(verify_plan)

CLUSTER = """
cluster_name: checked
max_workers: 60
provider: {type: aws, region: us-east-1}
head_node_type: head
available_node_types:
  head: {node_config: {InstanceType: m5.large}, resources: {}, max_workers: 0}
  any: {machine_types: [m5.large, m5.xlarge, c5.2xlarge, r5.xlarge], max_workers: 60}
"""
DEMAND = "cpu,memory_gib,count,gang,strategy\n1,2,30,,\n2,12,5,,\n2,8,3,train,STRICT_SPREAD\n100,1,1,,\n"
OFFERS = (
    "provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch\n"
    "aws,us-east-1,us-east-1a,m5.large,,2,8,0,0.096,amd64\n"
    "aws,us-east-1,us-east-1a,m5.xlarge,,4,16,0,0.192,amd64\n"
    "aws,us-east-1,us-east-1b,c5.2xlarge,,8,16,0,0.34,amd64\n"
    "aws,us-east-1,us-east-1a,r5.xlarge,,4,32,0,0.252,amd64\n"
)


@pytest.fixture
def answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], dict[str, Any], list[Any], list[Any]]:
    for name, text in (("cluster.yaml", CLUSTER), ("demand.csv", DEMAND), ("offers.csv", OFFERS)):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        "plan",
        tmp_path / "cluster.yaml",
        "--demand",
        tmp_path / "demand.csv",
        "--offers",
        tmp_path / "offers.csv",
    ]
    monkeypatch.setattr(sys, "argv", ["shoal", *map(str, words), "--format", "json", "--effort", "3"])
    with pytest.raises(SystemExit):
        main()
    plan = json.loads(capsys.readouterr().out)
    return (
        plan,
        yaml.safe_load(CLUSTER),
        verify_plan.read_demand(tmp_path / "demand.csv"),
        verify_plan.read_offers(tmp_path / "offers.csv"),
    )


def test_what_shoal_plan_answers_is_right(answered: tuple[Any, Any, Any, Any]) -> None:
    assert verify_plan.mistakes(*answered) == []
    assert [one["demand"] for one in answered[0]["unmet"]] == ["L5"]


def test_each_planted_fault_is_named(answered: tuple[Any, Any, Any, Any]) -> None:
    plan, cluster, demand, offers = answered

    def said(change: Any) -> str:
        wrong = copy.deepcopy(plan)
        change(wrong)
        return "\n".join(verify_plan.mistakes(wrong, cluster, demand, offers))

    def overfill(wrong: dict[str, Any]) -> None:
        one = wrong["machines"][0]["placed"][0]
        one["count"] += 50
        one["lines"][0]["count"] += 50

    holders = [machine for machine in plan["machines"] if any(one["demand"] == "train" for one in machine["placed"])]
    assert len(holders) == 3

    assert "holds" in said(overfill)
    assert "placed or answered" in said(lambda wrong: wrong["machines"].pop())
    assert "placed or answered" in said(lambda wrong: wrong["unmet"].clear())
    assert "is_served" in said(lambda wrong: wrong.update(is_served=True))
    assert "usd_per_h is" in said(lambda wrong: wrong.update(usd_per_h=0.1))
    assert "above the price" in said(lambda wrong: wrong.update(lower_bound_usd_per_h=1e9))
    assert "max_workers is 60" in said(lambda wrong: wrong["machines"].extend(wrong["machines"] * 20))
    assert "is no verdict" in said(lambda wrong: wrong["unmet"][0].update(verdict="sad"))
    assert "neither price nor size" in said(lambda wrong: wrong["machines"][0].update(usd_per_h=0.01))
    assert "gang train" in said(
        lambda wrong: [
            machine.update(placed=[one for one in machine["placed"] if one["demand"] != "train"])
            for machine in wrong["machines"]
            if machine["id"] == holders[0]["id"]
        ]
    )


TYPES = {
    "t2": (2, 4, 0, "", 0.05),
    "t4": (4, 32, 0, "", 0.22),
    "t8": (8, 16, 0, "", 0.3),
    "t32": (32, 64, 0, "", 1.1),
    "g8": (8, 30, 1, "L4", 0.7),
    "g16": (16, 120, 4, "A100", 9.0),
}


def random_files(chance: random.Random) -> tuple[str, str, str]:
    """Return a cluster file, a demand and offers, with limits, budgets, labels, zones, gangs and GPUs."""
    names = chance.sample(sorted(TYPES), chance.randint(1, len(TYPES)))
    total = chance.choice([1, 3, 10, 60])
    cluster: dict[str, Any] = {
        "cluster_name": "any",
        "max_workers": total,
        "provider": {"type": "aws", "region": "us-east-1"},
        "head_node_type": "head",
        "available_node_types": {"head": {"node_config": {"InstanceType": "m5.large"}}},
    }
    for number, group in enumerate([names[::2], names[1::2]]):
        if group:
            least = chance.choice([0, 0, 0, 1]) if total > 2 else 0
            cluster["available_node_types"][f"k{number}"] = {
                "machine_types": group,
                "min_workers": least,
                "max_workers": max(least, chance.choice([0, 2, 5, 60])),
                "labels": chance.choice([{}, {"disk": "ssd"}, {"disk": "hdd"}]),
                "markets": chance.choice([["on-demand"], ["on-demand", "spot"], ["spot"]]),
                **chance.choice([{}, {}, {"zones": ["us-east-1a"]}]),
            }
    if chance.random() < 0.3:
        cluster["budget"] = {"usd_per_hour_max": chance.choice([0.5, 2.0, 20.0])}
    demand = ["cpu,memory_gib,gpu,gpu_model,count,gang,strategy,labels"]
    for number in range(chance.randint(1, 6)):
        gpu = chance.choice([0, 0, 0, 0.5, 1, 2])
        model = chance.choice(["", "L4", "A100"]) if gpu else ""
        size = f"{chance.choice([0.25, 1, 2, 3, 7, 40])},{chance.choice([0, 1, 3.5, 14, 70])},{gpu},{model}"
        labels = chance.choice(
            ["", "", "", "disk=ssd", "disk=!ssd", "disk=in(ssd,hdd)", "disk=!in(hdd)", "ray.io/market-type=on-demand",
             "ray.io/availability-zone=us-east-1b", "disk=ssd;ray.io/market-type=spot"]
        )  # fmt: skip
        gang = f"g{number}" if chance.random() < 0.35 else ""
        strategy = chance.choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]) if gang else ""
        for _ in range(chance.randint(1, 2)):
            demand.append(f'{size},{chance.choice([1, 2, 5, 20])},{gang},{strategy},"{labels}"')
    offers = ["provider,region,zone,type,market,cpu,memory_gib,gpu,gpu_model,usd_per_h,limit,arch"]
    for name in names:
        cpu, memory, gpu, model, price = TYPES[name]
        for zone in chance.choice([["us-east-1a"], ["us-east-1a", "us-east-1b"]]):
            for market in chance.choice([["on-demand"], ["on-demand", "spot"]]):
                usd = round(price * (0.4 if market == "spot" else 1) * chance.uniform(0.8, 1.2), 4)
                limit = chance.choice(["", "", "", 0, 2])
                offers.append(f"aws,us-east-1,{zone},{name},{market},{cpu},{memory},{gpu},{model},{usd},{limit},amd64")
    return yaml.safe_dump(cluster), "\n".join(demand) + "\n", "\n".join(offers) + "\n"


def wrong_in(seed: int, folder: Path, answer: Callable[..., tuple[int, str, str]]) -> list[str]:
    """Return what is wrong with the plan for the random files of `seed`."""
    paths = [folder / name for name in ("cluster.yaml", "demand.csv", "offers.csv")]
    for path, text in zip(paths, random_files(random.Random(seed)), strict=True):
        path.write_text(text)
    cluster, demand, offers = paths
    code, out, error = answer(
        "plan", cluster, "--demand", demand, "--offers", offers, "--format", "json", "--effort", 4
    )
    assert out, error
    plan = json.loads(out)
    assert code == (0 if plan["is_served"] else 1)
    return list(
        verify_plan.mistakes(
            plan,
            yaml.safe_load(cluster.read_text()),
            verify_plan.read_demand(demand),
            verify_plan.read_offers(offers),
        )
    )


@pytest.mark.parametrize("tens", range(6))
def test_plans_for_random_files_are_right(
    tens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def answer(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["shoal", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    for seed in range(10 * tens, 10 * tens + 10):
        assert wrong_in(seed, tmp_path, answer) == [], f"seed {seed}"
