"""Data at rest: what a shard holds, how it is made, and in which order it is read."""
