"""A worker process from its fork to its end: cut loose from the zygote, attach to the agent, work, exit.

It exits when its agent is gone, whoever else it talks to: nothing may outlive the node.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

# Imported before the fork, so that no worker pays for them.
import cloudpickle  # noqa: F401
import msgspec

from shoal.runtime.client import api
from shoal.runtime.client.core import Core
from shoal.runtime.client.driver import SWITCH_INTERVAL_S
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.session import Session
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.worker import actor, actor_threads  # noqa: F401  # most workers become actors
from shoal.runtime.worker.execute import Executor
from shoal.runtime.worker.logs import Prints
from shoal.runtime.worker.zygote import die_with_parent
from shoal.transport.marks import open_mark
from shoal.wire.hello import Credential, Role

GC_THRESHOLDS = (50_000, 20, 50)
_LEARNT = [msgspec.msgpack.Decoder(kind) for kind in (Located, Segment)]
"""What msgspec learns of a type at its first use takes 0.7 ms: learnt before the fork."""


def run(request: dict[str, Any]) -> None:
    """Be the worker that the agent asked the zygote for. Does not return."""
    process = bytes.fromhex(request["process"])
    _cut_loose()
    prints = Prints(request)
    faulthandler.enable(2)  # a crash in C code says where, as in Ray
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    credential = Credential(request["uid"], bytes.fromhex(request["secret"]), Role.DRIVER)
    session_dir = Path(request["session"])
    core = Core(credential, None, session_dir, is_worker=True)
    session = Session(core)
    executor = Executor(session, open_mark(session_dir, process), prints)
    core.process = process
    core.on_link_closed.append(lambda link: _exit_without_agent(core, link))
    core.listen_before_attach(process, request.get("listen_host", ""), request.get("tls"))
    core.attach(request["agent"], process, {"addresses": list(core.address[1])}, kind="worker")
    api.adopt(session)
    prints.start(session)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    core.start_helper()
    try:
        executor.loop()
    except BaseException:
        traceback.print_exc()
        executor.replies.last_words()
        os._exit(1)


def _cut_loose() -> None:
    """Leave the zygote's group and signals, and never repeat its random numbers."""
    die_with_parent()
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _exit_without_agent(core: Core, link: Link) -> None:
    if link is core.agent:
        os._exit(0)
