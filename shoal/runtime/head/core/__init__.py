"""The head's decisions, sans I/O: `HeadCore.react(event) -> list[Command]`. No clock, no socket, no thread in here."""
