"""A session of a run: the checkpoint it resumes from, the settings that changed since, and how the session ends."""
