"""The Django application that creates the default client from Django's settings."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings

from rudderpipe.client import configure
from rudderpipe.contrib.options import client_of


class RudderpipeConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """The application of the setting ``RUDDERPIPE = {"write_key": …, "data_plane_url": …}``.

    The mapping has our names or the Node SDK's, and other arguments of ``Client`` such as ``before_send``. Without the
    setting, ``rudderpipe.default_client()`` is created from the ``RUDDERPIPE_*`` variables.
    """

    name = "rudderpipe.contrib.django"
    label = "rudderpipe"
    verbose_name = "rudderpipe"

    def ready(self) -> None:
        """Create the client. Raise ``SettingsError`` now, at the start, and not at the first event."""
        options = getattr(settings, "RUDDERPIPE", None)
        if options is not None:
            client_of({name: value for name, value in options.items() if name != "proxies"}, configure)
