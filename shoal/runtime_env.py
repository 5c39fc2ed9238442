"""Ray's typed `runtime_env`, under Ray's module name."""

from __future__ import annotations

from typing import Any

from shoal.runtime.client.environment import environment


class RuntimeEnv(dict[str, Any]):
    """A `runtime_env` made of keywords, checked at once: `RuntimeEnv(env_vars={"A": "1"}, working_dir=".")`.

    Raises:
        ValueError: a field is not supported, or a folder is not there. TypeError: a field is of the wrong type.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__({name: value for name, value in fields.items() if value is not None})
        environment(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a plain dict."""
        return dict(self)


__all__ = ["RuntimeEnv"]
