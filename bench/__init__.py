"""Measurements. Nothing here is a test: figures depend on the machine, so they are compared within one run."""
