"""Offsite: secure ZFS cloud backup."""

__version__ = "0.1.0"
