"""Baton: plan-guided joint video-audio diffusion, as a PyTorch Lightning framework."""
