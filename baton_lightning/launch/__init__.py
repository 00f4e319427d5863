"""Who starts what, where, and how it stands: chains, SLURM, processes, the demo."""
