"""What is asked about an image and what is learnt from it: understanding, pixel, depth and segmentation."""
