"""Generation of clips from runs."""
