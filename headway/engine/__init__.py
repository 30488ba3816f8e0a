"""Prompts in, completions with log-probs out."""
