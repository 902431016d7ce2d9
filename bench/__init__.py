"""Measurements, for `make bench`. They print figures and never fail a test."""
