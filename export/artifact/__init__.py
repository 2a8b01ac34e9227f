"""The artifact directory: manifest, formats, golden images and BentoML's model store."""
