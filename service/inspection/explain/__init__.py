"""Class activation and attribution maps: which places of an image a network's score for a class depends on."""
