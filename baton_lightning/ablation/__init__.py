"""Rows of an ablation over seeds, and what they show."""
