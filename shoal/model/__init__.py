"""Floor 1: frozen values that every other floor speaks in. No behaviour beyond what a value can say of itself."""
