"""Serve `import ray` from Shoal: in this driver, and in the workers and actors of its job.

`python -m shoal.compat.ray SCRIPT` runs a Ray program unchanged; `import shoal.compat.ray` before the first
`import ray` does the same from inside. It also works where the real Ray is
installed. What Shoal does not serve raises an error that names it.

How it reaches workers: the folder `shoal/compat/shims` goes to the front of `sys.path`, which workers take over from
their driver; its package `ray` imports this module and steps aside.
"""

from __future__ import annotations

from shoal.compat.ray.serving import RAY_VERSION, install

install()

__all__ = ["RAY_VERSION", "install"]
