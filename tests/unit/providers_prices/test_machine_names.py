"""Specifications from names, held against what the vendors document of these very types."""

from __future__ import annotations

import pytest

from shoal.providers.prices.catalogue import Catalogue
from shoal.providers.prices.machine_names import azure_spec, gcp_spec


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gib", "gpus", "model", "arch"),
    [
        ("n1-standard-4", 4, 15.0, 0, "", "amd64"),
        ("n1-highmem-8", 8, 52.0, 0, "", "amd64"),
        ("n2-highcpu-16", 16, 16.0, 0, "", "amd64"),
        ("c4-standard-8", 8, 30.0, 0, "", "amd64"),
        ("c4a-highmem-8-lssd", 8, 64.0, 0, "", "arm64"),
        ("c4d-highmem-8", 8, 63.0, 0, "", "amd64"),
        ("t2a-standard-8", 8, 32.0, 0, "", "arm64"),
        ("g2-standard-32", 32, 128.0, 1, "L4", "amd64"),
        ("g2-standard-48", 48, 192.0, 4, "L4", "amd64"),
        ("a2-highgpu-4g", 48, 340.0, 4, "A100", "amd64"),
        ("a3-highgpu-8g", 208, 1872.0, 8, "H100", "amd64"),
        ("e2-small", 2, 2.0, 0, "", "amd64"),
    ],
)
def test_compute_engine_names_say_what_google_documents(
    name: str, vcpus: int, memory_gib: float, gpus: int, model: str, arch: str
) -> None:
    spec = gcp_spec(name)

    assert spec is not None
    assert (spec.vcpus, spec.memory_gib, spec.gpus, spec.gpu_model, spec.arch) == (vcpus, memory_gib, gpus, model, arch)


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gib", "arch"),
    [
        ("Standard_D4s_v5", 4, 16.0, "amd64"),
        ("Standard_D4ls_v5", 4, 8.0, "amd64"),
        ("Standard_D4ps_v5", 4, 16.0, "arm64"),
        ("Standard_D64ps_v5", 64, 208.0, "arm64"),
        ("Standard_E16ads_v5", 16, 128.0, "amd64"),
        ("Standard_E16-4ads_v5", 4, 128.0, "amd64"),
        ("Standard_E64_v3", 64, 432.0, "amd64"),
        ("Standard_F8s_v2", 8, 16.0, "amd64"),
        ("Standard_F8ams_v6", 8, 64.0, "amd64"),
        ("Standard_DS13_v2", 8, 56.0, "amd64"),
        ("Standard_B12ms", 12, 48.0, "amd64"),
        ("Standard_B16as_v2", 16, 64.0, "amd64"),
        ("Standard_B2ats_v2", 2, 1.0, "amd64"),
        ("Standard_L8s_v3", 8, 64.0, "amd64"),
        ("Standard_A8m_v2", 8, 64.0, "amd64"),
    ],
)
def test_azure_names_say_what_microsoft_documents(name: str, vcpus: int, memory_gib: float, arch: str) -> None:
    spec = azure_spec(name)

    assert spec is not None
    assert (spec.vcpus, spec.memory_gib, spec.arch) == (vcpus, memory_gib, arch)


@pytest.mark.parametrize("name", ["", "Standard_M128s", "n2-", "c4n-standard-4", "Standard_E192is_v6", "x" * 10_000])
def test_a_name_without_a_rule_is_not_guessed(name: str) -> None:
    assert gcp_spec(name) is None
    assert azure_spec(name) is None


@pytest.mark.parametrize(("provider", "least"), [("aws", 0.95), ("gcp", 0.9), ("azure", 0.65)])
def test_most_types_of_the_shipped_tables_have_a_size(provider: str, least: float) -> None:
    catalogue = Catalogue()
    region = {"aws": "us-east-1", "gcp": "us-central1", "azure": "eastus"}[provider]
    names = catalogue.types(provider, region)

    known = sum(1 for name in names if catalogue.spec(provider, name) is not None)

    assert len(names) > 300
    assert known / len(names) >= least
