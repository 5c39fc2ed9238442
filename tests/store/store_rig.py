"""A store with its threads and a stand-in for the agent's event loop, for tests with real processes and sockets."""

from __future__ import annotations

import os
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.foundation.clock import SystemClock
from shoal.runtime.store.node import NodeStore
from shoal.runtime.store.places import NodeDirectory, shared_memory_root
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Segment
from shoal.runtime.store.spill import DiskThread
from shoal.runtime.store.transfer.pull import Puller
from shoal.runtime.store.transfer.serve import Server
from shoal.runtime.store.values import dump
from shoal.runtime.store.writer import Writer
from shoal.transport import blocking
from shoal.transport.address import parse
from shoal.wire.hello import Credential, Role

MIB = 2**20
CREDENTIAL = Credential("ab" * 16, b"s" * 32, Role.NODE)


class Loop:
    """Runs on the test's thread what others hand over, as the agent's event loop would."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def call(self, function: Callable[[], None]) -> None:
        self._calls.put(function)

    def until(self, is_done: Callable[[], Any], within_s: float = 30.0) -> None:
        end = time.monotonic() + within_s
        while not is_done():
            left = end - time.monotonic()
            assert left > 0, "waited too long"
            try:
                self._calls.get(timeout=min(left, 0.1))()
            except queue.Empty:
                continue


class Node:
    """One node's store in a directory of its own."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        loop: Loop | None = None,
        root: Path | None = None,
        spill: Path | None = None,
        wait_s: float = 30.0,
    ) -> None:
        self.loop = loop or Loop()
        self.place = NodeDirectory(root or shared_memory_root(), secrets.token_hex(16), secrets.token_hex(14))
        self.disk = DiskThread(lambda: self.loop.call(self.disk.poll))
        self.store = NodeStore(
            self.place.path, limit_bytes, SystemClock(), disk=self.disk, spill_directory=spill, wait_s=wait_s
        )
        self.writer = Writer(self.place.path, self.lease)
        self.reader = Reader(self.place.path)
        self.server: Server | None = None
        self.puller: Puller | None = None
        self._count = 0

    def lease(self, size: int, process: bytes = b"w") -> Segment:
        answers: list[Any] = []
        self.store.lease(process, size, answers.append, wait_s=2.0)
        self.loop.until(lambda: self.store.tick() or answers)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def put(self, value: Any) -> bytes:
        sealed = self.writer.put(dump(value))
        self._count += 1
        object_id = self._count.to_bytes(24, "big")
        assert self.store.seal(b"w", object_id, sealed.segment_id, sealed.size)
        return object_id

    def get(self, object_id: bytes) -> Any:
        answers: list[Any] = []
        self.store.pin(b"r", object_id, answers.append)
        self.loop.until(lambda: answers)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return self.reader.load(object_id, answers[0])

    def drain(self) -> None:
        self.store.unpin(b"r", self.reader.drain())

    def serve(self, tls: ssl.SSLContext | None = None, **options: Any) -> str:
        """Start a server of this node's objects; returns its address."""
        self.server = Server(self.store, self.loop.call, lambda sock: blocking.answer(sock, tls, CREDENTIAL), **options)
        host, port = self.server.start("127.0.0.1")
        return f"{host}:{port}"

    def pull(self, object_id: bytes, sources: list[str], *, tls: ssl.SSLContext | None = None, **options: Any) -> Any:
        """Fetch an object and return what `done` was told."""
        if self.puller is None:
            self.puller = Puller(
                self.store,
                self.loop.call,
                lambda text: blocking.dial(parse(text), tls, CREDENTIAL, limit_s=2.0),
                stall_limit_s=2.0,
                pause_first_s=0.01,
            )
        answers: list[Any] = []
        self.puller.pull(object_id, sources, answers.append, **options)
        self.loop.until(lambda: self.store.tick() or answers)
        return answers[0]

    def close(self) -> None:
        if self.puller is not None:
            self.puller.close()
        if self.server is not None:
            self.server.close()
        self.disk.close()
        self.place.remove()


class CuttingProxy:
    """Forwards connections to an address and cuts each after so many bytes from there, as often as told."""

    def __init__(self, target: str, cut_after: int, cuts: int, *, silent_after: int | None = None) -> None:
        """`silent_after`: from that byte on nothing comes any more, and nothing is closed either."""
        self._target, self._cut_after, self.cuts_left = target, cut_after, cuts
        self._silent_after, self.is_silent = silent_after, False
        self.forwarded = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self._target.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            threading.Thread(target=self._pump, args=(accepted, upstream, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(upstream, accepted, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                if self.is_silent:
                    continue
                if is_counted:
                    if self._silent_after is not None and passed + len(data) > self._silent_after:
                        data = data[: max(0, self._silent_after - passed)]
                        target.sendall(data)
                        self.is_silent = True
                        continue
                    if self.cuts_left and passed + len(data) > self._cut_after:
                        data = data[: self._cut_after - passed]
                        target.sendall(data)
                        self.cuts_left -= 1
                        break
                    passed += len(data)
                    self.forwarded += len(data)
                target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            if is_counted:
                sock.close()


def leftovers() -> set[str]:
    """Return the names of our directories in shared memory."""
    return {name for name in os.listdir(shared_memory_root()) if name.startswith("shoal-")}
