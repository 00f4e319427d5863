"""Plans of single clips: planned tokens, their file format, edits and pictures."""
