"""The LightningModules: planner pretraining, tower alignment, joint training; and where their plans come from."""
