"""The values that all rooms talk about: frozen, without behaviour that needs more than themselves."""
