"""Ablations over seeds, and their reports."""
