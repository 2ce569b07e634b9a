"""Integrations with frameworks and servers; each module needs only its own framework."""
