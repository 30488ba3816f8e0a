"""One short file a stage."""
