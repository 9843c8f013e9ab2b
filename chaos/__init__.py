"""Breaks everything around the app, by a seed, and then asks whether each event lies in the log once and in order."""
