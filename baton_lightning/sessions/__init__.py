"""A session of a run: what it goes on from, what changed since, and how it ends."""
