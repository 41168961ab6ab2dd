"""Frozen models that make maps of images when data is prepared: depth, contours of what a picture shows."""
