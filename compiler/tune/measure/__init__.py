"""Builds candidates, compares their outputs with the reference's and times them."""
