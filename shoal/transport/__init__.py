"""Floor 3: sockets. Connections that say hello before anything else, listeners with limits, the control client."""
