"""Data sets as LightningDataModules; edited in a checkout, never installed."""
