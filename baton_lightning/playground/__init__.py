"""A local page on which a plan is made, looked at and changed, and clips are made from it."""
