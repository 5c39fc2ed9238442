"""Cluster files as Ray's users write them: what is bought stays the same, what differs is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config.diagnostics import ConfigErrors
from shoal.config.load import Loaded, loaded
from shoal.config.source import decode
from shoal.foundation.amounts import amounts

AWS_BEFORE_NODE_TYPES = """
cluster_name: default
min_workers: 1
max_workers: 2
idle_timeout_minutes: 5
docker: {image: "", container_name: "", run_options: []}
provider:
    type: aws
    region: us-west-2
    availability_zone: us-west-2a, us-west-2b
auth: {ssh_user: ubuntu}
head_node:
    InstanceType: m5.large
    BlockDeviceMappings:
        - {DeviceName: /dev/sda1, Ebs: {VolumeSize: 100}}
worker_nodes:
    InstanceType: m5.xlarge
    InstanceMarketOptions: {MarketType: spot}
file_mounts: {
#    "/there": "/here",
}
initialization_commands: []
setup_commands:
    - echo 'export PATH="$HOME/bin:$PATH"' >> ~/.bashrc
head_setup_commands: [pip install boto3]
worker_setup_commands: []
head_start_ray_commands:
    - ray stop
    - ulimit -n 65536; ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml
worker_start_ray_commands:
    - ray stop
"""

AWS = """
cluster_name: full
max_workers: 2
upscaling_speed: 1.0
docker:
    image: "rayproject/ray:latest"
    container_name: "ray_container"
    pull_before_run: True
    run_options: ["--ulimit nofile=65536:65536"]
idle_timeout_minutes: 5
provider:
    type: aws
    region: us-west-2
    availability_zone: us-west-2a,us-west-2b
    cache_stopped_nodes: False
    security_group:
        GroupName: ray_client_security_group
        IpPermissions:
            - {FromPort: 10001, ToPort: 10001, IpProtocol: TCP, IpRanges: [{CidrIp: 203.0.113.0/24}]}
auth:
    ssh_user: ubuntu
available_node_types:
    ray.head.default:
        resources: {}
        node_config:
            LaunchTemplate: {LaunchTemplateId: lt-0, Version: $Latest}
            InstanceType: m5.large
    ray.worker.default:
        min_workers: 1
        max_workers: 2
        resources: {"CPU": 4, "special": 2.5}
        labels: {"ray.io/region": us-west-2}
        idle_timeout_s: 120
        priority: 3
        node_config:
            InstanceType: m5.xlarge
            InstanceMarketOptions: {MarketType: spot}
head_node_type: ray.head.default
file_mounts: {"~/a": "./a"}
cluster_synced_files: []
file_mounts_sync_continuously: False
rsync_exclude: ["**/.git"]
rsync_filter: [".gitignore"]
metadata: {owner: {team: a}, released: 2024-01-01}
initialization_commands: []
setup_commands: [a]
head_setup_commands: [b]
worker_setup_commands: [c]
head_start_ray_commands: []
worker_start_ray_commands: []
"""

GCP = """
cluster_name: gpu-docker
max_workers: 2
upscaling_speed: 1.0
idle_timeout_minutes: 5
provider:
    type: gcp
    region: us-west1
    availability_zone: us-west1-b
    project_id: mine
auth: {ssh_user: ubuntu}
available_node_types:
    ray_head_gpu:
        resources: {"CPU": 0}
        node_config:
            machineType: zones/us-west1-b/machineTypes/n1-standard-2
            disks:
              - boot: true
                initializeParams: {diskSizeGb: 50}
            scheduling:
              - onHostMaintenance: TERMINATE
    ray_worker_gpu:
        max_workers: 2
        resources: {"CPU": 2, "GPU": 1}
        node_config:
            machineType: n1-standard-2
            guestAccelerators: [{acceleratorType: nvidia-tesla-t4, acceleratorCount: 1}]
            scheduling:
              - preemptible: true
              - onHostMaintenance: TERMINATE
    ray_tpu:
        resources: {"TPU": 1}
        node_config: {acceleratorType: v4-16, runtimeVersion: tpu-vm-v4-base}
head_node_type: ray_head_gpu
initialization_commands:
    - >-
      timeout 300 bash -c "
          until [ \\$? -eq 0 ]; do nvidia-smi; done"
"""

AZURE = """
cluster_name: default
provider:
    type: azure
    location: westus2
    resource_group: ray-cluster
    availability_zone: "auto"
auth: {ssh_user: ubuntu, ssh_private_key: ~/.ssh/id_rsa, ssh_public_key: ~/.ssh/id_rsa.pub}
available_node_types:
    ray.head.default:
        resources: {"CPU": 2}
        node_config: {azure_arm_parameters: {vmSize: Standard_D2s_v3, imageVersion: latest}}
    ray.worker.default:
        min_workers: 0
        max_workers: 2
        resources: {"CPU": 2}
        node_config:
            azure_arm_parameters: {vmSize: Standard_D4s_v3, priority: Spot, billingProfile: {maxPrice: -1}}
head_node_type: ray.head.default
"""

ON_PREMISES = """
cluster_name: default
docker: {image: "", container_name: ""}
provider:
    type: local
    head_ip: head.example
    worker_ips: [one.example, two.example, three.example]
auth: {ssh_user: me, ssh_private_key: ~/.ssh/id_rsa}
min_workers: 1
max_workers: 2
head_node: {}
worker_nodes: {}
"""

FAKE = """
cluster_name: fake_multinode
max_workers: 8
provider: {type: fake_multinode, use_node_id_as_ip: True, disable_node_updaters: True}
available_node_types:
    ray.head.default: {resources: {CPU: 8, GPU: 0}, node_config: {}, max_workers: 0}
    ray.worker.cpu: {resources: {CPU: 1, object_store_memory: 1000000000}, node_config: {}, min_workers: 2}
head_node_type: ray.head.default
auth: {}
docker: {}
idle_timeout_minutes: 0.1
setup_commands: []
"""


def read(text: str) -> Loaded:
    return loaded(decode(text.encode(), "ray.yaml"), Path("ray.yaml"))


def keys_warned(result: Loaded) -> set[str]:
    return {warning.path for warning in result.warnings}


def test_file_from_before_node_types_buys_the_same_machines() -> None:
    result = read(AWS_BEFORE_NODE_TYPES)

    head, worker = result.policy.node_types
    assert (head.name, head.machine_types, head.max_workers) == ("ray.head.default", ("m5.large",), 0)
    assert (worker.machine_types, worker.markets, worker.min_workers) == (("m5.xlarge",), ("spot",), 1)
    assert worker.max_workers == 2
    assert worker.zones == ("us-west-2a", "us-west-2b")
    assert head.setup[-1] == "pip install boto3"
    assert keys_warned(result) == {
        "head_node",
        "worker_nodes",
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "provider.type",
    }


def test_aws_file_is_taken_as_it_is() -> None:
    result = read(AWS)

    head, worker = result.policy.node_types
    assert head.machine_types == ("m5.large",)
    assert head.setup == ("a", "b")
    assert worker.setup == ("a", "c")
    assert worker.resources == amounts({"CPU": 4, "special": 2.5})
    assert (worker.idle_timeout_s, worker.priority, worker.markets) == (120.0, 3, ("spot",))
    assert worker.labels == {"ray.io/region": "us-west-2"}
    assert result.policy.upscaling_speed == 1.0
    assert result.policy.idle_timeout_s == 300.0
    assert result.config.metadata["released"] == "2024-01-01"
    assert keys_warned(result) == {"provider.type"}


def test_gcp_file_is_taken_as_it_is() -> None:
    result = read(GCP)

    head, worker, tpu = result.policy.node_types
    assert head.machine_types == ("n1-standard-2",)
    assert head.resources == {"CPU": 0}
    assert head.markets == ("on-demand",)
    assert worker.markets == ("spot",)
    assert tpu.machine_types == ()
    assert tpu.max_workers == 2


def test_azure_file_is_taken_as_it_is() -> None:
    head, worker = read(AZURE).policy.node_types

    assert head.regions == ("westus2",)
    assert head.zones == ()
    assert (worker.machine_types, worker.markets) == (("Standard_D4s_v3",), ("spot",))


def test_on_premises_file_becomes_ssh_and_says_so() -> None:
    result = read(ON_PREMISES)

    head, worker = result.policy.node_types
    assert result.providers[0].kind == "ssh"
    assert (head.name, head.max_workers) == (result.policy.head_node_type, 0)
    assert (worker.min_workers, worker.max_workers, result.policy.max_workers) == (1, 2, 2)
    assert any("taken as `type: ssh`" in warning.hint for warning in result.warnings)


def test_on_premises_file_without_counts_keeps_every_host() -> None:
    text = ON_PREMISES.replace("min_workers: 1\n", "").replace("max_workers: 2\n", "")

    worker = read(text).policy.node_types[1]

    assert (worker.min_workers, worker.max_workers) == (3, 3)


def test_fake_multinode_becomes_local_and_says_so() -> None:
    result = read(FAKE)

    assert result.providers[0].kind == "local"
    assert result.policy.idle_timeout_s == pytest.approx(6)
    assert result.policy.node_types[1].min_workers == 2
    assert keys_warned(result) == {"provider.type", "provider.use_node_id_as_ip", "provider.disable_node_updaters"}


@pytest.mark.parametrize("key", ["regoin", "securty_group", "cache_stoped_nodes"])
def test_misspelt_provider_key_is_no_longer_accepted(key: str) -> None:
    with pytest.raises(ConfigErrors, match=f"provider.{key}: expected a known key"):
        read(AWS.replace("    cache_stopped_nodes: False\n", f"    {key}: x\n"))


def test_stopping_machines_is_refused_since_it_changes_what_is_billed() -> None:
    with pytest.raises(ConfigErrors, match="cache_stopped_nodes: expected `false`, got `true`"):
        read(AWS.replace("cache_stopped_nodes: False", "cache_stopped_nodes: True"))


AZURE_ZONES = """
cluster_name: zones
max_workers: 6
provider: {type: azure, location: westus2, resource_group: r, availability_zone: "1,2,3"}
available_node_types:
    head: {resources: {CPU: 2}, node_config: {azure_arm_parameters: {vmSize: Standard_D2s_v3, availability_zone: none}}}
    any: {resources: {CPU: 2}, node_config: {azure_arm_parameters: {vmSize: Standard_D2s_v3}}}
    second: {resources: {CPU: 2}, node_config: {azure_arm_parameters: {vmSize: Standard_D2s_v3, availability_zone: 2}}}
head_node_type: head
"""


def test_zones_in_azures_body_hold_over_the_providers() -> None:
    zones = {kind.name: kind.zones for kind in read(AZURE_ZONES).policy.node_types}

    assert zones == {"head": (), "any": ("1", "2", "3"), "second": ("2",)}


PODS = """
cluster_name: pods
max_workers: 3
provider: {type: kubernetes, namespace: ray}
head_node_type: head
available_node_types:
    head:
        node_config: {kind: Pod, spec: {containers: [{name: ray, resources: {requests: {cpu: 1500m, memory: 512Mi}}}]}}
    gpu:
        max_workers: 2
        node_config:
            template:
                spec:
                    containers:
                      - resources:
                          limits: {cpu: 4, memory: 8Gi, nvidia.com/gpu: 2, ephemeral-storage: 10Gi}
                          requests: {cpu: 1, memory: 1Gi}
                      - resources: {limits: {cpu: 64}}
    written:
        resources: {CPU: 1}
        node_config: {spec: {containers: [{resources: {limits: {cpu: 9}}}]}}
"""


def test_pods_are_as_large_as_their_first_container_unless_the_file_says_otherwise() -> None:
    found = {kind.name: kind.resources for kind in read(PODS).policy.node_types}

    assert found == {
        "head": amounts({"CPU": 1.5, "memory": 512 * 2**20}),
        "gpu": amounts({"CPU": 4, "GPU": 2, "memory": 8 * 2**30}),
        "written": amounts({"CPU": 1}),
    }


def test_what_resources_leave_out_is_as_the_machine_has_it_and_zeros_hold() -> None:
    """Ray finds CPUs and memory of cloud machines itself and lets the file add or overrule names."""
    text = AWS.replace('{"CPU": 4, "special": 2.5}', '{"GPU": 0, "special": 2.5}')
    worker = read(text).policy.node_types[1]
    sold = amounts({"CPU": 8, "GPU": 1, "memory": 2**34})

    assert worker.on(sold) == amounts({"CPU": 8, "memory": 2**34, "special": 2.5})
    assert read(text).policy.node_types[0].on(sold) == sold
