"""Where lists of hosts come from: one module for each kind of source, its settings included."""
