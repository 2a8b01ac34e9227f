"""Engines that run exported files, and their selection."""
