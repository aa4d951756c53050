"""Recipes: the typed document of a run, read and explained without torch."""
