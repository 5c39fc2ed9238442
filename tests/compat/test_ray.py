"""Ray programs run on Shoal, unchanged, in driver, workers and actors, also beside an installed Ray."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shoal.compat.ray import names

PROGRAM = """
import sys

import ray
import ray.util.scheduling_strategies as strategies
from ray.exceptions import RayTaskError
from ray.util import ActorPool
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.queue import Queue

import beside

ray.init(num_cpus=2)


@ray.remote
def double(x):
    import ray
    import ray.util.queue

    return ray.get(single.remote(x)) * 2, ray.__version__, ray.util.queue.Queue.__module__


@ray.remote
def single(x):
    return x


@ray.remote
def imports_beside():
    return beside.version()


@ray.remote
def fails():
    raise ValueError("boom")


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self, by):
        self.count += by
        return self.count, ray.__version__, ray.get_runtime_context().get_actor_id() is not None


print(sys.argv[1:], ray.get(double.remote(3)))
print(ray.get(Counter.remote().add.remote(2)))
print(ray.get(imports_beside.remote()))
try:
    ray.get(fails.remote())
except RayTaskError as error:
    print(isinstance(error, ValueError), type(error.cause).__name__)
group = placement_group([{"CPU": 1}])
inside = strategies.PlacementGroupSchedulingStrategy(group)
print(ray.get(single.options(scheduling_strategy=inside).remote("inside")))
remove_placement_group(group)
queue = Queue()
queue.put(1)
print(queue.get(), list(ActorPool([Counter.remote()]).map(lambda actor, by: actor.add.remote(by), [5]))[0][0])
print(isinstance(ray.ObjectRef, type), ray.is_initialized())
"""


def run(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(program))
    command = [sys.executable, "-m", "shoal.compat.ray", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_program_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import ray\n\n\ndef version():\n    return ray.__version__\n")

    done = run(PROGRAM, tmp_path, "one", "two")

    assert done.stdout.splitlines() == [
        "['one', 'two'] (6, '2.60.0+shoal', 'shoal.util.queue')",
        "(2, '2.60.0+shoal', True)",
        "2.60.0+shoal",
        "True ValueError",
        "inside",
        "1 5",
        "True True",
    ], done.stderr


def test_importing_it_first_is_enough(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import shoal.compat.ray\nimport ray, shoal\nprint(ray.__version__, ray.get is shoal.get)\n")

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30)

    assert done.stdout == "2.60.0+shoal True\n", done.stderr


MISSING = """
for statement in (
    "import ray.data",
    "import ray.train.torch",
    "from ray import tune",
    "from ray import java_function",
    "ray.experimental",
    "ray.util.collective",
    "ray.util.queue.Stack",
    "ray.exceptions.NoSuchError",
    "from ray.util.nothing import x",
):
    try:
        import ray
        exec(statement)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, "|", error)
    else:
        print("served:", statement)
"""


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    lines = run(MISSING, tmp_path).stdout.splitlines()

    wanted = (
        "ray.data",
        "ray.train",
        "tune",
        "java_function",
        "ray.experimental",
        "ray.util.collective",
        "Stack",
        "NoSuchError",
    )
    for line, name in zip(lines, (*wanted, "ray.util.nothing"), strict=True):
        assert name in line
        assert "Error |" in line


def test_ray_client_is_refused_with_a_hint(tmp_path: Path) -> None:
    done = run("import ray\nray.init('ray://head:10001')\n", tmp_path)

    assert done.returncode == 1
    assert "shoal submit" in done.stderr.splitlines()[-1]


def test_real_ray_that_came_first_is_told() -> None:
    program = "import sys, types; sys.modules['ray'] = types.ModuleType('ray'); import shoal.compat.ray"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert "import this first" in done.stderr.splitlines()[-1]


def test_command_line_is_checked(tmp_path: Path) -> None:
    for arguments, code, text in (
        ([], 2, "usage:"),
        (["--help"], 0, "usage:"),
        ([str(tmp_path / "none.py")], 2, "found no such file"),
    ):
        command = [sys.executable, "-m", "shoal.compat.ray", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert text in done.stderr


def test_script_ends_as_it_says(tmp_path: Path) -> None:
    assert run("raise SystemExit(7)", tmp_path).returncode == 7
    assert run("if __name__ == '__main__':\n    print(__file__.endswith('script.py'))", tmp_path).stdout == "True\n"


EVERY = """
import importlib
import ray
from shoal.compat.ray import names

for module in [*names.MODULES, *names.ALIASES]:
    found = importlib.import_module(module)
    for name in names.MODULES.get(module, ("", {}))[1]:
        assert getattr(found, name) is not None, (module, name)
    for name in dir(found):
        getattr(found, name)
print("all there")
"""


def test_everything_in_the_tables_is_there(tmp_path: Path) -> None:
    done = run(EVERY, tmp_path)

    assert done.stdout == "all there\n", done.stderr


CHECKLIST = """
import ray
from ray import (
    ObjectRef, ObjectRefGenerator, available_resources, cancel, cluster_resources, get, get_actor, get_gpu_ids,
    get_runtime_context, init, is_initialized, kill, method, nodes, put, remote, shutdown, timeline, wait,
)
from ray.actor import ActorClass, ActorHandle, exit_actor
from ray.autoscaler.sdk import request_resources
from ray.exceptions import (
    ActorAlreadyExistsError, ActorDiedError, ActorHandleNotFoundError, ActorPlacementGroupRemoved,
    ActorUnavailableError, ActorUnschedulableError, AsyncioActorExit, AuthenticationError, CrossLanguageError,
    GetTimeoutError, LocalRayletDiedError, NodeDiedError, ObjectFetchTimedOutError, ObjectFreedError, ObjectLostError,
    ObjectReconstructionFailedError, ObjectRefStreamEndOfStreamError, ObjectStoreFullError,
    OufOfBandObjectRefSerializationException, OutOfDiskError, OutOfMemoryError, OwnerDiedError,
    PendingCallsLimitExceeded, PlasmaObjectNotAvailable, RayActorError, RayCgraphCapacityExceeded, RayChannelError,
    RayChannelTimeoutError, RayDirectTransportError, RayError, RaySystemError, RayTaskError,
    ReferenceCountingAssertionError, RpcError, RuntimeEnvSetupError, StreamingGeneratorReplayInconsistentError,
    TaskCancelledError, TaskPlacementGroupRemoved, TaskUnschedulableError, UnserializableException, UserCodeException,
    WorkerCrashedError,
)
from ray.runtime_context import RuntimeContext
from ray.runtime_env import RuntimeEnv
from ray.util import (
    ActorPool, as_completed, deregister_serializer, get_current_placement_group, get_node_ip_address,
    get_placement_group, inspect_serializability, list_named_actors, log_once, map_unordered, placement_group,
    placement_group_table, register_serializer, remove_placement_group,
)
from ray.util.accelerators import NVIDIA_A100
from ray.util.joblib import register_ray
from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.multiprocessing import Pool
from ray.util.placement_group import PlacementGroup
from ray.util.queue import Empty, Full, Queue
from ray.util.scheduling_strategies import (
    DoesNotExist, Exists, In, NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy, NotIn,
    PlacementGroupSchedulingStrategy,
)
from ray.util.state import (
    get_actor, get_job, get_log, get_node, get_objects, get_placement_group, get_task, get_worker, list_actors,
    list_cluster_events, list_jobs, list_logs, list_nodes, list_objects, list_placement_groups, list_tasks,
    list_workers, summarize_actors, summarize_objects, summarize_tasks,
)
print("all served")
"""


def test_the_names_that_programs_use_are_served(tmp_path: Path) -> None:
    done = run(CHECKLIST, tmp_path)

    assert done.stdout == "all served\n", done.stderr


@pytest.mark.parametrize("name", names.ABSENT)
def test_absent_parts_are_not_served(name: str) -> None:
    assert name not in names.MODULES
    assert name not in names.ALIASES


def test_page_for_those_who_come_from_ray_names_what_is_absent() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming-from-ray.md").read_text()

    assert [name for name in names.ABSENT if f"`{name}`" not in page] == []
