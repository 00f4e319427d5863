"""Measurements of the library: against other code, against itself, on a data set, on a GPU."""
