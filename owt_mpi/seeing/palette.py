"""Colours that people with any kind of colour vision tell apart, on white and on black.

Simulated for the three kinds of dichromacy (Machado et al. 2009), any two differ by 15 or more in CIELAB, and all have
a contrast of 3 or more to their background, as WCAG 2 wants of lines.
"""

ON_WHITE = ("#0b62b0", "#d97706", "#8a1a5c", "#2f9e77", "#3a2a10", "#b478e8")
ON_BLACK = ("#5aa9f5", "#e8811f", "#ffb8d8", "#2e9e74", "#efe39a", "#9a5bf0")
WHITE, BLACK = "#ffffff", "#14171a"


def colour_class(number: int) -> str:
    """Return the class that the page's style gives the colour of that number; behind the last, the first again."""
    return f"c{number % len(ON_WHITE)}"


def variables(colours: tuple[str, ...]) -> str:
    """Return the colours as variables of CSS."""
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))
