"""The configuration of the documentation site; ``make docs`` builds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the extensions, and for the package on a machine that only builds the site
from rudderpipe._version import VERSION  # noqa: E402  # as above

project = "rudderpipe"
version = release = VERSION
html_title = f"rudderpipe {VERSION}"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.site.pages", "docs.site.api", "docs.site.command_line"]
exclude_patterns = ["deploy", "site"]
highlight_language = "text"  # of a block that names no language
myst_heading_anchors = 6

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90

smartquotes = False  # which would make one dash of the two of an option

html_theme = "furo"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_use_index = False  # the search finds names
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
