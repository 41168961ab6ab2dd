"""From images and maps to what the model learns to generate."""
