"""The table of rollouts and the queries on it."""
