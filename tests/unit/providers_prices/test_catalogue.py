"""The layers of prices, and the offers made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.foundation.amounts import amounts
from shoal.foundation.errors import BadInput
from shoal.model.policy import MachineNeed, NodeType, Policy
from shoal.providers.prices.asking import Wish, found
from shoal.providers.prices.catalogue import Catalogue
from shoal.providers.prices.market import market
from shoal.providers.prices.tables import Price, read_prices, table_of, write_prices

GIB = 2**30


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path)


def test_the_shipped_price_of_a_known_type_is_the_list_price_of_its_date(catalogue: Catalogue) -> None:
    quote = catalogue.quote("aws", "us-east-1", "m5.large")

    assert (quote.usd_per_h, quote.source, quote.as_of) == (0.096, "shipped", "2026-07-20")


def test_a_refreshed_price_counts_before_the_shipped_one(tmp_path: Path) -> None:
    table = table_of([Price("us-east-1", "m5.large", "on-demand", 0.5)], as_of="2026-10-01", source="test")
    write_prices(tmp_path / "aws" / "us-east-1_prices.csv.gz", table)

    quote = Catalogue(tmp_path).quote("aws", "us-east-1", "m5.large")

    assert (quote.usd_per_h, quote.source, quote.as_of) == (0.5, "cache", "2026-10-01")


def test_a_spoilt_cache_is_left_out_and_said_aloud(tmp_path: Path) -> None:
    folder = tmp_path / "aws"
    folder.mkdir()
    (folder / "us-east-1_prices.csv.gz").write_bytes(b"\x1f\x8bnot really")
    catalogue = Catalogue(tmp_path)
    kind = NodeType(name="w", provider="aws", regions=("us-east-1",), machine_types=("m5.large",))

    offers = catalogue.offers_for(kind)

    assert offers[0].price_usd_per_h == 0.096
    assert any("was left out" in line for line in catalogue.notes(offers, {}))


def test_an_unknown_price_is_none_and_named_with_the_way_out(catalogue: Catalogue) -> None:
    kind = NodeType(name="w", provider="aws", regions=("eu-west-1",), machine_types=("m5.large",))

    offers = catalogue.offers_for(kind)

    assert [offer.price_usd_per_h for offer in offers] == [None]
    assert offers[0].is_named
    assert any("prices refresh --provider aws --region eu-west-1" in line for line in catalogue.notes(offers, {}))


def test_the_yamls_price_counts_before_every_list(catalogue: Catalogue) -> None:
    kind = NodeType(name="w", provider="aws", regions=("us-east-1",), machine_types=("m5.large",), price_usd_per_h=0.01)

    assert [offer.price_usd_per_h for offer in catalogue.offers_for(kind)] == [0.01]


def test_a_requirement_names_the_nominal_size_of_machines(catalogue: Catalogue) -> None:
    need = MachineNeed(at_least=amounts({"CPU": 4, "memory": 16 * GIB}), at_most=amounts({"CPU": 4}))
    kind = NodeType(name="w", provider="aws", regions=("us-east-1",), need=need)

    offers = {offer.key.machine_type: offer for offer in catalogue.offers_for(kind)}

    assert "m5.xlarge" in offers
    assert "c5.xlarge" not in offers
    assert "t3.xlarge" not in offers, "burstable types come only when named"
    assert "m6g.xlarge" not in offers, "the head's architecture is amd64"
    assert offers["m5.xlarge"].resources["memory"] < 16 * GIB * 10_000, "a node has less than the machine is sold with"


def test_an_accelerator_is_found_under_its_usual_name(catalogue: Catalogue) -> None:
    need = MachineNeed(at_least=amounts({"GPU": 1}), accelerator="L4")
    names = {
        offer.key.machine_type
        for cloud, region in (("aws", "us-east-1"), ("gcp", "us-central1"))
        for offer in catalogue.offers_for(NodeType(name="w", provider=cloud, regions=(region,), need=need))
    }

    assert {"g6.xlarge", "g2-standard-4"} <= names
    assert "g5.xlarge" not in names


def test_zones_and_markets_multiply_offers(catalogue: Catalogue) -> None:
    kind = NodeType(
        name="w",
        provider="gcp",
        zones=("us-central1-a", "us-central1-b"),
        markets=("on-demand", "spot"),
        machine_types=("n2-standard-4",),
    )

    offers = catalogue.offers_for(kind)

    assert {(one.key.region, one.key.zone, one.key.market) for one in offers} == {
        ("us-central1", zone, market) for zone in ("us-central1-a", "us-central1-b") for market in ("on-demand", "spot")
    }
    assert all(one.price_usd_per_h for one in offers)


def test_a_cloud_without_region_is_an_error_with_a_hint(catalogue: Catalogue) -> None:
    with pytest.raises(BadInput, match="expected a region") as caught:
        catalogue.offers_for(NodeType(name="w", provider="aws", machine_types=("m5.large",)))

    assert "region" in caught.value.hint


def test_a_named_type_of_unknown_size_needs_resources(catalogue: Catalogue) -> None:
    kind = NodeType(name="w", provider="aws", regions=("us-east-1",), machine_types=("zz9.large",))

    with pytest.raises(BadInput, match="expected `resources`"):
        catalogue.offers_for(kind)


def test_own_machines_cost_nothing_more(catalogue: Catalogue) -> None:
    kind = NodeType(name="host", provider="ssh", resources=amounts({"CPU": 8}))

    (offer,) = catalogue.offers_for(kind)

    assert (offer.price_usd_per_h, offer.key.machine_type) == (0.0, "host")


def test_the_market_has_each_offer_once_and_the_head_type_only_if_it_may_have_workers(catalogue: Catalogue) -> None:
    kinds = (
        NodeType(name="head", provider="aws", regions=("us-east-1",), machine_types=("m5.xlarge",)),
        NodeType(name="a", provider="aws", regions=("us-east-1",), machine_types=("m5.large",), max_workers=1),
        NodeType(
            name="b",
            provider="aws",
            regions=("us-east-1",),
            machine_types=("m5.large", "c5.large"),
            max_workers=1,
            price_usd_per_h=9.0,
        ),
    )

    stall = market(Policy(node_types=kinds, head_node_type="head"), (), catalogue)

    assert sorted(offer.key.machine_type for offer in stall.offers) == ["c5.large", "m5.large"]
    assert {offer.price_usd_per_h for offer in stall.offers} == {0.096, 0.085}, "a type's own price stays its own"


def test_asking_for_machines_finds_the_cheapest_first(tmp_path: Path) -> None:
    wish = Wish(providers=("gcp",), region="us-central1", markets=("on-demand",), gpu=1, usd_per_h_most=1.0)

    rows, notes = found(wish, tmp_path)

    prices = [row["usd_per_h"] for row in rows]
    assert prices == sorted(prices)
    assert all(row["gpu"] >= 1 and row["usd_per_h"] <= 1.0 for row in rows)
    assert notes == ["gcp: shipped, list prices as of 2026-08"]


def test_asking_for_a_misspelt_type_names_the_near_ones(tmp_path: Path) -> None:
    rows, notes = found(Wish(name="m5.lrge", providers=("aws",), markets=("on-demand",)), tmp_path)

    assert rows == []
    assert "`m5.large`" in notes[-1]


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    table = table_of(
        [Price("r2", "b", "spot", 0.1), Price("r1", "a", "on-demand", 2.5), Price("r1", "a", "on-demand", 2.0)],
        as_of="2026-01-01",
        source="here",
    )
    path = tmp_path / "t.csv.gz"

    write_prices(path, table)
    first = path.read_bytes()
    write_prices(path, table)

    assert path.read_bytes() == first, "the same table gives the same bytes"
    assert read_prices(path) == table
    assert table.price("r1", "a", "on-demand") == 2.0
    assert table.price("r2", "a", "on-demand") is None
    assert list(tmp_path.iterdir()) == [path], "no part file is left behind"
