"""A FastAPI app with the engine inside, no second process: needs `pip install fastapi`.

    uvicorn --app-dir examples web_app:app
    curl -N 'localhost:8000/story?about=fox'

A reader who goes away ends the answer: dropping it is cancelling it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from edgellama import Llama


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Llama(os.environ.get("MODEL"), n_parallel=4) as app.state.llm:  # None: the one that ships
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/story")
async def story(about: str) -> StreamingResponse:
    messages = [{"role": "user", "content": f"Tell me a story about a {about}."}]
    generation = app.state.llm.stream_chat(messages, max_tokens=200)

    async def text() -> AsyncIterator[str]:
        async for token in generation:
            yield token.text

    return StreamingResponse(text(), media_type="text/plain")
