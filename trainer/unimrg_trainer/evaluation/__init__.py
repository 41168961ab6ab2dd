"""Answers, losses and images become scores with intervals, pictures and a summary. Knows no model."""
