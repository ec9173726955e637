"""dealkit: click one small object, get all of its kind."""

__version__ = "0.1.0"
