"""Data sets, augmentation, recipes, the training loop, evaluation and its pictures.

Importing this package imports none of them; each module is imported when it is used.
"""
