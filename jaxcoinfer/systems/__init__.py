"""One folder a system; `registry` is the list of them."""
