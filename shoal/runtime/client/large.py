"""Large values: written into the node's shared memory, read where they lie."""
from __future__ import annotations
from typing import Any
class Stored:
    def __init__(self, session: Any) -> None:
        self._session = session
    def close(self) -> None: ...
