"""Recipes: all settings of a training run, and their defaults."""
