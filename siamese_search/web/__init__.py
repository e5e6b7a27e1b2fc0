"""``sss serve``: one gallery in a browser, and an API over HTTP. Needs the [web] extra."""
