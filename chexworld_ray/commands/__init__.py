"""Commands: arguments only."""
