"""Rows of all objectives become one plan per micro-step: pure data that knows neither files nor modules."""
