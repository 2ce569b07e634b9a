"""Manners of frameworks and servers; each module needs its own framework alone."""
