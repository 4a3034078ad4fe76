"""What changed: stored state and observations in, next state and events out. Pure."""
