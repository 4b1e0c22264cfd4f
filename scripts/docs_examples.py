"""Shows the examples of docstrings as such in the documentation.

They stand in docstrings as `>>>` lines in a paragraph of their own, without a heading, as `help()` shows them
best. mkdocstrings takes for examples only what is under the heading that Google's style has for them.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"(?:^|(?<=\n\n))((?:>>>|\.\.\.).*(?:\n.+)*)",
                lambda found: "Examples:\n" + re.sub("(?m)^", "    ", found[1]),
                obj.docstring.value,
            )
