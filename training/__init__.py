"""Data sets, augmentation, recipes, the training loop, evaluation and its pictures.

Importing this package imports none of them; modules are imported on use.
"""
