"""The guard: one small process per machine. It supervises what runs there, holds the dead-man lease, cleans up.

It imports nothing of the runtime, so that it outlives whatever goes wrong above it. `python -m shoal.guard DIR`
runs the machine whose `machine.json` stands in DIR.
"""
