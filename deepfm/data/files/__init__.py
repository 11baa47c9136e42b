"""Files of raw rows: their formats, and tables read from them and written to them."""
