"""The autoscaler: `decide` is pure and says what to do; `act` observes, remembers and carries it out."""
