"""The page that shows a pipe in a browser, as a WSGI application.

``rudderpipe web`` serves it. An application may also mount ``application()`` behind its own login.
"""

from rudderpipe.observe.web.application import application
from rudderpipe.observe.web.door import Access

__all__ = ["Access", "application"]
