"""Every key of Ray's cluster files, provider by provider: kept, warned about or refused, and never in silence.

The rule: what changes what is bought, exposed or who may enter is kept or an error; what changes only how machines are
set up is kept or a warning. Both name the key and say what to write instead.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml

from shoal.config.diagnostics import ConfigErrors, Diagnostic, Level
from shoal.config.load import Loaded, loaded
from shoal.config.schema import Cluster
from shoal.config.source import decode

KEPT, WARNED, ERROR, SAME = "kept", "warned", "error", "same"
"""`SAME`: nothing to say, since the value asks for what happens anyway."""


def _file(provider: dict[str, Any], head: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    return {
        "cluster_name": "keys",
        "max_workers": 2,
        "provider": provider,
        "head_node_type": "head",
        "available_node_types": {"head": head, "w": {"max_workers": 2, **worker}},
    }


BASES: dict[str, dict[str, Any]] = {
    "aws": _file(
        {"type": "aws", "region": "us-west-2"},
        {"node_config": {"InstanceType": "m5.large"}},
        {"node_config": {"InstanceType": "m5.xlarge"}},
    ),
    "gcp": _file(
        {"type": "gcp", "region": "us-west1", "project_id": "mine"},
        {"node_config": {"machineType": "n1-standard-2"}},
        {"node_config": {"machineType": "n1-standard-4"}},
    ),
    "azure": _file(
        {"type": "azure", "location": "westus2", "resource_group": "mine"},
        {"node_config": {"azure_arm_parameters": {"vmSize": "Standard_D2s_v3"}}},
        {"node_config": {"azure_arm_parameters": {"vmSize": "Standard_D4s_v3"}}},
    ),
    "kubernetes": _file({"type": "kubernetes"}, {"resources": {"CPU": 1}}, {"resources": {"CPU": 2}}),
    "local": _file({"type": "local"}, {"resources": {"CPU": 1}}, {"resources": {"CPU": 2}}),
    # What Ray calls `local`, with the file as Ray wants it: no node types.
    "ssh": {"cluster_name": "keys", "provider": {"type": "local", "head_ip": "h.example", "worker_ips": ["a", "b"]}},
}


class Row(NamedTuple):
    """A key with a value that is not its default, and what becomes of it. `says` stands in the message or hint."""

    bases: str
    key: str
    value: Any
    outcome: str
    says: str = ""


CLOUD = "aws gcp azure"
REMOTE = "aws gcp azure kubernetes ssh"
ALL = "aws gcp azure kubernetes local ssh"
TYPED = "aws gcp azure kubernetes local"

ROWS = [
    # 1.1 top level
    Row(ALL, "cluster_name", "other", KEPT),
    Row(TYPED, "max_workers", 1, KEPT),
    Row("ssh", "max_workers", 1, KEPT),
    Row(ALL, "upscaling_speed", 1.0, KEPT),
    Row(ALL, "idle_timeout_minutes", 7.5, KEPT),
    Row(ALL, "metadata", {"a": [1, {"b": None}]}, KEPT),
    Row(TYPED, "head_node_type", "w", KEPT),
    Row("ssh", "head_node_type", "x", ERROR, "available_node_types"),
    Row(TYPED, "min_workers", 1, WARNED, "write it there"),
    Row("ssh", "min_workers", 1, KEPT),
    Row(TYPED, "head_node", {"InstanceType": "m5.large"}, ERROR, "`node_config`"),
    Row("ssh", "head_node", {"InstanceType": "m5.large"}, ERROR, "under `provider`"),
    Row(TYPED, "worker_nodes", {"InstanceType": "m5.large"}, ERROR, "`node_config`"),
    Row("ssh", "worker_nodes", {"InstanceType": "m5.large"}, ERROR, "under `provider`"),
    Row(ALL, "head_node", {}, SAME),
    Row(ALL, "worker_nodes", {}, SAME),
    Row(TYPED, "worker_default_node_type", "w", WARNED, "cheapest"),
    Row(TYPED, "worker_default_node_type", "x", ERROR, "available_node_types"),
    Row(REMOTE, "file_mounts", {"~/a": "./a"}, KEPT),
    Row(REMOTE, "cluster_synced_files", ["~/b"], KEPT),
    Row(REMOTE, "rsync_exclude", ["**/.git"], KEPT),
    Row(REMOTE, "rsync_filter", [".gitignore"], KEPT),
    Row(REMOTE, "initialization_commands", ["a"], KEPT),
    Row(REMOTE, "setup_commands", ["a"], KEPT),
    Row(REMOTE, "head_setup_commands", ["a"], KEPT),
    Row(REMOTE, "worker_setup_commands", ["a"], KEPT),
    *(
        Row("local", key, value, WARNED, "use what is installed")
        for key, value in {
            "file_mounts": {"~/a": "./a"},
            "cluster_synced_files": ["~/b"],
            "rsync_exclude": ["**/.git"],
            "rsync_filter": [".gitignore"],
            "initialization_commands": ["a"],
            "setup_commands": ["a"],
            "head_setup_commands": ["a"],
            "worker_setup_commands": ["a"],
            "auth": {"ssh_user": "me"},
            "docker": {"image": "i", "container_name": "c"},
        }.items()
    ),
    Row(ALL, "file_mounts_sync_continuously", True, WARNED, "rsync-up"),
    Row(ALL, "head_start_ray_commands", ["ray start --head"], WARNED, "setup_commands"),
    Row(ALL, "worker_start_ray_commands", ["ray start"], WARNED, "setup_commands"),
    Row(ALL, "no_restart", True, WARNED, "shoal up --no-restart"),
    Row(ALL, "autoscaling_mode", "default", ERROR, "upscaling_speed"),
    Row(ALL, "target_utilization_fraction", 0.8, ERROR, "what waits"),
    Row(ALL, "initial_workers", 1, ERROR, "min_workers"),
    # 1.2 auth
    Row(REMOTE, "auth.ssh_user", "me", KEPT),
    Row("aws gcp kubernetes ssh", "auth.ssh_private_key", "~/.ssh/k", KEPT),
    Row("aws gcp kubernetes ssh", "auth.ssh_public_key", "~/.ssh/k.pub", KEPT),
    Row("azure", "auth", {"ssh_private_key": "~/.ssh/k", "ssh_public_key": "~/.ssh/k.pub"}, KEPT),
    Row("azure", "auth.ssh_private_key", "~/.ssh/k", ERROR, "both keys or neither"),
    Row("azure", "auth.ssh_public_key", "~/.ssh/k.pub", ERROR, "both keys or neither"),
    Row(REMOTE, "auth.ssh_proxy_command", "nc %h %p", KEPT),
    Row(REMOTE, "auth.ssh_proxy_use_node_id", True, ERROR, "ssh_proxy_command"),
    Row(REMOTE, "auth", {"ssh_proxy_use_node_id": True, "ssh_proxy_command": "ssm %h"}, KEPT),
    # 1.3 docker
    Row(REMOTE, "docker", {"image": "i", "container_name": "c"}, KEPT),
    Row(REMOTE, "docker.image", "i", ERROR, "container_name"),
    Row(REMOTE, "docker.container_name", "c", ERROR, "image"),
    *(
        Row(REMOTE, f"docker.{key}", value, KEPT)
        for key, value in {
            "pull_before_run": False,
            "run_options": ["--ipc=host"],
            "head_run_options": ["--ipc=host"],
            "worker_run_options": ["--ipc=host"],
            "disable_automatic_runtime_detection": True,
            "disable_shm_size_detection": True,
            "use_podman": True,
        }.items()
    ),
    Row(REMOTE, "docker", {"head_image": "i", "container_name": "c"}, KEPT),
    Row(REMOTE, "docker", {"worker_image": "i", "container_name": "c"}, KEPT),
    Row(REMOTE, "docker.pull", True, ERROR, "pull_before_run"),
    # 1.3b node types
    Row(TYPED, "w.resources", {"CPU": 3, "special": 0.5}, KEPT),
    Row(TYPED, "w.min_workers", 1, KEPT),
    Row(TYPED, "w.max_workers", 1, KEPT),
    Row(TYPED, "w.idle_timeout_s", 33, KEPT),
    Row(TYPED, "w.priority", 3, KEPT),
    Row(TYPED, "w.labels", {"a/b": "c"}, KEPT),
    Row(TYPED, "w.min_workers", 3, ERROR, "max_workers"),
    Row(TYPED, "w.min_workers", -1, ERROR, "at least 0"),
    Row(TYPED, "head.min_workers", 1, ERROR, "the head is there anyway"),
    *(
        row
        for key, value in {
            "w.initialization_commands": ["a"],
            "w.worker_setup_commands": ["a"],
            "w.docker": {"worker_run_options": ["--ipc=host"], "pull_before_run": False},
        }.items()
        for row in (Row(f"{CLOUD} kubernetes", key, value, KEPT), Row("local", key, value, WARNED, "installed"))
    ),
    Row(f"{CLOUD} kubernetes", "w.docker", {"worker_image": "i"}, ERROR, "container_name"),
    Row(TYPED, "w.docker.image", "i", ERROR, "worker_image"),
    Row("local", "w.node_config", {"InstanceType": "m5.large"}, ERROR, "nothing is bought there"),
    Row("ssh", "available_node_types", {"w": {"node_config": {}, "resources": {"CPU": 1}}}, ERROR, "head_node_type"),
    # 1.4 provider keys for several providers
    Row(REMOTE, "provider.use_internal_ips", True, KEPT),
    Row(REMOTE, "provider.use_external_head_ip", True, KEPT),
    Row("local", "provider.use_internal_ips", True, WARNED, "no other addresses"),
    Row("local", "provider.use_external_head_ip", True, WARNED, "no other addresses"),
    Row(ALL, "provider.cache_stopped_nodes", True, ERROR, "billed"),
    Row(ALL, "provider.cache_stopped_nodes", False, SAME),
    Row(ALL, "provider.disable_node_updaters", True, WARNED, "set themselves up"),
    Row(ALL, "provider.disable_launch_config_check", True, WARNED, "never ends a running machine"),
    Row(ALL, "provider.foreground_node_launch", True, WARNED, "never block"),
    Row(ALL, "provider.worker_liveness_check", False, WARNED, "watched"),
    Row(ALL, "provider._config_cache_path", "/tmp/x", WARNED, "leave it out"),
    Row(TYPED, "provider.regoin", "x", ERROR),
    # 1.5 AWS
    Row("aws", "provider.region", "us-east-1", KEPT),
    Row("aws", "provider.availability_zone", "us-west-2a, us-west-2b", KEPT),
    Row("aws", "provider.availability_zone", "eu-west-1a", ERROR, "us-west-2"),
    Row("aws", "provider.security_group", {"GroupName": "mine"}, KEPT),
    Row("aws", "provider.security_group.IpPermissions", [{"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}], KEPT),
    Row("aws", "provider.security_group.IpPermissions", [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}], WARNED, "everybody"),
    Row("aws", "provider.security_group.IpPermissions", [{"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}], WARNED, "everybody"),
    Row("aws", "provider.key_pair", {"key_name": "mine"}, KEPT),
    Row("aws", "provider.aws_credentials", {"aws_access_key_id": "x"}, WARNED, "AWS_PROFILE"),
    Row("aws", "provider.cloudwatch", {"agent": {"config": "x.json"}}, WARNED, "serves metrics"),
    Row("aws", "provider.subnet_id", "subnet-1", KEPT),
    Row("aws", "provider.tags", {"a": "b"}, KEPT),
    Row("aws", "w.node_config.InstanceType", "c5.large", KEPT),
    Row("aws", "w.node_config.InstanceMarketOptions", {"MarketType": "spot"}, KEPT),
    Row("aws", "w.node_config.Placement", {"AvailabilityZone": "us-west-2c"}, KEPT),
    Row("aws", "w.node_config.Placement.AvailabilityZone", "eu-west-1c", ERROR, "us-west-2"),
    Row("aws", "w.node_config.MinCount", 2, ERROR, "min_workers"),
    Row("aws", "w.node_config.MaxCount", 2, ERROR, "min_workers"),
    *(
        Row("aws", f"w.node_config.{key}", value, KEPT)
        for key, value in {
            "ImageId": "ami-1",
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 256}}],
            "LaunchTemplate": {"LaunchTemplateId": "lt-1"},
            "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-1"]}],
            "SubnetId": "subnet-1",
            "SubnetIds": ["subnet-1"],
            "SecurityGroupIds": ["sg-1"],
            "KeyName": "mine",
            "IamInstanceProfile": {"Name": "mine"},
            "TagSpecifications": [{"ResourceType": "instance", "Tags": []}],
        }.items()
    ),
    Row("gcp azure kubernetes local ssh", "provider.security_group", {"GroupName": "mine"}, ERROR, "aws"),
    Row("gcp azure kubernetes local ssh", "provider.key_pair", {"key_name": "mine"}, ERROR, "aws"),
    Row("gcp azure kubernetes local ssh", "provider.aws_credentials", {"a": "x"}, ERROR, "aws"),
    Row("gcp azure kubernetes local ssh", "provider.cloudwatch", {"agent": {}}, ERROR, "aws"),
    # 1.6 GCP
    Row("gcp", "provider.region", "us-east1", KEPT),
    Row("gcp", "provider.availability_zone", "us-west1-a,us-west1-b", KEPT),
    Row("gcp", "provider.availability_zone", "us-east1-b", ERROR, "us-west1"),
    Row("gcp", "provider.project_id", "other", KEPT),
    Row("gcp", "provider.project_id", None, ERROR, "needed"),
    Row("gcp", "provider.gcp_credentials", {"type": "service_account", "credentials": "{}"}, WARNED, "gcloud auth"),
    Row("gcp", "provider.gcp_credentials", {"type": "token"}, ERROR, "credentials_token"),
    Row("gcp", "w.node_config.machineType", "n2-standard-2", KEPT),
    *(
        Row("gcp", f"w.node_config.{key}", value, KEPT)
        for key, value in {
            "disks": [{"boot": True}],
            "scheduling": [{"preemptible": True}],
            "guestAccelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}],
            "networkInterfaces": [{"subnetwork": "x"}],
            "serviceAccounts": [{"email": "x"}],
            "sourceInstanceTemplate": "x",
            "metadata": {"items": []},
        }.items()
    ),
    Row("gcp", "w.node_config", {"acceleratorType": "v4-16", "runtimeVersion": "tpu-vm-v4-base"}, KEPT),
    Row("gcp", "w.node_config", {"acceleratorConfig": {"type": "V4"}, "schedulingConfig": {}}, KEPT),
    Row("aws azure kubernetes local ssh", "provider.project_id", "mine", ERROR, "gcp"),
    Row("aws azure kubernetes local ssh", "provider.gcp_credentials", {"type": "x"}, ERROR, "gcp"),
    # 1.7 Azure
    *(
        Row("azure", f"provider.{key}", value, KEPT)
        for key, value in {
            "location": "eastus",
            "resource_group": "other",
            "subscription_id": "x",
            "tags": {"a": "b"},
            "unique_id": "abcd",
            "subnet_mask": "10.1.0.0/16",
            "subnet_id": "x",
            "msi_name": "x",
            "msi_resource_group": "x",
            "msi_identity_id": "x",
            "msi_identity_principal_id": "x",
            "availability_zone": "1,2,3",
        }.items()
    ),
    *(
        Row("azure", f"w.node_config.azure_arm_parameters.{key}", value, KEPT)
        for key, value in {
            "vmSize": "Standard_D8s_v3",
            "imagePublisher": "x",
            "imageOffer": "x",
            "imageSku": "x",
            "imageVersion": "x",
            "imageId": "x",
            "priority": "Spot",
            "evictionPolicy": "Delete",
            "billingProfile": {"maxPrice": 0.1},
            "osDiskSize": 100,
            "availability_zone": "2",
            "adminUsername": "me",
            "publicKey": "x",
        }.items()
    ),
    Row("azure", "w.node_config.azure_arm_template", {"resources": []}, KEPT),
    Row("aws gcp kubernetes local ssh", "provider.location", "westus2", ERROR, "azure"),
    Row("aws gcp kubernetes local ssh", "provider.resource_group", "x", ERROR, "azure"),
    Row("aws gcp kubernetes local ssh", "provider.subscription_id", "x", ERROR, "azure"),
    Row("aws gcp kubernetes local ssh", "provider.msi_identity_id", "x", ERROR, "azure"),
    Row("aws gcp kubernetes local ssh", "provider.msi_identity_principal_id", "x", ERROR, "azure"),
    # 1.8 hosts by SSH, which Ray calls local
    Row("ssh", "provider.head_ip", "other.example", KEPT),
    Row("ssh", "provider.worker_ips", ["a", "b", "c"], KEPT),
    Row("ssh", "provider.worker_ips", ["a", "a"], ERROR, "each host once"),
    Row("ssh", "provider.external_head_ip", "x.example", KEPT),
    Row("ssh", "provider.coordinator_address", "x:1", ERROR, "no authentication"),
    Row("ssh", "provider.list_of_node_ips", ["a"], WARNED, "leave it out"),
    Row("ssh", "max_workers", 9, WARNED, "taken as 2"),
    Row("ssh", "min_workers", 9, WARNED, "taken as 2"),
    Row("aws gcp azure kubernetes", "provider.head_ip", "x", ERROR, "ssh"),
    Row("aws gcp azure kubernetes", "provider.worker_ips", ["x"], ERROR, "ssh"),
    # 1.9 nodes on this machine
    *(
        Row("local", "provider", {"type": "fake_multinode", key: value}, WARNED, "leave it out")
        for key, value in {
            "gcs_address": "x",
            "head_node_id": "f",
            "launch_multiple": True,
            "use_node_id_as_ip": True,
        }.items()
    ),
    # 1.10, 1.11: other providers, and Kubernetes
    *(
        Row("local", "provider", {"type": kind, **more}, ERROR, says)
        for kind, more, says in (
            ("vsphere", {"vsphere_config": {"credentials": {"user": "x"}}}, "type: ssh"),
            ("aliyun", {"region": "cn-x", "VpcId": "x"}, "type: ssh"),
            ("spark", {}, "Ray-on-Spark"),
            ("external", {"module": "a.B"}, "provider-contract"),
            ("fake_multinode_docker", {"shared_volume_dir": "/x", "env_vars": {}}, "type: local"),
            ("kuberay", {"namespace": "x"}, "type: kubernetes"),
            ("readonly", {}, "shoal start"),
        )
    ),
    Row("kubernetes", "provider.namespace", "mine", KEPT),
    Row("kubernetes", "provider.services", [{"kind": "Service"}], ERROR, "kubectl"),
    *(
        Row("kubernetes", f"provider.autoscaler_{key}", {"kind": "x"}, ERROR, "kubectl")
        for key in ("service_account", "role", "role_binding")
    ),
    Row("kubernetes", "w.node_config.spec", {"containers": [{"image": "x"}]}, KEPT),
    Row("kubernetes", "w.resources", {}, ERROR, "first container"),
    Row("aws gcp azure local ssh", "provider.namespace", "mine", ERROR, "kubernetes"),
    Row("aws gcp azure local ssh", "provider.autoscaler_role", {}, ERROR, "kubernetes"),
]

CASES = [(base, row) for row in ROWS for base in row.bases.split()]

# Of ray-schema.json of Ray 2.60 and ray.md's lists beyond it: what the rows above must cover.
RAY_KEYS = {
    "": "cluster_name max_workers upscaling_speed idle_timeout_minutes provider auth docker head_node_type file_mounts "
    "cluster_synced_files file_mounts_sync_continuously rsync_exclude rsync_filter metadata initialization_commands "
    "setup_commands head_setup_commands worker_setup_commands head_start_ray_commands worker_start_ray_commands "
    "no_restart available_node_types min_workers head_node worker_nodes worker_default_node_type autoscaling_mode "
    "target_utilization_fraction initial_workers",
    "auth": "ssh_user ssh_public_key ssh_private_key ssh_proxy_command ssh_proxy_use_node_id",
    "docker": "image container_name pull_before_run run_options head_image head_run_options worker_image "
    "worker_run_options disable_automatic_runtime_detection disable_shm_size_detection use_podman",
    "w": "node_config min_workers max_workers idle_timeout_s priority resources labels initialization_commands "
    "worker_setup_commands docker",
    "w.docker": "pull_before_run worker_image worker_run_options",
    "provider": "type region module head_ip worker_ips use_internal_ips use_external_head_ip namespace location "
    "resource_group tags subscription_id msi_identity_id msi_identity_principal_id subnet_id security_group "
    "autoscaler_service_account autoscaler_role autoscaler_role_binding cache_stopped_nodes availability_zone "
    "project_id disable_node_updaters disable_launch_config_check foreground_node_launch worker_liveness_check "
    "gcp_credentials cloudwatch key_pair aws_credentials unique_id subnet_mask msi_name msi_resource_group "
    "coordinator_address external_head_ip list_of_node_ips gcs_address head_node_id launch_multiple "
    "use_node_id_as_ip vsphere_config _config_cache_path",
}


def with_key(base: str, key: str, value: Any) -> str:
    """Return the base's file with the value at the dotted key; `w` and `head` are the node types."""
    data = copy.deepcopy(BASES[base])
    path = key.split(".")
    if path[0] in ("w", "head") and "available_node_types" in data:
        path = ["available_node_types", *path]
    place = data
    for part in path[:-1]:
        place = place.setdefault(part, {})
    place[path[-1]] = value
    return yaml.safe_dump(data, sort_keys=False)


def read(text: str) -> tuple[Loaded | None, list[Diagnostic]]:
    try:
        found = loaded(decode(text.encode(), "keys.yaml"), Path("keys.yaml"))
    except ConfigErrors as errors:
        return None, list(errors.diagnostics)
    return found, list(found.warnings)


def essence(found: Loaded) -> bytes:
    """Return everything that the file came to, but for its text."""
    return msgspec.json.encode((found.policy, found.providers)) + repr(found.config).encode()


@pytest.mark.parametrize("base", BASES)
def test_the_file_that_keys_are_added_to_can_be_used(base: str) -> None:
    found, said = read(yaml.safe_dump(BASES[base], sort_keys=False))

    assert found is not None
    assert {one.path for one in said} <= {"provider.type"}, "launching there is not possible yet, and nothing else"


@pytest.mark.parametrize(("base", "row"), CASES, ids=lambda it: it if isinstance(it, str) else f"{it.key}={it.value}")
def test_each_key_is_kept_or_told(base: str, row: Row) -> None:
    plain, before = read(yaml.safe_dump(BASES[base], sort_keys=False))
    found, said = read(with_key(base, row.key, row.value))
    assert plain is not None
    known = {(one.path, one.got) for one in before}
    told = [one for one in said if (one.path, one.got) not in known]

    if row.outcome in (KEPT, SAME):
        assert found is not None, told
        assert not told
        assert (essence(found) != essence(plain)) == (row.outcome == KEPT)
        return
    assert (found is None) == (row.outcome == ERROR), said
    wanted = Level.ERROR if row.outcome == ERROR else Level.WARNING
    about = [one for one in told if one.level is wanted and row.says in f"{one} {one.hint}"]
    assert about, [str(one) for one in told]
    last = row.key.split(".")[-1].split("[")[0]
    assert any(last in f"{one.path} {one.expected} {one.got}" for one in about), "it names the key"
    assert any(one.hint for one in about) or row.says, "it says what to write"


def test_the_rows_cover_every_key_that_ray_knows_and_every_one_that_is_called_rays_here() -> None:
    shown: dict[str, set[str]] = {section: set() for section in RAY_KEYS}
    for _, row in CASES:
        section, _, name = row.key.rpartition(".")
        shown.setdefault(section, set()).add(name)
        if isinstance(row.value, dict) and row.key in shown:
            shown[row.key] |= set(row.value)
    shown[""] |= {"provider", "auth", "docker", "available_node_types"}
    shown["provider"] |= {"type"}
    for section, keys in RAY_KEYS.items():
        assert set(keys.split()) <= shown[section], section

    ours = {
        name for name, field in Cluster.model_fields.items() if (field.json_schema_extra or {}).get("x-origin") == "Ray"
    }  # type: ignore[union-attr,operator]
    assert ours <= set(RAY_KEYS[""].split())
