"""Pure decisions of the autoscaler: no clock, no randomness, no I/O, no logging."""
