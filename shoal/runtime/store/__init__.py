"""Floor 3: the object store of one node: segments in shared memory, spilling, transfers between nodes.

Who does what
-------------
The **agent** has a `NodeStore`: quota, segments, objects, pins, spilling. One thread, no call blocks; answers that need
room or the disk come through callbacks. A process is named by its id (bytes), an object by its id (24 bytes).

    place = NodeDirectory(shared_memory_root(), cluster_uid, node_id)      # sweep_stale(root) first
    disk = DiskThread(wake=lambda: loop.call_soon_threadsafe(disk.poll))
    store = NodeStore(place.path, limit_bytes, clock, disk=disk, spill_directory=spill_place.path,
                      reclaim=ask_everybody_for_spares)
    store.warm()                           # memory for the first puts, in the background
    store.lease(process, size, answer)     # answer(Segment | NoRoom)
    store.lease_now(process, size)         # Segment | None: for filling a process's stock along with a reply
    store.seal(process, object_id, segment_id, size, owner=..., is_primary=True)
    store.pin(process, object_id, answer)  # answer(Located | ObjectAbsent | NoRoom)
    store.unpin(process, object_ids)       # what Reader.drain() returned there
    store.free(object_ids)                 # the owner says so
    store.give_back(process, segment_id)   # Writer.spare()
    store.ended(process)                   # died: its leases and pins go, what it sealed stays
    store.forked(process)                  # its user code called os.fork()
    store.tick()                           # a few times a second
    place.remove(); disk.close()

A **writer** (driver, worker) takes values apart and writes them; its stock of leased segments saves the round trip:

    writer = Writer(directory, lease=ask_the_agent_and_wait)                # lease(size) -> Segment
    dumped = dump(value, refs_found.append)                                 # is_native(value)? then no dump is needed
    if dumped.is_inline:
        message = (dumped.format, dumped.packed())                          # the receiver: load_inline(format, data)
    else:
        sealed = writer.put(dumped)                                         # tell the agent: seal(..., *sealed)

A **reader** attaches without copying; arrays are read-only and pin the object until they are gone:

    reader = Reader(directory)
    view = reader.held_view(object_id)                                      # None: pin at the agent, then
    value = reader.load(object_id, located)
    reader.drain()                                                          # now and then: what to unpin at the agent

`Segment`, `Located` and `Sealed` encode as arrays, fit for a message as they are.
"""

from shoal.runtime.store.errors import (
    BadLayout,
    ObjectAbsent,
    ObjectStoreFullError,
    OutOfDiskError,
    StoreError,
    TransferError,
)
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.values import (
    BUFFERS,
    BYTES,
    INLINE_BYTES_MAX,
    NATIVE,
    PICKLE,
    Dumped,
    deregister_serializer,
    dump,
    is_native,
    load,
    load_inline,
    load_view,
    register_ref_type,
    register_serializer,
)
from shoal.runtime.store.writer import Sealed, Writer

__all__ = [
    "BUFFERS",
    "BYTES",
    "INLINE_BYTES_MAX",
    "NATIVE",
    "PICKLE",
    "BadLayout",
    "Dumped",
    "Located",
    "ObjectAbsent",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "Reader",
    "Sealed",
    "Segment",
    "StoreError",
    "TransferError",
    "Writer",
    "deregister_serializer",
    "dump",
    "is_native",
    "load",
    "load_inline",
    "load_view",
    "register_ref_type",
    "register_serializer",
]
# The agent's half is imported from its modules (`node`, `spill`, `places`, `transfer`): workers do not load it.
