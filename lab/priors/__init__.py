"""Priors and question rules under trial, which the product does not use yet."""
