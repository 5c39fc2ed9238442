"""The `provider` section: what each kind of provider may be told. Ray's keys, and ours beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from shoal.config.kinds import Anything, Duration, OneOrMany, Section, key


class Common(Section):
    """Keys that Ray accepts for every provider."""

    use_internal_ips: bool = key(False, says="Reach machines by their private addresses only.", ray=True)
    use_external_head_ip: bool = key(False, says="Give the head, and only it, a public address.", ray=True)
    cache_stopped_nodes: bool = key(
        False,
        says="Stop machines instead of ending them. Not available: must be `false`.",
        ray=True,
        why="A stopped machine's disks are still billed.",
    )
    disable_node_updaters: bool = key(False, says="Ignored: machines set themselves up.", ray=True)
    disable_launch_config_check: bool = key(
        False, says="Ignored: a changed `node_config` never ends a running machine.", ray=True
    )
    foreground_node_launch: bool = key(False, says="Ignored: launches never block the planner.", ray=True)
    worker_liveness_check: bool = key(True, says="Ignored: every machine holds a lease.", ray=True)


class Local(Common):
    """Nodes are process groups on this machine."""

    type: Literal["local"] = key(says="Which provider.", ray=True)
    oversubscribe: float = key(
        4.0,
        says="How many times this machine's CPUs all nodes together may offer.",
        ge=1,
        le=1000,
        why="Nodes on one machine share it; most work waits more than it computes.",
    )


def _chance(says: str) -> Any:
    return key(0.0, says=says, unit="fraction", ge=0, le=1)


def _rate(says: str) -> Any:
    return key(0.0, says=says, unit="per hour", ge=0, le=3600)


class Faults(Section):
    """What goes wrong in the simulated cloud, and how often. Fractions are chances per call, machine or boot."""

    no_capacity: float = _chance("A launch is refused for want of capacity.")
    late_refusal: float = _chance("An accepted launch fails some seconds later.")
    throttle: float = _chance("A call is not looked at.")
    lost_reply: float = _chance("A call works and its answer is lost.")
    lost_request: float = _chance("A call never arrives; the caller cannot know.")
    duplicate: float = _chance("The network delivers a launch twice.")
    short_list: float = _chance("A listing shows only a part, and says so.")
    hidden: float = _chance("A new machine is missing from listings that call themselves complete.")
    list_error: float = _chance("A listing fails.")
    part_only: float = _chance("A batch gives fewer machines than asked.")
    never_join: float = _chance("A machine boots and its agent never reports.")
    smaller: float = _chance("A machine joins with less memory than promised.")
    debris: float = _chance("A release leaves a billed disk behind.")
    stuck_release: float = _chance("A release is not looked at: the machine goes on existing, and costing.")
    slow_launch: float = _chance("A launch is looked at late, and its call lasts nearly as long as calls may.")
    halts_per_h: float = _rate("A running machine stops by itself and stays listed.")
    vanishes_per_h: float = _rate("A running machine is gone without a word.")
    interruptions_per_h: float = _rate("A spot machine is taken back, after a notice.")
    price_changes_per_h: float = _rate("An offer's price moves.")
    slow_boot: float = _chance("A boot takes ten times as long.")


class Sim(Common):
    """A cloud in memory, for tests, `shoal simulate` and first steps."""

    type: Literal["sim"] = key(says="Which provider.", ray=True)
    seed: int = key(0, says="Same seed, same luck.", ge=0)
    faults: Faults = key(Faults(), says="What goes wrong, and how often.")
    catalogue: str | None = key(None, says="A shipped table of machine types and prices: `aws`, `gcp` or `azure`.")
    offers: str | None = key(
        None, says="A CSV of offers: `provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch`.", unit="path"
    )
    region: str = key("sim-1", says="The name of the simulated region.")
    availability_zone: OneOrMany = key((), says="Names of its zones.")
    boot_s: Duration = key(30.0, says="Time from launch to a joined node.", unit="s")
    boot_spread: float = key(0.2, says="Spread of boot times around `boot_s`.", unit="fraction", ge=0, le=1)
    listing_lag_s: Duration = key(0.0, says="Time until a new machine is listed.", unit="s")
    limit: int | None = key(None, says="How many machines of each offer there are.", ge=0)


class Ssh(Common):
    """Machines that exist already and are reached by SSH. Ray calls this provider `local`."""

    type: Literal["ssh"] = key(says="Which provider.", ray=True)
    head_ip: str = key(says="Address of the head machine.", ray=True, min_length=1)
    worker_ips: OneOrMany = key((), says="Addresses of the other machines.", ray=True)
    external_head_ip: str | None = key(None, says="The head's address as seen from your laptop.", ray=True)
    coordinator_address: str | None = key(
        None, says="Not available: Ray's coordinator has no authentication.", ray=True
    )


class KeyPair(Section):
    """The EC2 key pair for SSH."""

    key_name: str = key(says="Name of the key pair.", ray=True, min_length=1)


class SecurityGroup(Section):
    """Who may reach the machines."""

    GroupName: str | None = key(None, says="Name of the security group.", ray=True)
    IpPermissions: Annotated[tuple[Anything, ...], Field(strict=False)] = key(
        (), says="Rules in EC2's form, added to those the cluster needs.", ray=True
    )


class Aws(Common):
    """EC2 instances."""

    type: Literal["aws"] = key(says="Which provider.", ray=True)
    region: str = key(says="Region, such as `us-west-2`.", ray=True, min_length=1)
    availability_zone: str | None = key(
        None, says="Zones, separated by commas; none written: all of the region.", ray=True
    )
    security_group: SecurityGroup | None = key(None, says="Who may reach the machines.", ray=True)
    key_pair: KeyPair | None = key(None, says="The EC2 key pair; none: the cluster makes its own.", ray=True)
    aws_credentials: Anything | None = key(None, says="Keys for boto3. Better: a profile or a role.", ray=True)
    cloudwatch: Anything | None = key(None, says="Ignored: CloudWatch agent, dashboard and alarms.", ray=True)
    subnet_id: str | None = key(None, says="The subnet of every machine.", ray=True)
    tags: dict[str, str] = key({}, says="Tags on everything that is created.", ray=True)


class GcpCredentials(Section):
    """Credentials other than the application default ones."""

    type: Literal["credentials_token", "service_account"] = key(says="What `credentials` holds.", ray=True)
    credentials: str = key(says="The token or the service account's JSON.", ray=True)


class Gcp(Common):
    """Compute Engine instances."""

    type: Literal["gcp"] = key(says="Which provider.", ray=True)
    region: str = key(says="Region, such as `us-west1`.", ray=True, min_length=1)
    availability_zone: str | None = key(
        None, says="Zones, separated by commas; none written: all of the region.", ray=True
    )
    project_id: str = key(says="Project; it must exist.", ray=True, min_length=1)
    gcp_credentials: GcpCredentials | None = key(
        None, says="Credentials in the file. Better: application default credentials.", ray=True
    )
    tags: dict[str, str] = key({}, says="Labels on everything that is created.", ray=True)


class Azure(Common):
    """Azure virtual machines."""

    type: Literal["azure"] = key(says="Which provider.", ray=True)
    location: str = key(says="Region, such as `westus2`.", ray=True, min_length=1)
    resource_group: str = key(says="Resource group of everything that is created.", ray=True, min_length=1)
    subscription_id: str | None = key(None, says="Subscription; none: that of the Azure CLI.", ray=True)
    availability_zone: str | None = key(None, says="`auto`, `none`, or zones separated by commas.", ray=True)
    tags: dict[str, str] = key({}, says="Tags on everything that is created.", ray=True)
    unique_id: str | None = key(None, says="Suffix of the names of shared resources.", ray=True)
    subnet_mask: str | None = key(None, says="Address range of the network, such as `10.0.0.0/16`.", ray=True)
    subnet_id: str | None = key(None, says="An existing subnet.", ray=True)
    msi_name: str | None = key(None, says="Name of the head's managed identity.", ray=True)
    msi_resource_group: str | None = key(None, says="Resource group of that identity.", ray=True)
    msi_identity_id: str | None = key(None, says="An existing managed identity.", ray=True)
    msi_identity_principal_id: str | None = key(None, says="Its principal.", ray=True)


class Kubernetes(Common):
    """Pods."""

    type: Literal["kubernetes"] = key(says="Which provider.", ray=True)
    namespace: str = key("default", says="Namespace of the pods.", ray=True, min_length=1)
    context: str | None = key(None, says="Context of the kubeconfig; none: the current one.")
    kubeconfig: str | None = key(None, says="Path of the kubeconfig; none: the usual places.", unit="path")
    image: str | None = key(None, says="Container image; a node type's `node_config` may name another.")
    service_account: str | None = key(None, says="Service account of the head's pod.")
    autoscaler_service_account: Anything | None = key(None, says="Not available: write `service_account`.", ray=True)
    autoscaler_role: Anything | None = key(None, says="Not available: write `service_account`.", ray=True)
    autoscaler_role_binding: Anything | None = key(None, says="Not available: write `service_account`.", ray=True)


Provider = Annotated[Local | Sim | Ssh | Aws | Gcp | Azure | Kubernetes, Field(discriminator="type")]

KINDS: dict[str, type[Common]] = {
    "local": Local,
    "sim": Sim,
    "ssh": Ssh,
    "aws": Aws,
    "gcp": Gcp,
    "azure": Azure,
    "kubernetes": Kubernetes,
}
"""Every provider by the word under `type`."""

CLOUDS = frozenset({"aws", "gcp", "azure"})
REMOTE = CLOUDS | {"ssh", "kubernetes"}
"""Providers whose machines are set up by commands and reached over a network."""


def settings(provider: Common) -> dict[str, Any]:
    """Return what the file says of a provider, defaults included, as plain values."""
    return provider.model_dump(mode="json")


def zones_written(provider: Common) -> tuple[str, ...]:
    """Return the zones under `availability_zone`, in order; empty means all of the region."""
    written = getattr(provider, "availability_zone", None)
    return zone_names(written) if written else ()


def zone_names(written: str | Sequence[str]) -> tuple[str, ...]:
    """Return zones written as a list or with commas, each once; `auto` and `none` are any."""
    if written in ("auto", "none"):
        return ()
    parts = written.split(",") if isinstance(written, str) else written
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def region_written(provider: Common) -> str:
    """Return the provider's region, "" where it has none."""
    return str(getattr(provider, "region", "") or getattr(provider, "location", ""))
