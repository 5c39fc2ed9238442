"""What clients (drivers and workers), agents and each other say on the task path: lists that begin with a number.

These messages are plain lists, not structs: on the fast path a tuple goes in and a list comes out, and one encode
serves a whole batch. Both ends of a link number what they send by the sender's own object counter, so an id on the
wire is a small number; the process id of the sender, told once in `HELLO`, makes it unique.

Names of fields: `n` a number of the sender's counter, `process` a process id (bytes), `addresses` a list of address
texts, `key` the number that a client gave to a class of work, `lease` the number that an agent gave to a lease.
"""

from __future__ import annotations

from typing import Final

# ------------------------------------------------------------------------------------------ how a value is written
NATIVE: Final = 0
"""A scalar (bytes, str, float, bool, None, int of 64 bits), or the tuple of positional arguments made of such."""
PICKLED: Final = 1
"""Bytes of pickle protocol 5 without out-of-band buffers or refs. Arguments: of `(args, kwargs)`."""
PARTS: Final = 2
"""Arguments only: `[[format, data], ...]` for each positional argument, then a list of names for the last of them."""
BUFFERED: Final = 3
"""`[pickle, [buffer, ...]]`: small out-of-band buffers."""
NESTED: Final = 4
"""`[pickle, [buffer, ...], [[process, addresses, [n, ...]], ...]]`: the value holds refs of these owners."""
STORED: Final = 5
"""`[place, size, nested]`: the value lies in a node's store; `place` is `[object id, node id, transfer addresses,
owner's process, owner's addresses, owner's number]`, `nested` as in NESTED."""
REF: Final = 6
"""Arguments only: `[process, addresses, n]`: ask the owner for it before the task starts."""
NOTHING: Final = 7
"""No value: the answer of a call with `num_returns=0`."""
ERROR: Final = 9
"""Bytes of a pickled exception."""

# ------------------------------------------------------------------------------------------ between peers (clients)
HELLO: Final = 1
"""process, addresses: the first message in both directions."""
FUNCTION: Final = 2
"""function (16 bytes), blob, name: sent once per link, before the first task that needs it."""
TASK: Final = 3
"""n, function, format, arguments: a plain task with one result and no options that its worker must know."""
SPECIAL: Final = 4
"""n, function, format, arguments, options: num_returns, is_streaming, name, attempt, group ..., see `Options`."""
CALL: Final = 5
"""n, method, format, arguments: an actor call with one result."""
SPECIAL_CALL: Final = 6
"""n, method, format, arguments, options."""
RESULT: Final = 7
"""n, format, data, duration_us: the answer to TASK, CALL, ASK_VALUE. SEVERAL holds `[[format, data], ...]`."""
UNSTARTED: Final = 8
"""[n, ...], is_final: tasks given back unstarted: the worker blocks, or runs a long one; final: it is used up."""
ASK_VALUE: Final = 9
"""n, object: the value of the receiver's object, once it is ready; answered by RESULT."""
RELEASE: Final = 11
"""[[sender, token], ...]: the receiver's refs lent under these tokens are no longer held here."""
LEND: Final = 12
"""borrower, token, [object, ...]: the receiver's objects are now also held by `borrower`."""
CANCEL: Final = 13
"""n, is_forced, is_recursive."""
ITEM: Final = 14
"""n, index, format, data[, is_again]: one item of a streaming generator; the last word is its RESULT. Again: sent
before, in the same run, on a connection that has broken."""
CONSUMED: Final = 15
"""n, count: the caller has taken so many items (back-pressure)."""
KEPT: Final = 16
"""n, [owner, ...]: refs of these owners among the task's arguments outlive it; said just before its RESULT."""
LOST: Final = 17
"""n, object, node: the receiver's object cannot be read where we said it is; make it again."""
ITEMS_HERE: Final = 22
"""n, count: so many items of an actor's stream have arrived; said where a connection may lose what is under way."""
NUMBERED: Final = 21
"""serial, message: a LEND or RELEASE, which must not be lost or applied twice (`runtime/client/reliable.py`)."""
TAKEN: Final = 20
"""serial: NUMBERED messages of the receiver have come up to here."""
STOP_STREAM: Final = 18
"""n: nobody wants further items."""
CANCEL_MADE: Final = 19
"""object, is_forced, is_recursive: cancel the task that makes the receiver's object, as its owner would."""

ASK_ORIGINS: Final = 28
"""serial, low, high: which tasks made the receiver's numbers from `low` to `high`, and when; answered by ORIGINS."""
ORIGINS: Final = 29
"""serial, [[first number, id of the task that made it and those after it, wall time], ...]."""

SEVERAL: Final = 8
"""A format of RESULT: the results of a task with `num_returns` other than 1."""

# ------------------------------------------------------------------------------------------------ client to agent
ATTACH: Final = 30
"""kind (`driver`, `worker` or `owner`: one whose home is another agent), process (empty: give me one), os pid, info."""
CLASS: Final = 31
"""key, spec: a class of work: amounts, selector, spread, job, environment, group, bundle, max_calls."""
NEED: Final = 32
"""key, waiting, seen, duration_us (-1: unknown), running: the whole backlog of the class, not a change."""
RETURN: Final = 33
"""lease, is_reusable."""
BLOCKED: Final = 34
"""Nothing follows: this worker's task waits in `get` or `wait`."""
UNBLOCKED: Final = 35
ASK: Final = 36
"""n, what, args: a request to the head."""
FATE: Final = 37
"""process: has it died? Answered by DIED, now or as soon as it does, or by ALIVE."""
ROWS: Final = 38
"""[row, ...], [count, ...], about: what ran or runs here, for the state tables; see `runtime/agent/ran.py` for both."""
ACTOR_UP: Final = 39
"""actor, generation: the constructor returned."""
ACTOR_FAILED: Final = 40
"""actor, generation, cause, why, error: the constructor raised, or the actor ends of its own wish."""
REVOKE: Final = 41
"""lease, why: kill its worker; answered by DIED with what had started."""
STORE: Final = 42
"""n, what, arguments: a request to the node's object store; answered by ANSWER."""
PRINTED: Final = 43
"""[[name, line], ...], inode, offset, is_error: what the worker's code printed, for its driver; it reaches so far in
the file of that inode, from where the agent reads on if the worker dies."""
OWNS: Final = 45
"""is_owner: others hold refs of this worker's objects, so it must not be ended while it is idle."""
USED_UP: Final = 46
"""Nothing follows: this worker has run its `max_calls` tasks and shall not be leased again."""
NOTED: Final = 47
"""n: the answer to RELOCATED."""
SHOWN: Final = 48
"""n: the answer to SHOW."""
OWED: Final = 49
"""serial, [row, ...], total, [[function, type, state, count], ...]: the answer to ASK_OWED."""
LOCAL: Final = 44
"""n, what, args: a request that the agent answers itself."""

# ------------------------------------------------------------------------------------------------ agent to client
WELCOME: Final = 60
"""process, info."""
LEASED: Final = 61
"""key, lease, process, addresses, gpus."""
RECLAIM: Final = 62
"""lease: others wait; give it back once what was pushed is done. Or lease, True: give it back only if nothing is left
for it, now or later, and do not keep it then for what might come."""
DIED: Final = 63
"""process, why, started: the verdict; `started` is the highest n that its worker began (-1: unknown)."""
ALIVE: Final = 64
"""process."""
ANSWER: Final = 65
"""n, is_ok, value: of ASK, STORE or LOCAL."""
TELL: Final = 66
"""what, value: news from the head."""
PLACED: Final = 67
"""key, [[node, addresses, count], ...]: ask these agents for leases."""
BIND: Final = 68
"""info: the worker now belongs to a job: paths, working directory, environment, GPUs."""
BUILD: Final = 69
"""actor, generation, spec, info: construct this actor."""
STOP: Final = 70
"""why: end at once."""
UNPLACEABLE: Final = 71
"""key, why, is_final: the class fits nowhere now; final: it never will, fail its tasks."""
FORWARDED: Final = 72
"""pid, is_error, [[name, line], ...]: prints of one of the job's workers."""
SEGMENT: Final = 73
"""segment: a leased segment for the client's stock, so that its next put asks nobody."""
RELOCATED: Final = 75
"""n, object id, node, transfer addresses: your object lies there now; answered by NOTED."""
COPIED: Final = 78
"""object id, node, is there, transfer address: a copy of your object was fetched to that node, or gave way there."""
SHOW: Final = 76
"""n: hand on what has been printed so far; answered by SHOWN."""
ASK_OWED: Final = 77
"""serial, limit, filters: which tasks of yours have not been answered? Answered by OWED."""
SPARE: Final = 74
"""Nothing follows: room is short, give back the segments in stock."""

# ------------------------------------------------------------------------------------------------ agent to agent
FREED: Final = 80
"""[object id, ...]: nobody refers to these any more."""
MOVED: Final = 81
"""n, object id, size, transfer addresses: take a primary copy, or keep your own as such; answered by ANSWER."""
MOVED_OWNED: Final = 82
"""n, owner's process, object id, node, transfer address: tell the owner where it is now; answered by ANSWER."""
COPIED_OWNED: Final = 83
"""owner's process, object id, node, is there, transfer address: tell the owner so, by COPIED."""

# ------------------------------------------------------------- by way of a home agent (docs/drivers-elsewhere.md)
VIA: Final = 90
"""channel, body: one frame's body of a relayed link, in either direction between a driver and its home agent."""
VIA_DIAL: Final = 91
"""channel, process, addresses: connect me to this process; answered by VIA_OPEN or VIA_CLOSE."""
VIA_OPEN: Final = 92
"""channel, role: a relayed link is open. An even channel: a peer of this role has dialled the driver. To that peer the
agent says the same, with channel 0, before anything else."""
VIA_CLOSE: Final = 93
"""channel: it is closed, by the other end or by the agent."""
VIA_TAKEN: Final = 94
"""channel, bytes: the peer has taken so many more; the driver keeps at most VIA_BYTES_MAX under way in one channel."""
VIA_TO: Final = 95
"""process: the first and only message of a peer that wants everything after it relayed to this driver of the agent."""
ELSEWHERE: Final = 96
"""addresses: what the head answers to a driver: its home agent listens there."""
VIA_BYTES_MAX: Final = 4 * 2**20
"""How many bytes of one relayed link may be between the driver and the peer."""
