"""One HTML page of clips, scores and stages, in one file."""
