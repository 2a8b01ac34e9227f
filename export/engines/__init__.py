"""Engines that run exported files, and the choice among them."""
