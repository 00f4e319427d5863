"""Verbs that join rooms: their command lines."""
