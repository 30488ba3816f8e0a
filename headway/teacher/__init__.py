"""Rollouts of a teacher behind a server, or of a local checkpoint: each asked for once, kept, judged and counted."""
