"""Drawing: figures (matplotlib), attention graphs (SVG), and pages (jinja2 templates).

`figures` has curves, panels and contact sheets, `graphs` attention graphs, `sheets` the explanation sheets
of x-features, `pages` the pages, and `document` turns the results of a report into the text and parts of its
page.
"""
