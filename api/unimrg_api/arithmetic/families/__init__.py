"""One file for each model family: its parts with their costs, and how many tokens go through each."""
