"""The directive ``units``: reference and formula of every unit there is, also of a new one."""

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from nalu.units import UNITS
from nalu.units.typeset import equations


class Units(SphinxDirective):
    """``autoclass`` of each unit, in the order of their files, and what ``scalar`` typesets to."""

    def run(self):
        lines = []
        for name, unit in UNITS.items():
            lines += [f".. autoclass:: nalu.{name}", ""]
            if hasattr(unit, "scalar"):
                lines += [
                    "   .. math::",
                    "",
                    *(f"      {line}\\\\" for line in aligned(unit)),
                    "",
                ]
        self.content = StringList(lines, source="nalu.units")
        return self.parse_content_to_nodes()


def aligned(unit):
    """The equations of a unit, to stand below each other at their first sign of equality."""
    return [line.replace(" = ", " &= ", 1) for line in equations(unit)]


def setup(app):
    app.add_directive("units", Units)
    return {"parallel_read_safe": True}
