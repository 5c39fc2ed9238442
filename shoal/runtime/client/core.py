"""The runtime inside one process: its links, its numbering, what arrives, and who waits. Drivers and workers alike.

Everything that changes shared state does so with `lock` held: calls of user threads, messages that the leader reads,
and the helper thread. It is a reentrant lock, so that a waiter called under it may submit. Under it nobody unpickles
user data and nobody dials: both may run for long, or come back to us.

The parts register for the messages they own: `owner` for results and leases, `actors`, `lending`; this module knows
only who is connected, requests to the agent, and leading.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.foundation.errors import ShoalError
from shoal.runtime.client.reactor import Link, Reactor
from shoal.runtime.client.refs import Escaped, Home, Lending, ObjectRef, OwnerAddress, drops, settle
from shoal.runtime.client.relay import Relay, RelayedLink
from shoal.runtime.client.reliable import Reliable
from shoal.transport import blocking, tls
from shoal.transport.address import by_way_of, lose_after, parse, reachable, unix
from shoal.wire import tasks as wire
from shoal.wire.hello import Authenticator, Role

monotonic = time.monotonic
HELPER_PAUSE_S = 0.002
"""How long a batch that nobody flushed may wait."""
HELPER_QUIET = 5
"""After so many pauses without anybody polling, the helper leads."""
UNREAD_S = 0.05
"""How long the sockets may go unread while a thread keeps calling and never waits."""
REFUSALS_MAX = 100
SWEEP_SHARE = 0.02
"""The largest share of time that looking for dead escaped refs may take."""


class Elsewhere(ConnectionError):
    """We dialled a head; the drivers' home agent listens at `addresses`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(f"drivers are served at {', '.join(addresses) or 'no address'}")
        self.addresses = addresses


class Core:
    """The runtime of this process. One at a time; `here()` returns it."""

    def __init__(
        self, authenticator: Authenticator, ssl_context: ssl.SSLContext | None, session: Path, *, is_worker: bool
    ) -> None:
        self.authenticator, self.ssl_context, self.session = authenticator, ssl_context, session
        self.server_ssl_context: ssl.SSLContext | None = None
        self.is_worker = is_worker
        self.lock = threading.RLock()
        self.reactor = Reactor(self.arrived, self.link_closed)
        self.ids = itertools.count(1)
        self.process = b""
        self.address: OwnerAddress = (b"", ())
        self.info: dict[str, Any] = {}
        self.agent: Link = None  # type: ignore[assignment]  # set by attach
        self.peers: dict[bytes, Link] = {}
        self._dialling: dict[bytes, list[Callable[[Link | None], None]]] = {}
        self.refusals: dict[bytes, str] = {}
        """Why somebody answers for a process and never as that process, such as with another's certificate."""
        self.dirty: set[Link] = set()
        self.requests: dict[int, Callable[[bool, Any], None]] = {}
        self.escaped, self.lending = Escaped(), Lending()
        self.handlers: dict[int, Callable[[Link, list[Any]], None]] = {
            wire.HELLO: self._on_hello,
            wire.ANSWER: self._on_answer,
            wire.RELEASE: self._on_release,
            wire.WELCOME: self._on_welcome,
            wire.ELSEWHERE: self._on_elsewhere,
        }
        self.on_result: Callable[[Link, list[Any], Any], None] = lambda link, message, entry: None
        """Called for each result that is neither native nor a simple pickle."""
        self.on_results: Callable[[Link, list[Any], Any], None] = lambda link, message, entry: None
        """Called once per frame that brought results, with the last of them."""
        self.on_link_closed: list[Callable[[Link], None]] = []
        self.on_tick: list[Callable[[float], None]] = []
        """Called by the helper about every 2 ms while there is activity, else about once a second."""
        self.has_timers: Callable[[], bool] = lambda: False
        """Whether something waits for a time to pass, so that the helper must look often; the owner replaces it."""
        self.on_attached: list[Callable[[], None]] = []
        self.on_lost: list[Callable[[], None]] = []
        """Called when the agent is gone."""
        self.reliable = Reliable(self)
        self.is_closed = False
        self.is_loop_driven = False
        """An event loop watches the reactor; the helper only flushes."""
        self._followers: list[tuple[Callable[[], Any], threading.Lock]] = []
        self._welcome: list[Any] | None = None
        self._elsewhere: list[str] | None = None
        self._parked = threading.Event()
        self._helper_rests = self._helper_leads = False
        self._sweep_at, self._sweep_cost_s = 0.0, 0.0
        self._listening: str = ""
        self.relay: Relay | None = None
        """Stands for dialling and listening in a driver that nobody can dial."""

    # ---------------------------------------------------------------------------------------------- start and end

    def attach(self, address: str, process: bytes, info: dict[str, Any], *, kind: str, limit_s: float = 10.0) -> None:
        """Connect to the home agent and learn who we are.

        Raises:
            OSError, ShoalError: the agent is not there, or not ours.
        """
        sock = blocking.dial(parse(address), self.ssl_context, self.authenticator, role=Role.DRIVER, limit_s=limit_s)
        if info.get("is_remote"):
            self.relay = Relay(self)
        self.agent = self.reactor.add(sock)
        self.agent.out.append((wire.ATTACH, kind, process, os.getpid(), info))
        self.agent.flush()
        end = monotonic() + limit_s
        with self.reactor.lock:
            while self._welcome is None and self._elsewhere is None and not self.agent.is_closed:
                left = end - monotonic()
                if left <= 0:
                    break
                self.reactor.poll(left)
        if self._elsewhere is not None:
            raise Elsewhere(self._elsewhere)
        if self._welcome is None:
            raise ConnectionError("the node's agent did not answer")
        _, self.process, self.info = self._welcome
        if self.relay is not None:
            self.address = (self.process, by_way_of(self.info["agent"]))
            lose_after(sock.fileno(), self.info["job_dead_s"])
        elif not self._listening:
            self._listen()
        Home.process, Home.address = self.process, self.address
        Home.node_id = str(self.info.get("node_id", ""))
        Home.escaped, Home.lock = self.escaped, self.lock
        for call in self.on_attached:
            call()

    def listen_before_attach(
        self, process: bytes, listen_host: str = "", tls_files: Sequence[str] | None = None
    ) -> None:
        """Open the listeners of a worker, whose process id its fork has told, so that it can say where they are."""
        self.process, self.info = process, {"listen_host": listen_host, "tls": tls_files}
        self._listen()

    def _listen(self) -> None:
        """Open this process's own listeners: a Unix socket always, TCP where the node has other hosts beside it."""
        files = tls.files_of(self.info.get("tls"))
        if files is not None:
            self.ssl_context, self.server_ssl_context = files.dialling(), files.serving()
        path = self.session / f"p{int.from_bytes(self.process[-4:], 'big')}.sock"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(unix(path).host)
        path.chmod(0o600)
        sock.listen(512)
        self._listening = str(path)
        self.reactor.listen(sock, None, self.authenticator, self.greet)
        texts = [f"unix:{path}"]
        host = self.info.get("listen_host", "")
        if host:
            tcp = socket.create_server((host, 0), backlog=512)
            self.reactor.listen(tcp, self.server_ssl_context, self.authenticator, self.greet)
            texts.append(f"tcp:{self.info.get('advertise_host') or host}:{tcp.getsockname()[1]}")
        self.address = (self.process, tuple(texts))

    def start_helper(self) -> None:
        """Start the thread that flushes, tidies up, and reads while nobody else does."""
        threading.Thread(target=self._help, name="shoal-helper", daemon=True).start()

    def close(self) -> None:
        """Close every link and listener. Waiting threads end with an error."""
        with self.lock:
            self.is_closed = True
        self._parked.set()
        try:
            self.reactor.kick()
        except (OSError, ValueError):
            pass
        if self.reactor.lock.acquire(timeout=2.0):
            try:
                self.reactor.close()
            finally:
                self.reactor.lock.release()
        for _, follower in tuple(self._followers):
            try:
                follower.release()
            except RuntimeError:
                pass
        if self._listening:
            Path(self._listening).unlink(missing_ok=True)
        Home.process, Home.node_id, Home.address, Home.escaped = b"", "", (b"", ()), None

    # ---------------------------------------------------------------------------------------------- sending

    def touch(self, link: Link) -> None:
        """Have the link flushed soon: by the next wait, the next batch of replies, or the helper."""
        self.dirty.add(link)
        if self._helper_rests:
            self._helper_rests = False
            self._parked.set()
            if self._helper_leads:
                self.reactor.kick()

    def flush(self) -> None:
        """Send everything queued."""
        dirty = self.dirty
        while dirty:
            try:
                dirty.pop().flush()
            except KeyError:
                return

    def request(self, kind: int, what: str, args: Any, call: Callable[[bool, Any], None]) -> None:
        """Ask the home agent (ASK: the head behind it); `call(is_ok, value)` comes under the lock."""
        with self.lock:
            n = next(self.ids)
            self.requests[n] = call
            self.agent.out.append((kind, n, what, args))
            self.agent.flush()

    def ask(self, what: str, args: dict[str, Any], *, kind: int = wire.ASK, limit_s: float | None = None) -> Any:
        """Return the head's answer (or the agent's own, of `kind` LOCAL or STORE).

        Raises:
            The error that the answer names; TimeoutError after `limit_s`.
        """
        box: list[tuple[bool, Any]] = []
        self.request(kind, what, args, lambda is_ok, value: box.append((is_ok, value)))
        if not self.wait(lambda: bool(box), limit_s):
            raise TimeoutError(f"`{what}`: no answer within {limit_s:g} s")
        is_ok, value = box[0]
        if not is_ok:
            raise named_error(value)
        return value

    # ---------------------------------------------------------------------------------------------- peers

    def with_peer(self, address: OwnerAddress, call: Callable[[Link | None], None]) -> None:
        """Call with the link to a process, now or once it is dialled; with None if it cannot be reached."""
        with self.lock:
            process = address[0]
            link = self.peers.get(process)
            if link is not None and not link.is_closed:
                call(link)
                return
            waiting = self._dialling.get(process)
            if waiting is not None:
                waiting.append(call)
                return
            self._dialling[process] = [call]
            if self.relay is not None:
                self.relay.dial(address, lambda link: self._dialled(address, link))
                return
        # Never dial on the thread that reads: two processes dialling each other would wait for each other's accept.
        threading.Thread(target=self._dial, args=(address,), name="shoal-dial", daemon=True).start()

    def _dial(self, address: OwnerAddress) -> None:
        process, texts = address
        sock: socket.socket | None = None
        refusal = ""
        for text in reachable(texts):
            try:
                sock = blocking.dial_peer(text, process, self.ssl_context, self.authenticator)
            except (OSError, ShoalError) as error:
                why = blocking.refusal(error)
                refusal = f"{text}: {why}" if why else refusal
                continue
            break
        with self.lock:  # in one piece: whoever gets the link here must hear of its end, which may come at once
            if self.is_closed:
                if sock is not None:
                    sock.close()
                return
            link = None
            self.refusals.pop(process, None)
            if sock is None and refusal:
                if len(self.refusals) >= REFUSALS_MAX:
                    del self.refusals[next(iter(self.refusals))]
                self.refusals[process] = refusal
            if sock is not None:
                link = Link(sock, self.reactor)
                self._take(link, address)
                self.reactor.links[link.fd] = link
                self.reactor._epoll.register(link.fd, 1)
            self._dialled(address, link)
        self.flush()
        try:
            self.reactor.kick()  # the leader may wait for what has just been settled here
        except (OSError, ValueError):
            pass  # closed meanwhile

    def _take(self, link: Link, address: OwnerAddress) -> None:
        link.peer, link.addresses = address[0], list(address[1])
        link.out.append((wire.HELLO, self.process, list(self.address[1])))
        self.peers[address[0]] = link
        self.reliable.greeted(link)

    def _dialled(self, address: OwnerAddress, link: Link | None) -> None:
        """Give a new link, or none, to those who wait for it. With the lock held."""
        if link is not None and self.peers.get(address[0]) is not link:
            self._take(link, address)
        for call in self._dialling.pop(address[0], ()):
            call(link)
        if link is not None:
            link.flush()

    def links(self) -> list[Link]:
        """Return every link, relayed ones too."""
        return [*self.reactor.links.values(), *(self.relay.links.values() if self.relay is not None else ())]

    def has_link(self, link: Link) -> bool:
        """Say whether nobody has seen the link's end yet."""
        return self.reactor.links.get(link.fd) is link or (self.relay is not None and self.relay.has(link))

    def drop(self, link: Link) -> None:
        """Close a link. Only by whoever leads."""
        if isinstance(link, RelayedLink):
            assert self.relay is not None
            self.relay.drop(link)
        else:
            self.reactor.drop(link)

    def greet(self, link: Link) -> None:
        """Say who we are to whoever has dialled us."""
        link.out.append((wire.HELLO, self.process, list(self.address[1])))
        link.flush()

    def _on_hello(self, link: Link, message: list[Any]) -> None:
        _, link.peer, link.addresses = message
        known = self.peers.get(link.peer)
        if known is None or known.is_closed:
            self.peers[link.peer] = link
        self.reliable.greeted(link)

    # ---------------------------------------------------------------------------------------------- arriving

    def arrived(self, link: Link, messages: list[Any]) -> None:
        """Handle one frame. The results are the hot path: everything about them is inlined here."""
        with self.lock:
            pop, handlers = link.pending.pop, self.handlers
            count, entry, last = 0, None, None
            for message in messages:
                if message[0] == 7:  # RESULT
                    one = pop(message[1], None)
                    if type(one) is ObjectRef:
                        format = message[2]
                        if format <= 1 and one._pins is None:  # NATIVE, PICKLED: settled on the spot
                            one._data = message[3]
                            one._format = format
                            one._ready = True
                            one._message = None
                            waiter = one._waiter
                            if waiter is not None:
                                one._waiter = None
                                if type(waiter) is list:
                                    for call in waiter:
                                        call()
                                else:
                                    waiter()
                            count += 1
                            entry, last = one, message
                            continue
                    if one is not None:
                        count += 1
                        entry, last = one, message
                        self.on_result(link, message, one)
                    elif (answered := link.asked.pop(message[1], None)) is not None:
                        answered(message[2], message[3])
                else:
                    handler = handlers.get(message[0])
                    if handler is not None:
                        handler(link, message)
            if count:
                self.on_results(link, last, entry)  # type: ignore[arg-type]
            if self.reliable.is_owing:
                self.reliable.acknowledge()
        if self.dirty:
            self.flush()

    def _on_welcome(self, link: Link, message: list[Any]) -> None:
        self._welcome = message

    def _on_elsewhere(self, link: Link, message: list[Any]) -> None:
        self._elsewhere = message[1]

    def _on_answer(self, link: Link, message: list[Any]) -> None:
        call = self.requests.pop(message[1], None)
        if call is not None:
            call(message[2], message[3])

    def _on_release(self, link: Link, message: list[Any]) -> None:
        for sender, token in message[1]:
            self.lending.release(link.peer, (sender, token))

    def link_closed(self, link: Link) -> None:
        """Forget a link that is gone, and tell everybody."""
        with self.lock:
            if self.peers.get(link.peer) is link:
                del self.peers[link.peer]
            self.dirty.discard(link)
            if link is self.agent and not self.is_closed:
                # Without its agent a process can neither lease nor learn of deaths: every wait ends with an error.
                self.is_closed = True
                self._parked.set()
                for lost in self.on_lost:
                    lost()
            for call in self.on_link_closed:
                call(link)

    # ---------------------------------------------------------------------------------------------- waiting

    def wait_ready(self, ref: ObjectRef[Any], limit_s: float | None = None) -> bool:
        """Wait until the ref is ready; False after `limit_s`. The fast way for one ref and one thread."""
        if self.dirty:
            self.flush()
        reactor = self.reactor
        if limit_s is not None or not reactor.lock.acquire(False):
            return self.wait(lambda: ref._ready, limit_s)
        try:
            poll = reactor.poll
            while not ref._ready:
                poll()
                if self._followers:
                    self._wake_followers()
                if self.is_closed:
                    raise_closed()
        finally:
            reactor.lock.release()
            if self._followers:
                self._hand_over()
        return True

    def wait(self, is_done: Callable[[], Any], limit_s: float | None = None) -> bool:
        """Wait until `is_done()`, which must be cheap and is called after each batch; False after `limit_s`."""
        if self.dirty:
            self.flush()
        end = None if limit_s is None else monotonic() + limit_s
        reactor = self.reactor
        has_followed = False
        try:
            while not is_done():
                if self.is_closed:
                    raise_closed()
                left = None if end is None else end - monotonic()
                if left is not None and left <= 0:
                    return False
                if reactor.lock.acquire(False):
                    try:
                        while not is_done():
                            if end is None:
                                reactor.poll()
                            else:
                                left = end - monotonic()
                                if left <= 0:
                                    return False
                                reactor.poll(left)
                            if self._followers:
                                self._wake_followers()
                            if self.is_closed:
                                raise_closed()
                    finally:
                        reactor.lock.release()
                        if self._followers:
                            self._hand_over()
                else:
                    has_followed = True
                    self._follow(is_done, left)
            return True
        finally:
            # We may have been told to lead and not need to: done, out of time, or interrupted. The others still wait.
            if has_followed and self._followers and not reactor.lock.locked():
                self._hand_over()

    def poll_now(self) -> None:
        """Read what has arrived, without waiting, unless somebody reads anyway."""
        reactor = self.reactor
        if reactor.lock.acquire(False):
            try:
                reactor.poll(0)
            finally:
                reactor.lock.release()
                if self._followers:
                    self._wake_followers()
                    self._hand_over()

    def _follow(self, is_done: Callable[[], Any], limit_s: float | None) -> None:
        """Wait until the leader says that it is done, or that nobody leads any more."""
        turn = threading.Lock()
        turn.acquire()
        follower = (is_done, turn)
        self._followers.append(follower)
        try:
            if self._helper_leads:
                self.reactor.kick()
            if is_done() or self.is_closed:
                return
            if not self.reactor.lock.locked():
                return  # it left before it could see us
            turn.acquire(timeout=-1 if limit_s is None else limit_s)
        finally:
            try:
                self._followers.remove(follower)
            except ValueError:
                pass

    def _wake_followers(self) -> None:
        for is_done, turn in tuple(self._followers):
            if self.is_closed or is_done():
                try:
                    turn.release()
                except RuntimeError:
                    pass  # woken already

    def _hand_over(self) -> None:
        for _, turn in tuple(self._followers):
            try:
                turn.release()
                return
            except RuntimeError:
                continue

    # ---------------------------------------------------------------------------------------------- helping

    def _help(self) -> None:
        """Flush, tidy up, and lead while nobody else does; sleep while there is nothing to do."""
        reactor = self.reactor
        seen, quiet, polled_at = -1, 0, monotonic()
        while not self.is_closed:
            time.sleep(HELPER_PAUSE_S)
            try:
                is_busy = bool(self.dirty)
                self._tidy()
                if is_busy or reactor.polls != seen:
                    now = monotonic()
                    if reactor.polls != seen:
                        polled_at = now
                    elif now - polled_at > UNREAD_S and not self.is_loop_driven:
                        # A thread that calls and calls and never waits: news and answers must not lie unread for ever.
                        self.poll_now()
                        polled_at = now
                    seen, quiet = reactor.polls, 0
                    continue
                quiet += 1
                if quiet < HELPER_QUIET:
                    continue
                if self.is_loop_driven or self._followers or not reactor.lock.acquire(False):
                    self._rest()
                    continue
                # Stay the leader, without a pause, until somebody else wants to be or something is queued.
                while self._lead():
                    if not reactor.lock.acquire(False):
                        break
                seen, quiet = reactor.polls, 0
            except Exception:
                if self.is_closed:
                    return
                self._report_trouble()

    def _rest(self) -> None:
        """Sleep while somebody else leads and nothing is queued."""
        self._parked.clear()
        self._helper_rests = True
        if not self.dirty and not self.is_closed:
            self._parked.wait(self._patience_s())
        self._helper_rests = False

    def _lead(self) -> bool:
        """Poll once and let go of the reactor's lock; say whether to go on leading."""
        self._helper_rests = self._helper_leads = True
        try:
            if self._followers or self.dirty or self.is_closed:
                return False
            self.reactor.poll(self._patience_s())
            was_roused = not self._helper_rests
        finally:
            self._helper_rests = self._helper_leads = False
            self.reactor.lock.release()
            if self._followers:
                self._wake_followers()
                self._hand_over()
        self._tidy()
        return not (was_roused or self._followers or self.is_closed)

    def _patience_s(self) -> float:
        """How long the helper may sleep without looking: short while something waits for its time."""
        return 0.05 if drops or self.has_timers() else 1.0

    def _tidy(self) -> None:
        if self.dirty:
            self.flush()
        if drops:
            self._send_drops()
        now = monotonic()
        for call in self.on_tick:
            call(now)
        if now >= self._sweep_at and self.escaped.refs:
            with self.lock:
                self.escaped.sweep()
            cost_s = monotonic() - now
            self._sweep_at = now + max(0.1, cost_s / SWEEP_SHARE)
        if self.dirty:
            self.flush()

    def _send_drops(self) -> None:
        """Tell owners which foreign refs are no longer held here."""
        found: dict[OwnerAddress, list[tuple[bytes, int]]] = {}
        try:
            while True:
                address, token = drops.popleft()
                found.setdefault(address, []).append(token)
        except IndexError:
            pass
        for address, tokens in found.items():
            with self.lock:
                self.reliable.send(address, (wire.RELEASE, [list(token) for token in tokens]))

    def _report_trouble(self) -> None:
        import sys
        import traceback

        print("shoal: the helper thread met an error of ours:\n" + traceback.format_exc(), file=sys.stderr)  # noqa: T201


def named_error(value: Any) -> Exception:
    """Return the error that a failed answer names: `[name, text]`."""
    from shoal.exceptions import LossReason, ObjectLostError, by_name
    from shoal.runtime.store.errors import UNTRUSTED

    name, text = (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 else ("", str(value))
    if name in ("ObjectLostError", UNTRUSTED):
        return ObjectLostError("", LossReason.UNTRUSTED if name == UNTRUSTED else None, text)
    return by_name(name, text)


def raise_closed() -> None:
    """Say that the runtime has ended under a waiting thread."""
    raise ConnectionError("shoal was shut down, or the node's agent is gone, while this thread waited")


_core: Core | None = None


def here() -> Core | None:
    """Return this process's core, None before `init`."""
    return _core


def settle_here(core: Core | None) -> None:
    """Make `core` this process's, or none."""
    global _core
    _core = core


__all__ = ["Core", "Elsewhere", "here", "named_error", "raise_closed", "settle", "settle_here"]
