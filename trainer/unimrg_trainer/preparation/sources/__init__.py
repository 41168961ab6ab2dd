"""Sources of samples, one file each: generated scenes, images of a folder, photographs that packages ship."""
