"""Objectives: what is asked about a sample, and what is learnt from it."""
