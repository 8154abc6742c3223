"""Drawing: figures (matplotlib), attention graphs (SVG), and pages (jinja2 templates).

`figures` draws curves, panels and contact sheets; `graphs` draws attention graphs; `sheets` draws explanation
sheets of x-features; `pages` renders the pages; and `document` converts the results of a report to the text
and parts of its page.
"""
