"""The integration with Flask: a client for each application, and the context of each request."""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app

from rudderpipe.client import Client
from rudderpipe.contrib.options import client_of
from rudderpipe.contrib.wsgi import RequestContext


class Rudderpipe:
    """The Flask extension: ``rudder = Rudderpipe(app)``, or ``Rudderpipe()`` and ``init_app(app)``.

    Views call ``rudder.client.track(…)``. The settings are the mapping ``app.config["RUDDERPIPE"]``, with our names or
    the Node SDK's, and the arguments here. ``proxies`` is the number of your own proxies in front of the server.
    Raises ``SettingsError``.
    """

    def __init__(self, app: Flask | None = None, *, proxies: int = 0, **settings: Any) -> None:
        self._proxies = proxies
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Create the application's client, and add the context of each request to its events."""
        app.extensions["rudderpipe"] = client_of({**app.config.get("RUDDERPIPE", {}), **self._settings})
        app.wsgi_app = RequestContext(app.wsgi_app, self._proxies)  # type: ignore[method-assign]  # Flask's own way

    @property
    def client(self) -> Client:
        """The client of the current application."""
        client: Client = current_app.extensions["rudderpipe"]
        return client
