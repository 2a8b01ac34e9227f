"""Recipes: the settings of a training run, and their defaults."""
