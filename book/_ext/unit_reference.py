"""The directive ``units``: the reference of every unit there is, so that a new one is in it."""

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from nalu.units import UNITS


class Units(SphinxDirective):
    """``autoclass`` of each unit, in the order of their files."""

    def run(self):
        lines = [line for name in UNITS for line in (f".. autoclass:: nalu.{name}", "")]
        self.content = StringList(lines, source="nalu.units")
        return self.parse_content_to_nodes()


def setup(app):
    app.add_directive("units", Units)
    return {"parallel_read_safe": True}
