"""Losses, batches and the one training loop."""
