"""Lightning callbacks; edited in a checkout, never installed."""
