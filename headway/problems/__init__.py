"""Where problems come from, how they are asked, which are kept."""
