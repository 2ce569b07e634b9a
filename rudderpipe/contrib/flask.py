"""Flask: a client for each application, and the context of each request."""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app

from rudderpipe.client import Client
from rudderpipe.contrib.options import client_of
from rudderpipe.contrib.wsgi import RequestContext


class Rudderpipe:
    """``rudder = Rudderpipe(app)``, or ``Rudderpipe()`` and ``init_app(app)``; then ``rudder.client.track(…)``.

    Settings are ``app.config["RUDDERPIPE"]``, a mapping by our names or the Node SDK's, and the arguments here. Raises
    ``SettingsError``. ``proxies``: how many of one's own stand before the server.
    """

    def __init__(self, app: Flask | None = None, *, proxies: int = 0, **settings: Any) -> None:
        self._proxies = proxies
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Make the application's client, and give its requests a context."""
        app.extensions["rudderpipe"] = client_of({**app.config.get("RUDDERPIPE", {}), **self._settings})
        app.wsgi_app = RequestContext(app.wsgi_app, self._proxies)  # type: ignore[method-assign]  # Flask's own way

    @property
    def client(self) -> Client:
        """That of the application that is answering."""
        client: Client = current_app.extensions["rudderpipe"]
        return client
