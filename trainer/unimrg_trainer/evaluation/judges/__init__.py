"""Models that judge what was generated, and what they are asked (docs/method/evaluation.md)."""
