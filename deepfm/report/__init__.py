"""`deepfm report`: what a run is worth, as one HTML page that loads and runs nothing.

Decided here, for all of its parts: charts are SVG within the page, drawn by matplotlib, and every
chart has a sentence on what to look for and a table of its numbers. No script stands in the page,
and its policy (CSP) forbids any, so that nothing a title says can run. Choosing looks at the
validation split; the test split is one panel.

`runs` reads, `scores` holds what a model predicts for held-out rows, a module per kind of panel
makes panels of arrays, `page` puts them together. matplotlib is imported when something is drawn.
"""
