"""Readers of the clouds' price lists, on recorded samples that a server on loopback gives out."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.foundation.errors import BadInput, UserError
from shoal.providers.prices import refresh as module
from shoal.providers.prices.catalogue import Catalogue
from shoal.providers.prices.refresh import refresh

Answer = Callable[[str], tuple[int, bytes]]

AWS_REMARKS = '"FormatVersion","v1.0"\n"Disclaimer","..."\n"Publication Date","2026-09-01"\n"Version","1"\n'
AWS_HEAD = (
    '"SKU","TermType","Unit","PricePerUnit","Currency","Instance Type","vCPU","Physical Processor","Memory",'
    '"Operating System","Tenancy","CapacityStatus","Pre Installed S/W","GPU"\n'
)
AWS_ROWS = (
    '"A","OnDemand","Hrs","0.1010000000","USD","m5.large","2","Intel Xeon","8 GiB","Linux","Shared","Used","NA",""\n'
    '"B","OnDemand","Hrs","0.5","USD","m5.large","2","Intel Xeon","8 GiB","Windows","Shared","Used","NA",""\n'
    '"C","Reserved","Hrs","0.01","USD","m5.large","2","Intel Xeon","8 GiB","Linux","Shared","Used","NA",""\n'
    '"D","OnDemand","Hrs","0.0000000000","USD","c5.large","2","Intel Xeon","4 GiB","Linux","Shared","Used","NA",""\n'
    '"E","OnDemand","Hrs","0.08","USD","m9g.large","2","AWS Graviton9","8 GiB","Linux","Shared","Used","NA",""\n'
    '"F","OnDemand","Hrs","1.1","USD","g6.xlarge","4","AMD EPYC","16 GiB","Linux","Shared","Used","NA","1"\n'
    '"G","OnDemand","Hrs","free","USD","x.large","4","AMD EPYC","16 GiB","Linux","Shared","Used","NA","1"\n'
)


class Server:
    """A price list on loopback; `asked` holds the paths."""

    def __init__(self, answer: Answer) -> None:
        asked = self.asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, body = answer(self.path)
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_ec2_list_gives_linux_on_demand_prices_and_sizes(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda path: (200, (AWS_REMARKS + AWS_HEAD + AWS_ROWS).encode()))

    done = refresh("aws", "us-east-1", cache=tmp_path, base=server.base)

    catalogue = Catalogue(tmp_path)
    assert server.asked == ["/offers/v1.0/aws/AmazonEC2/current/us-east-1/index.csv"]
    assert done.prices == 3
    assert catalogue.quote("aws", "us-east-1", "m5.large").usd_per_h == 0.101
    assert catalogue.quote("aws", "us-east-1", "c5.large").source == "shipped", "a price of 0 is no price"
    spec = catalogue.spec("aws", "m9g.large")
    assert spec is not None
    assert (spec.arch, spec.vcpus, spec.memory_gib) == ("arm64", 2, 8.0)
    gpu = catalogue.spec("aws", "g6.xlarge")
    assert gpu is not None
    assert gpu.gpu_model == "L4", "the list does not name GPUs, so the shipped table's hardware stays"


def _azure_item(name: str, price: float, **more: object) -> dict[str, object]:
    return {
        "currencyCode": "USD",
        "retailPrice": price,
        "armRegionName": "eastus",
        "armSkuName": name,
        "productName": "Virtual Machines Dsv5 Series",
        "skuName": name,
        "type": "Consumption",
        "unitOfMeasure": "1 Hour",
        **more,
    }


def test_azure_pages_are_followed_and_windows_and_low_priority_left_out(
    tmp_path: Path, serve: Callable[[Answer], Server]
) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        if "skip=1" in path:
            items = [
                _azure_item("Standard_D4s_v5", 0.05, skuName="Standard_D4s_v5 Spot"),
                _azure_item("Standard_D4s_v5", 0.02, skuName="Standard_D4s_v5 Low Priority"),
            ]
            return 200, json.dumps({"Items": items, "NextPageLink": None}).encode()
        items = [
            _azure_item("Standard_D4s_v5", 0.199),
            _azure_item("Standard_D4s_v5", 0.4, productName="Virtual Machines Dsv5 Series Windows"),
            _azure_item("Standard_D4s_v5", 0.01, armRegionName="westus"),
        ]
        return 200, json.dumps({"Items": items, "NextPageLink": f"{server.base}/api/retail/prices?skip=1"}).encode()

    server = serve(answer)

    refresh("azure", "eastus", cache=tmp_path, base=server.base)

    catalogue = Catalogue(tmp_path)
    assert len(server.asked) == 2
    assert catalogue.quote("azure", "eastus", "Standard_D4s_v5").usd_per_h == 0.199
    assert catalogue.quote("azure", "eastus", "Standard_D4s_v5", "spot").usd_per_h == 0.05


def test_a_next_page_on_another_host_is_not_followed(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    page = {"Items": [_azure_item("Standard_D4s_v5", 0.1)], "NextPageLink": "http://169.254.169.254/latest"}
    server = serve(lambda path: (200, json.dumps(page).encode()))

    with pytest.raises(UserError, match="same host"):
        refresh("azure", "eastus", cache=tmp_path, base=server.base)

    assert not list(tmp_path.rglob("*.gz"))


def _gcp_item(description: str, nanos: int, unit: str = "h", usage: str = "OnDemand") -> dict[str, object]:
    return {
        "description": description,
        "category": {"resourceFamily": "Compute", "usageType": usage},
        "serviceRegions": ["us-central1"],
        "pricingInfo": [
            {
                "pricingExpression": {
                    "usageUnit": unit,
                    "tieredRates": [{"unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos}}],
                }
            }
        ],
    }


def test_compute_engine_prices_are_the_sum_of_their_parts(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    first = [
        _gcp_item("N2 Instance Core running in Americas", 30_000_000),
        _gcp_item("N2 Instance Ram running in Americas", 4_000_000, "GiBy.h"),
        _gcp_item("Commitment v1: N2 Cpu in Americas for 1 Year", 1_000_000),
        _gcp_item("G2 Instance Core running in Americas", 25_000_000),
        _gcp_item("G2 Instance Ram running in Americas", 3_000_000, "GiBy.h"),
    ]
    second = [_gcp_item("Nvidia L4 GPU running in Americas", 560_000_000)]

    def answer(path: str) -> tuple[int, bytes]:
        assert "key=k1" in path
        if "pageToken=t2" in path:
            return 200, json.dumps({"skus": second}).encode()
        return 200, json.dumps({"skus": first, "nextPageToken": "t2"}).encode()

    server = serve(answer)

    refresh("gcp", "us-central1", cache=tmp_path, base=server.base, key="k1")

    catalogue = Catalogue(tmp_path)
    assert catalogue.quote("gcp", "us-central1", "n2-standard-4").usd_per_h == pytest.approx(4 * 0.03 + 16 * 0.004)
    assert catalogue.quote("gcp", "us-central1", "g2-standard-4").usd_per_h == pytest.approx(
        4 * 0.025 + 16 * 0.003 + 0.56
    )
    assert catalogue.quote("gcp", "us-central1", "e2-standard-4").source == "shipped", "its parts were not listed"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b"", "HTTP status 500"),
        (302, b"", "HTTP status 302"),
        (200, b"<html>", "expected JSON"),
        (200, b"[1]", "expected a JSON object"),
        (200, b'{"Items": 5}', "expected a list `Items`"),
        (200, b'{"Items": []}', "no machine in `eastus`"),
        (200, b"[" * 200_000, "expected JSON"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line_and_leaves_the_cache_alone(
    tmp_path: Path, serve: Callable[[Answer], Server], status: int, body: bytes, said: str
) -> None:
    server = serve(lambda path: (status, body))

    with pytest.raises(UserError, match=said) as caught:
        refresh("azure", "eastus", cache=tmp_path, base=server.base)

    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.gz"))


def test_a_list_without_the_columns_is_refused(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda path: (200, b"a,b\n1,2\n" * 30))

    with pytest.raises(UserError, match="expected a column"):
        refresh("aws", "us-east-1", cache=tmp_path, base=server.base)


def test_a_list_larger_than_the_limit_is_refused(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES_MAX", 100)
    server = serve(lambda path: (200, b"x" * 1000))

    with pytest.raises(UserError, match="at most 100 B"):
        refresh("azure", "eastus", cache=tmp_path, base=server.base)


def test_a_list_that_never_ends_stops_at_the_deadline(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        page = {"Items": [_azure_item("Standard_D4s_v5", 0.1)], "NextPageLink": f"{server.base}/again"}
        return 200, json.dumps(page).encode()

    server = serve(answer)

    with pytest.raises(UserError, match=r"within the deadline|at most 500 pages"):
        refresh("azure", "eastus", cache=tmp_path, base=server.base, deadline_s=0.2)


def test_nobody_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"):
        refresh("azure", "eastus", cache=tmp_path, base="http://127.0.0.1:1")


@pytest.mark.parametrize(("provider", "region"), [("aws", "../../etc"), ("aws", ""), ("ibm", "us-east")])
def test_strange_names_are_refused_before_anything_is_asked(tmp_path: Path, provider: str, region: str) -> None:
    with pytest.raises(BadInput):
        refresh(provider, region, cache=tmp_path, base="http://127.0.0.1:1")


def test_compute_engine_without_a_key_says_where_to_put_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="API key") as caught:
        refresh("gcp", "us-central1", cache=tmp_path, base="http://127.0.0.1:1")

    assert "SHOAL_GCP_API_KEY" in caught.value.hint
