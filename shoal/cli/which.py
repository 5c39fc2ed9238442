"""Which cluster a command means: a name, a YAML file, SHOAL_ADDRESS, or this user's one live cluster."""

from __future__ import annotations

import os
from pathlib import Path

from shoal.foundation.errors import BadInput, NoCluster
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile


def name_in(argument: str | None, cluster_name: str | None = None) -> str:
    """Return the cluster's name that an argument (a YAML file or a name) or `--cluster-name` gives.

    Raises:
        BadInput: it is a file that cannot be used.
        NoCluster: nothing was given and there is not exactly one live cluster.
    """
    if cluster_name:
        return discovery.checked_name(cluster_name)
    if argument is None:
        return live(None).name
    path = Path(argument)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        from shoal.config.load import load

        return load(path).policy.cluster_name
    return discovery.checked_name(argument)


def live(name: str | None) -> ClusterFile:
    """Return the live cluster of that name; without one that of SHOAL_ADDRESS, else the only one there is.

    Raises:
        BadInput: SHOAL_ADDRESS means no cluster of this machine, or there are several and nothing says which.
        NoCluster: there is none.
    """
    if name is not None:
        found = discovery.find(name)
        if found is None:
            raise NoCluster(f"no live cluster `{name}` on this machine", hint="`shoal up CLUSTER.yaml` starts one")
        return found
    address = os.environ.get("SHOAL_ADDRESS", "")
    if address not in ("", "auto"):
        return _at(address)
    clusters = discovery.live_clusters()
    if not clusters:
        raise NoCluster("no live cluster on this machine", hint="`shoal up CLUSTER.yaml` starts one")
    if len(clusters) > 1:
        names = ", ".join(f"`{cluster.name}`" for cluster in clusters)
        raise BadInput(f"several live clusters on this machine: {names}", hint="name one, or set SHOAL_ADDRESS")
    return clusters[0]


def _at(address: str) -> ClusterFile:
    """Return the live cluster that SHOAL_ADDRESS means to `init`, if it is one of this machine."""
    for one in discovery.live_clusters(kinds=("cluster", "embedded", "node")):
        if address in (one.name, one.frames, one.agent, one.uid):
            return one
    if address == "local":
        raise BadInput("SHOAL_ADDRESS is `local`, which is no live cluster", hint="name a cluster, or unset it")
    raise NoCluster(
        f"SHOAL_ADDRESS: no live cluster `{address[:80]}` on this machine",
        hint="`shoal clusters` lists those that are live",
    )
