"""Parameters, memory and operations of an experiment, computed without a download."""
