"""Sphinx's configuration: ``make docs`` builds the site in ``build/docs``, and every warning is an error."""

from kie_async import __version__

project = "kie_async"
author = "The kie_async authors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
html_theme = "furo"
html_title = f"kie_async {__version__}"

myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# The docstring of a class describes its arguments and attributes; attrs would list the attributes once more.
autodoc_default_options = {"members": True, "show-inheritance": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
