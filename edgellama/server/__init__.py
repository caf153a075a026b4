"""The HTTP server: OpenAI's endpoints and llama-server's, over any number of models.

    socket -> transport (limits of bytes and time) -> door (who may ask) -> app (ROUTES)
           -> one file an endpoint: request -> (prompt, options) -> Llama -> answer

The handlers are thin: what a request says and how an answer looks are pure functions.
"""
