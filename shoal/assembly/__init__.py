"""Floor 7: composition only. What each process is made of, and how a cluster on this machine starts and ends.

`python -m shoal.assembly ROLE SPEC` runs one process (head, agent, autoscaler); its guard starts it so.
"""
