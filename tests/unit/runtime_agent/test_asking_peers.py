"""A question to another node is asked until it is answered or the node is dead: a drain's objects depend on it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.runtime.agent.objects import ASK_AGAIN_S, Objects
from shoal.testing.sim_time import run


class Asking(Objects):
    """An object desk whose connections lose everything."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.said: list[tuple[str, Any]] = []
        self._agent: Any = SimpleNamespace(is_node_dead=self.dead.__contains__)
        self._answers, self._number = {}, 0

    def _tell_peer(self, node_id: str, message: Any) -> None:
        self.said.append((node_id, message))


@pytest.mark.parametrize("ends", ["answered", "dead", "unwanted"])
def test_it_is_asked_again_until_it_ends(ends: str) -> None:
    async def main() -> None:
        desk, heard, wanted = Asking(), list[bool](), [True]
        desk._ask_peer("b", lambda n: ("take", n), lambda is_ok, _: heard.append(is_ok), lambda: wanted[0])
        await asyncio.sleep(2.5 * ASK_AGAIN_S)
        assert desk.said == [("b", ("take", 1))] * 3
        assert heard == []

        if ends == "answered":
            desk._answers.pop(1)(True, None)
        elif ends == "dead":
            desk.dead.add("b")
        else:
            wanted[0] = False
        await asyncio.sleep(3 * ASK_AGAIN_S)

        assert heard == [ends == "answered"]
        assert len(desk.said) == 3
        assert not desk._answers

    run(main())
