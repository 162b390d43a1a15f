"""The documentation site, which `make docs` builds with Sphinx: all pages of this folder, without a network."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import embedome  # noqa: E402

project = "embedome"
author = "The embedome developers"
version = release = embedome.__version__
project_copyright = author

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
# The captions of the report, which Snakemake reads.
exclude_patterns = ["report"]
myst_enable_extensions = ["colon_fence"]
# Links to headings are those of GitHub's view of the same files.
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
# Names in single backticks are code.
default_role = "code"
nitpicky = True
# Types of other libraries, whose documentation is elsewhere.
nitpick_ignore_regex = [("py:.*", r"(?!embedome).*")]

html_theme = "furo"
html_title = "embedome"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "native"
