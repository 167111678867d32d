"""Measurements of exported packages, and aids of the tests."""
