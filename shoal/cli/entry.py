"""Where the command line starts: Ctrl-C while modules load is as quiet as it is later."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line and run it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from shoal.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
