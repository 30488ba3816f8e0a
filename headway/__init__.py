"""Headway turns a small language model into a reasoning model in four measured steps, on one table of rollouts."""

__version__ = "0.1.0"
