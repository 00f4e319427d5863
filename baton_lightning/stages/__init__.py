"""The LightningModules: planner pretraining, tower alignment, joint training, and their plan sources."""
