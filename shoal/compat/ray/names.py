"""Which of Ray's modules and names are served, and by what of Shoal.

`ALIASES`: the module *is* one of Shoal's. `MODULES`: a module of its own; its names come from the table
(`module:attribute`) or from Shoal's module. `ABSENT`: known parts of Ray that Shoal does not serve, with a hint.
"""

from __future__ import annotations

ALIASES = {
    "ray.actor": "shoal.actor",
    "ray.autoscaler.sdk": "shoal.autoscaler.sdk",
    "ray.cloudpickle": "cloudpickle",
    "ray.dag": "shoal.dag",
    "ray.runtime_env": "shoal.runtime_env",
    "ray.util.accelerators": "shoal.util.accelerators",
    "ray.util.actor_pool": "shoal.util.actor_pool",
    "ray.util.check_serialize": "shoal.util.check_serialize",
    "ray.util.metrics": "shoal.util.metrics",
    "ray.util.multiprocessing.pool": "shoal.util.multiprocessing",
    "ray.util.placement_group": "shoal.util.placement_group",
    "ray.util.queue": "shoal.util.queue",
    "ray.util.scheduling_strategies": "shoal.util.scheduling_strategies",
}

_NEVER = "shoal.compat.ray.never"
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "ray": (
        "shoal",
        {
            "ActorHandle": "shoal.actor:ActorHandle",
            "DynamicObjectRefGenerator": "shoal.runtime.client.generators:DynamicObjectRefGenerator",
            "LoggingConfig": "shoal.compat.ray.serving:LoggingConfig",
            "ObjectID": "shoal:ObjectRef",
        },
    ),
    "ray.autoscaler": ("", {}),
    "ray.exceptions": (
        "shoal.exceptions",
        {
            name: f"{_NEVER}:{name}"
            for name in (
                "CrossLanguageError",
                "OufOfBandObjectRefSerializationException",
                "PlasmaObjectNotAvailable",
                "RayCgraphCapacityExceeded",
                "RayChannelError",
                "RayChannelTimeoutError",
                "RayDirectTransportError",
                "RpcError",
            )
        },
    ),
    "ray.remote_function": ("", {"RemoteFunction": "shoal.runtime.client.functions:RemoteFunction"}),
    "ray.runtime_context": (
        "",
        {
            "RuntimeContext": "shoal.runtime.client.about:RuntimeContext",
            "get_runtime_context": "shoal:get_runtime_context",
        },
    ),
    "ray.types": ("", {"ObjectRef": "shoal:ObjectRef"}),
    "ray.util": ("shoal.util", {"PublicAPI": "shoal.compat.ray.serving:annotation"}),
    "ray.util.annotations": (
        "",
        dict.fromkeys(
            ("Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"), "shoal.compat.ray.serving:annotation"
        ),
    ),
    "ray.util.joblib": ("", {"register_ray": "shoal.util.joblib:register_ray"}),
    "ray.util.multiprocessing": ("shoal.util.multiprocessing", {}),
    "ray.util.state": (
        "shoal.util.state",
        {"list_runtime_envs": "shoal.compat.ray.serving:no_runtime_envs"},
    ),
    "ray.util.state.exception": ("", {"RayStateApiException": "shoal.util.state:RayStateApiException"}),
}

ABSENT = {
    "ray.air": "",
    "ray.client": "run the script where the cluster is: `shoal submit CONFIG SCRIPT`",
    "ray.cross_language": "Shoal runs Python only",
    "ray.data": "",
    "ray.experimental": "",
    "ray.job_submission": "use `shoal job submit`, or the REST API of the dashboard",
    "ray.llm": "",
    "ray.rllib": "",
    "ray.serve": "",
    "ray.train": "",
    "ray.tune": "",
    "ray.util.client": "run the script where the cluster is: `shoal submit CONFIG SCRIPT`",
    "ray.util.collective": "",
    "ray.util.dask": "use `dask.config.set(scheduler=shoal.util.Executor())`",
    "ray.util.spark": "",
    "ray.util.tpu": "",
    "ray.workflow": "",
}
