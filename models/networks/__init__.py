"""Networks by name: the registry, the built-in families, torchvision's and custom ones."""
