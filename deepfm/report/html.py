"""HTML as escaped text: what is no `Markup` cannot become a tag.

Decided here: the only way to markup is `element`, which escapes every child and attribute that is
plain text.
"""

import html
from collections.abc import Iterable

_VOID = {"meta", "link", "br", "hr"}  # tags of HTML that are never closed


class Markup(str):
    """Text that is HTML already."""


def text(value: object) -> Markup:
    """Any value as text of a page.

    Example:
        >>> print(text("<b> & 'c'"))
        &lt;b&gt; &amp; &#x27;c&#x27;
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(parts: Iterable[object]) -> Markup:
    """Several pieces, one after the other."""
    return Markup("".join(text(part) for part in parts))


def element(tag: str, *children: object, attributes: dict[str, object] | None = None) -> Markup:
    """An element; attributes that are None are left out, those that are True have no value.

    Example:
        >>> print(element("p", "a < b", attributes={"class": 'x"y', "hidden": True, "id": None}))
        <p class="x&quot;y" hidden>a &lt; b</p>
    """
    opened = tag
    for name, value in (attributes or {}).items():
        if value is True:
            opened += f" {name}"
        elif value is not None and value is not False:
            opened += f' {name}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{joined(children)}</{tag}>")
