"""joblib on the cluster: after `register_shoal()`, `joblib.parallel_config("shoal")` sends its calls there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.runtime.client.api import cluster_resources, init, is_initialized
from shoal.util.executor import Executor


def register_shoal(name: str = "shoal") -> None:
    """Make `name` a backend of joblib.

    Raises:
        ImportError: joblib is not installed.
    """
    from joblib import register_parallel_backend
    from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

    class ShoalBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
        """Sends batches of calls to an `Executor`; `parallel_config("shoal", num_cpus=2)` gives task options."""

        supports_retrieve_callback = True
        default_n_jobs = -1

        def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any):
            super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
            self._options = options
            self._executor: Executor | None = None

        def __reduce__(self) -> tuple[Any, ...]:
            # Batches carry their backend along, for calls of joblib inside of them; those run where they are.
            from joblib._parallel_backends import SequentialBackend

            return SequentialBackend, ((self.nesting_level or 0) + 1,)

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if not is_initialized():
                init()
            cpus = max(1, int(cluster_resources().get("CPU", 1)))
            if n_jobs is None:
                return cpus
            return n_jobs if n_jobs > 0 else max(1, cpus + 1 + n_jobs)

        def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
            n_jobs = self.effective_n_jobs(n_jobs)
            self.parallel = parallel
            self._executor = Executor(n_jobs, **self._options)
            return n_jobs

        def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
            assert self._executor is not None, "configure comes first"
            future = self._executor.submit(func)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result()

        def terminate(self) -> None:
            if self._executor is not None:
                self._executor.shutdown(wait=False)
                self._executor = None

        def abort_everything(self, ensure_ready: bool = True) -> None:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = Executor(self.effective_n_jobs(-1), **self._options) if ensure_ready else None

    register_parallel_backend(name, ShoalBackend)


def register_ray() -> None:
    """Make `"ray"` a backend of joblib that runs on Shoal, for Ray programs."""
    register_shoal("ray")


__all__ = ["register_ray", "register_shoal"]
