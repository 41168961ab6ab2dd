"""What families share about token sequences: rows as trees of segments."""
