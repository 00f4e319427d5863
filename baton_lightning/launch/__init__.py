"""Starts runs and reports their status: chains, SLURM jobs, processes, the demo."""
