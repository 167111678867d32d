"""Measures exported packages, and makes packages for tests."""
