"""Rectified flow: the time convention, draws, guidance and samplers."""
