"""The integration with Django: an entry in ``INSTALLED_APPS``, and the mapping ``RUDDERPIPE`` in the settings."""
