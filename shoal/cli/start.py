"""`shoal start`: a head, or a node of one, on this machine, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shoal.cli.output import say


@click.command()
@click.option("--head", is_flag=True, help="Start a head (and a node) here.")
@click.option("--address", help="HOST:PORT of a head to join.")
@click.option("--name", default="default", show_default=True, help="The cluster's name (with --head).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the head listens (with --head).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Which port; 0 takes a free one.")
@click.option(
    "--driver-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Where drivers of other hosts are served (with --head and --host); 0 takes a free one.",
)
@click.option("--num-cpus", type=click.FloatRange(0), help="CPUs of this node; default: what this machine has.")
@click.option("--num-gpus", type=click.FloatRange(0), help="GPUs of this node; default: what this machine has.")
@click.option("--memory", help="Memory for tasks, such as `8 GiB`; default: 70 % of this machine's.")
@click.option("--object-store-memory", help="Shared memory for objects; default: 30 % of this machine's.")
@click.option("--resources", default="{}", help="Custom resources as JSON, such as '{\"disk\": 2}'.")
@click.option("--labels", default="", help="Labels as `name=value,...`.")
@click.option(
    "--secret-file", type=click.Path(path_type=Path), help="The cluster's node secret (to join from another host)."
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="This host's certificate: encrypt between hosts.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--tls-ca", type=click.Path(path_type=Path), help="The authority that signed every host's certificate.")
@click.option("--node-dead-after", type=click.FloatRange(0.1), default=40.0, hidden=True, help="Seconds of silence.")
@click.option("--fence-after", type=click.FloatRange(0.05), default=25.0, hidden=True, help="Seconds; less than that.")
@click.option("--driver-dead-after", type=click.FloatRange(3), default=30.0, hidden=True, help="Seconds of silence.")
@click.option("--block", is_flag=True, help="Stay in the foreground until the node ends.")
def start(
    head: bool,
    address: str | None,
    name: str,
    host: str,
    port: int,
    driver_port: int,
    num_cpus: float | None,
    num_gpus: float | None,
    memory: str | None,
    object_store_memory: str | None,
    resources: str,
    labels: str,
    secret_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    node_dead_after: float,
    fence_after: float,
    driver_dead_after: float,
    block: bool,
) -> None:
    """Start a head (`--head`) or join one (`--address HOST:PORT`) from this machine.

    Without --address and --head, joins this user's one live cluster here. Loopback only, unless --host says otherwise.
    """
    from shoal.assembly import byhand
    from shoal.foundation.errors import BadInput
    from shoal.transport import tls

    if head and address:
        raise BadInput("start: expected --head or --address, got both")
    try:
        custom = json.loads(resources)
        assert isinstance(custom, dict)
    except (ValueError, AssertionError) as error:
        raise BadInput(f"--resources: expected a JSON object such as '{{\"disk\": 2}}', got `{resources}`") from error
    node = byhand.Node(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=memory,
        object_store_memory=object_store_memory,
        resources=custom,
        labels=byhand.parsed_labels(labels),
        tls=tls.given({"--tls-cert": tls_cert, "--tls-key": tls_key, "--tls-ca": tls_ca}),
    )
    if head:
        patience = byhand.Patience(node_dead_s=node_dead_after, fence_s=fence_after, job_dead_s=driver_dead_after)
        started = byhand.start_head(name, host, port, node, say, patience, driver_port=driver_port)
        click.echo(f"head `{name}` listens at {started.frames}")
        reached_at = started.frames.removeprefix("tcp:")
        say(f"join it:  shoal start --address {reached_at} --secret-file SECRET")
        say(f"secret:   {started.directory}/node.secret   (0600; copy it to the other host)")
        if host not in ("127.0.0.1", "localhost", "::1"):
            say(f'drive it: SHOAL_SECRET_FILE={started.directory}/driver.secret, init("{reached_at}")')
    else:
        started = byhand.start_node(address, secret_file, node, say)
        click.echo(f"node `{started.name}` joined {started.frames}")
    if block:
        byhand.wait(started)
