"""How a judgement ends early."""


class Fault(Exception):  # noqa: N818 - a verdict, not an error of this program
    """The package did what it must not do: `what` in a few words, `detail` with numbers."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(what)
        self.what, self.detail = what, detail


class Unclear(Exception):  # noqa: N818
    """Rounding, or a method that is not written here, decides what is right."""
