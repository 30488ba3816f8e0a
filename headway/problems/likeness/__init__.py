"""Are two questions one problem? Held-out questions in other words, and near duplicates."""
