"""One plain decoder; checkpoints in and out."""
