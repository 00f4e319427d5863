"""Command lines of verbs that combine several rooms."""
