"""Hostile files: recorded and written samples, mutated, read in processes of their own. See driver.py."""
