"""LightningDataModules. They are part of the checkout and are not installed."""
