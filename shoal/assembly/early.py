"""The first thing in the embedded cluster's process: start the zygote, so that it and we make our imports side by side.

Nothing heavy may be imported here.
"""

from __future__ import annotations

from shoal.runtime.agent.zygotes import start_zygote


def main() -> None:
    """Run the embedded cluster that the command line describes."""
    zygote = start_zygote()
    from shoal.assembly import embedded

    embedded.main(zygote=zygote)


if __name__ == "__main__":
    main()
