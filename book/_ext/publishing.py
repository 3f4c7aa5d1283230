"""Links to the repository, when the site is built for one.

Where the book is published is known only to the machine that publishes it, from
``GITHUB_REPOSITORY`` ("owner/name"). A build without it has no such links, rather than dead
ones.
"""

import os


def configure(app, config):
    repository = os.environ.get("GITHUB_REPOSITORY")
    if not repository:
        return
    owner, name = repository.split("/")
    config.html_baseurl = f"https://{owner}.github.io/{name}/"
    config.html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
    }


def edit_the_source(app, pagename, templatename, context, doctree):
    """The edit button opens the Markdown that a notebook is generated from."""
    if pagename.startswith("notebooks/"):
        context["page_source_suffix"] = ".md"


def setup(app):
    app.connect("config-inited", configure, priority=1)
    app.connect("html-page-context", edit_the_source, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
