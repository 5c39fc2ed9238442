"""Floor 0: errors, ids, time, chance, amounts, back-off and the event log. Imports nothing of Shoal."""
