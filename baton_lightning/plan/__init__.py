"""Plans as things one can keep, look at and change: one clip's planned tokens, their file, edits as data, a picture."""
