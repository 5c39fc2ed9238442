"""The stand-alone verifier: it passes what `shoal plan` answers and names each planted fault."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
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
