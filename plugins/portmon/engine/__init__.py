"""What changed: the state before and the observations of a run give the state after and the events."""
