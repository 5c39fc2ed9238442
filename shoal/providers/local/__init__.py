"""The `local` provider: a machine is a process group (a session) on this host, with its own guard and agent."""
