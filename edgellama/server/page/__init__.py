"""The web page that the server gives at its root: a chat over the same API that everyone uses.

`index.html` is the page with its templates, `page.css` its look, and each `*.js` is a module with
one noun. They are served as they are: no build step, no framework, and no request that leaves the
origin. A policy of `default-src 'self'` is enough for all of it, because nothing is inline, and
what a model writes reaches the page as text nodes only.
"""
