"""Floor 1½: the one answer to "does it fit?", for head, agent and planner alike. Pure, exact, deterministic."""
