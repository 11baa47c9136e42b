"""`deepfm explore`: one page on this machine that asks a trained model about users and rows.

`draws` finds the rows that fields are replaced by, `explorer` answers in plain data, `guards` and
`app` serve the answers and the page, and `page/` is what a browser runs. Data flows in that order.
"""
