"""Maps: images that a model learns to generate from an image, each with its name, geometry, drawing and wordings."""
