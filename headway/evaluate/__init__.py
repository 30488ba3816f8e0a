"""Held-out accuracy with honest error bars."""
