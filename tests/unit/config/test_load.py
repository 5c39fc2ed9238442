"""Loading: the shipped examples, what the planner gets, and every way a path can be no usable file."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from shoal.config.diagnostics import ConfigErrors, Level
from shoal.config.load import load
from shoal.config.providers import KINDS, Faults
from shoal.config.schema import Cluster
from shoal.foundation.amounts import amounts
from shoal.foundation.errors import BadInput
from shoal.model.policy import Policy
from shoal.providers.sim.faults import Faults as SimulatedFaults

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_can_be_used(path: Path) -> None:
    result = load(path)

    assert result.policy.node_type(result.policy.head_node_type) is not None
    assert result.providers[0].kind == path.stem
    assert {warning.path for warning in result.warnings} <= {"provider.type"}
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_there_is_an_example_for_every_provider() -> None:
    assert {path.stem for path in EXAMPLES} == set(KINDS)


def test_local_example_is_fit_for_a_demonstration() -> None:
    policy = load(ROOT / "configs/local.yaml").policy

    head, *workers = policy.node_types
    assert head.name == policy.head_node_type
    assert head.max_workers == 0
    assert len(workers) == 2
    assert all(kind.price_usd_per_h and kind.resources["CPU"] for kind in policy.node_types)
    assert policy.idle_timeout_s <= 10
    assert max(policy.flap_s, workers[0].min_up_s) <= policy.idle_timeout_s
    assert policy.budget.usd_per_hour_max is not None


def test_only_what_is_written_leaves_the_policy_at_its_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        cluster_name: c
        provider: {type: local}
        head_node_type: h
        available_node_types: {h: {resources: {CPU: 0.5}}}
        """,
    )

    policy = load(path).policy

    plain = Policy(cluster_name="c", head_node_type="h", node_types=policy.node_types)
    assert policy == plain
    assert policy.node_types[0].resources == amounts({"CPU": 0.5})


EVERYTHING = """
cluster_name: everything
provider: {type: sim, region: r1, availability_zone: [z1, z2]}
max_workers: 9
upscaling_speed: 2
idle_timeout_s: 1m
head_node_type: h
available_node_types:
  h: {resources: {CPU: 1}}
  w:
    resources: {CPU: 4, memory: 1 GiB}
    labels: {b: "2", a: "1"}
    min_workers: 1
    max_workers: 3
    priority: 7
    idle_timeout_s: 2m
    min_up: 3m
    machine_types: "cpu >= 4, memory >= 16 GiB, gpu: 1 x L4"
    zones: z1
    regions: [r1, r2]
    markets: [spot, on-demand]
    price_usd_per_h: 0.25
    deadlines: {requested: 1, booting: 2, draining: 3, releasing: 4, lost: 5}
    boot_s: 6
    node_config: {a: 1}
    worker_setup_commands: [own]
  named: {machine_types: [s2, s4, s2], resources: {CPU: 1}}
initialization_commands: [first]
setup_commands: [common]
head_setup_commands: [head]
worker_setup_commands: [worker]
budget: {usd_per_hour_max: 5, usd_total_max: 50, budget_hard: true}
lifetime: 1d
idle_shutdown: 1h
finish_within: 45
min_up: 90
deadlines: {booting: 20m}
policy:
  width: full
  flap: 1
  gang_hold: 2
  spot_share_most: 0.5
  lease: 3
  lease_busy: 4
  gc_age: 5
  request_ttl: 6
  thinking: {act_gap: 0.1, think_floor_usd: 1, think_max: 2, think_boot_share: 0.2, quiet: 0.1, quiet_max: 1, tick: 3}
  health: {ttl_first: 1, ttl_most: 2, p_least: 0.2, breaker_failures: 4, breaker_first: 5, breaker_most: 6}
  repack:
    {saving_least: 0.2, saving_least_usd_per_h: 1, disrupted_nodes_max: 0.3, horizon: 4, restart_cost: 5}
"""

NOT_WRITABLE = {"thinking.effort_fixed", "repack.is_on"}
"""Set by the simulator; not to be had in this version."""


def test_every_field_of_the_policy_can_be_written(tmp_path: Path) -> None:
    policy = load(write(tmp_path, EVERYTHING)).policy

    assert set(_unchanged(policy, Policy(), "")) == NOT_WRITABLE
    worker = policy.node_type("w")
    assert worker is not None
    assert set(_unchanged(worker, type(worker)(name="", provider=""), "")) == {"machine_types"}


def _unchanged(value: msgspec.Struct, default: msgspec.Struct, prefix: str) -> list[str]:
    found: list[str] = []
    for name in value.__struct_fields__:
        mine, other = getattr(value, name), getattr(default, name)
        if isinstance(mine, msgspec.Struct) and type(mine) is type(other):
            found += _unchanged(mine, other, f"{prefix}{name}.")
        elif mine == other:
            found.append(f"{prefix}{name}")
    return found


def test_what_is_written_arrives_in_seconds_and_exact_amounts(tmp_path: Path) -> None:
    policy = load(write(tmp_path, EVERYTHING)).policy

    head, worker, named = policy.node_types
    assert (policy.lifetime_s, policy.cluster_idle_s, policy.idle_timeout_s) == (86400, 3600, 60)
    assert worker.resources == amounts({"CPU": 4, "memory": 2**30})
    assert worker.need is not None
    assert worker.need.at_least == amounts({"CPU": 4, "memory": 16 * 2**30, "GPU": 1})
    assert worker.need.accelerator == "L4"
    assert (worker.zones, worker.regions, worker.markets) == (("z1",), ("r1", "r2"), ("spot", "on-demand"))
    assert msgspec.json.decode(worker.node_config) == {"a": 1, "boot_s": 6.0}
    assert worker.setup == ("first", "common", "own")
    assert head.setup == ("first", "common", "head")
    assert (named.machine_types, named.zones, named.max_workers) == (("s2", "s4"), ("z1", "z2"), 9)
    assert (named.min_up_s, named.deadlines.booting_s, named.deadlines.lost_s) == (90, 1200, 300)


def test_several_providers_have_names_of_their_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        cluster_name: c
        provider: {type: aws, region: us-west-2}
        network: {joined: true}
        head_node_type: h
        available_node_types:
          h: {machine_types: m6i.large}
          same: {machine_types: m6i.large, provider: {type: aws, region: us-west-2}}
          other: {machine_types: m6i.large, provider: {type: aws, region: us-east-1}}
          third: {machine_types: m6i.large, provider: {type: aws, region: us-east-1, use_internal_ips: true}}
          gcp: {machine_types: n2-standard-4, provider: {type: gcp, region: us-west1, project_id: p}}
        """,
    )

    result = load(path)

    assert [use.name for use in result.providers] == ["aws", "aws-us-east-1", "aws-2", "gcp"]
    assert [kind.provider for kind in result.policy.node_types] == ["aws", "aws", "aws-us-east-1", "aws-2", "gcp"]
    assert [kind.regions for kind in result.policy.node_types][2] == ("us-east-1",)
    assert msgspec.json.decode(result.providers[1].settings)["region"] == "us-east-1"


def test_hash_follows_the_bytes(tmp_path: Path) -> None:
    text = (ROOT / "configs/local.yaml").read_text()

    first = load(write(tmp_path, text)).text_hash
    second = load(write(tmp_path, text + "\n")).text_hash

    assert first == load(write(tmp_path, text)).text_hash
    assert first != second


def test_byte_order_mark_and_carriage_returns_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (ROOT / "configs/local.yaml").read_bytes().replace(b"\n", b"\r\n"))

    assert load(path).policy == load(ROOT / "configs/local.yaml").policy


def test_all_findings_are_carried_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "cluster_name: c\nzebra: 1\nprovider: {type: aws, regoin: x}\nmax_workers: ten\n")

    with pytest.raises(BadInput) as caught:
        load(path)

    assert isinstance(caught.value, ConfigErrors)
    assert caught.value.exit_code == 2
    assert [found.line for found in caught.value.errors] == [1, 2, 3, 3, 4]
    assert {found.level for found in caught.value.warnings} <= {Level.WARNING}
    assert str(caught.value).count("\nhint: did you mean") == 1


def test_a_thousand_findings_print_a_hundred(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"k{number}: 1\n" for number in range(1000)))

    with pytest.raises(ConfigErrors) as caught:
        load(path)

    assert len(caught.value.errors) > 1000
    assert str(caught.value).splitlines()[-1].startswith("... and ")


def test_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: expected a file, got a directory\nhint: name the YAML file in it"


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml").startswith(f"{tmp_path}/no.yaml: expected a file, got no such file")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "file/below"])
def test_impossible_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")

    assert "expected a file, got " in refusal(tmp_path / name)


def test_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    assert "expected a file, got too many levels of symbolic links" in refusal(tmp_path / "loop")


def test_pipe_device_and_socket_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))

        assert "expected a regular file" in refusal(tmp_path / "pipe")
        assert "expected a file, got no such device or address" in refusal(tmp_path / "s")
        assert "expected a regular file" in refusal(Path("/dev/zero"))


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """As root nothing is forbidden, so the child gives its rights up first."""
    path = write(tmp_path, "cluster_name: c\n")
    path.chmod(0)
    program = (
        "import os, pathlib, sys\n"
        "from shoal.config.source import read\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: read(pathlib.Path('cluster.yaml'))\n"
        "except Exception as error: print(error)\n"
    )
    # The child starts inside the folder, since others may not look into its parents.
    tmp_path.chmod(0o755)

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stdout == "cluster.yaml: expected a file that may be read, got permission denied\n", done.stderr


def test_file_that_fails_while_read_is_refused() -> None:
    assert "expected a file that can be read" in refusal(Path("/proc/self/mem"))


@pytest.mark.parametrize(
    ("raw", "place", "expected"),
    [
        (b"cluster_name: c\nx: \xff\n", ":2:4", "text in UTF-8, got byte `0xff`"),
        (b"cluster_name: c\n# \x00\n", ":2:3", "text, got control character `\\x00`"),
        (b"\x7fELF\x02\x01", ":1:1", "text, got control character `\\x7f`"),
        ("cluster_name: c\n".encode("utf-16"), "", "text in UTF-8, got UTF-16"),
        (b"#" * 600_000, "", "at most 512 KiB, got more"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, raw: bytes, place: str, expected: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)

    assert refusal(path).startswith(f"{path}{place}: expected {expected}")


def test_faults_of_the_file_are_those_of_the_simulator() -> None:
    assert set(Faults.model_fields) == set(SimulatedFaults.__struct_fields__)


def test_only_the_model_needs_pydantic() -> None:
    program = (
        "import sys\n"
        "import shoal.config.diagnostics, shoal.config.source, shoal.config.tree, shoal.config.quantities\n"
        "print('pydantic' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


RAY_KEYS = {
    "top": """cluster_name provider max_workers upscaling_speed idle_timeout_minutes auth docker head_node_type
        available_node_types file_mounts cluster_synced_files file_mounts_sync_continuously rsync_exclude rsync_filter
        metadata initialization_commands setup_commands head_setup_commands worker_setup_commands
        head_start_ray_commands worker_start_ray_commands no_restart min_workers head_node worker_nodes""",
    "auth": "ssh_user ssh_private_key ssh_public_key ssh_proxy_command ssh_proxy_use_node_id",
    "docker": """image container_name pull_before_run run_options head_image head_run_options worker_image
        worker_run_options disable_automatic_runtime_detection disable_shm_size_detection use_podman""",
    "available_node_types": """node_config resources min_workers max_workers idle_timeout_s priority labels
        initialization_commands worker_setup_commands docker""",
    "aws": """type region availability_zone cache_stopped_nodes security_group use_internal_ips key_pair
        aws_credentials cloudwatch disable_node_updaters disable_launch_config_check foreground_node_launch
        worker_liveness_check use_external_head_ip""",
    "gcp": "type region availability_zone project_id cache_stopped_nodes use_internal_ips gcp_credentials",
    "azure": """type location resource_group subscription_id tags unique_id subnet_mask msi_name msi_resource_group
        availability_zone use_internal_ips use_external_head_ip cache_stopped_nodes msi_identity_id
        msi_identity_principal_id subnet_id""",
    "ssh": "type head_ip worker_ips external_head_ip",
    "kubernetes": "type namespace autoscaler_service_account autoscaler_role autoscaler_role_binding",
}
"""The keys of Ray 2.60's cluster YAML (its ray-schema.json and providers)."""


@pytest.mark.parametrize("section", RAY_KEYS)
def test_every_key_of_ray_is_known(section: str) -> None:
    models = {"top": Cluster, **KINDS}
    fields = Cluster.model_fields
    models |= {"auth": fields["auth"].annotation, "docker": fields["docker"].annotation}
    models["available_node_types"] = fields["available_node_types"].annotation.__args__[1]

    assert set(RAY_KEYS[section].split()) <= set(models[section].model_fields)
