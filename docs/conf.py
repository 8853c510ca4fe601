"""Sphinx configuration, used by `make docs`."""

from typing import ClassVar

from pygments.lexer import RegexLexer
from pygments.token import Comment, Keyword, Name, String, Text
from sphinx.highlighting import lexers


class BamlLexer(RegexLexer):
    """A rough lexer for highlighting BAML, which Pygments does not know."""

    name = "BAML"
    tokens: ClassVar = {
        "root": [
            (r"//.*", Comment.Single),
            (r'#".*?"#|#".*', String),
            (r'"[^"\n]*"', String),
            (r"\b(function|class|enum|client|generator|test|template_string|prompt|provider|options)\b", Keyword),
            (r"@@?\w+", Name.Decorator),
            (r"[^\W\d]\w*|\s+|.", Text),
        ]
    }


lexers["baml"] = BamlLexer()

project = "supabase-baml-bridge"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # headings get the same anchors as on GitHub
html_theme = "furo"
html_title = project
html_copy_source = False
nitpicky = True
# Pygments rejects characters such as … in JSX text; the tests compile these blocks
suppress_warnings = ["misc.highlighting_failure"]
