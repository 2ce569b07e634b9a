"""Django: ``"rudderpipe.contrib.django"`` in ``INSTALLED_APPS``, and the mapping ``RUDDERPIPE`` in the settings."""
