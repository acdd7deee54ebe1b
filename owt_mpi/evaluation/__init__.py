"""A trained network looked at: scored image by image, its layers written out, its answers for new images."""
