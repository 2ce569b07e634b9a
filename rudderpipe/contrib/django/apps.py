"""The application that makes the default client of Django's settings."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings

from rudderpipe.client import configure
from rudderpipe.contrib.options import client_of


class RudderpipeConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """``RUDDERPIPE = {"write_key": …, "data_plane_url": …}``, by our names or the Node SDK's, with ``before_send`` etc.

    Without it, ``rudderpipe.default_client()`` is made of the ``RUDDERPIPE_*`` variables.
    """

    name = "rudderpipe.contrib.django"
    label = "rudderpipe"
    verbose_name = "rudderpipe"

    def ready(self) -> None:
        """Make the client; raises ``SettingsError`` at start, not at the first event."""
        options = getattr(settings, "RUDDERPIPE", None)
        if options is not None:
            client_of({name: value for name, value in options.items() if name != "proxies"}, configure)
