"""Long lists of names, written as people read them."""


def names(text: str) -> frozenset[str]:
    """The set of words in a text."""
    return frozenset(text.split())
