"""Shards, their index, the order in which rows are read, decoding and read-ahead (no models, no losses)."""
