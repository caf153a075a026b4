"""A model inside a program that stays responsive: `python examples/embed_in_app.py [MODEL.gguf]`.

A thread of its own answers; the program's loop shows what has come and could do anything else. The
kernels run without Python's lock, so a window would go on moving.
"""

import queue
import sys
import threading

from edgellama import EdgellamaError, Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships
pieces: queue.Queue[str | None] = queue.Queue()
enough = threading.Event()  # what a stop button would set


def answer(llm: Llama, question: str) -> None:
    try:
        for token in llm.stream_chat([{"role": "user", "content": question}], max_tokens=200):
            pieces.put(token.text)
            if enough.is_set():
                break
    except EdgellamaError as error:
        pieces.put(f"no answer: {error}")
    pieces.put(None)


with Llama(model, n_ctx=1024) as llm:
    threading.Thread(target=answer, args=(llm, "Tell me a story about a dog.")).start()
    shown = ""
    while (piece := pieces.get()) is not None:  # a GUI would look in here from a timer
        print(piece, end="", flush=True)
        shown += piece
        if len(shown.split()) >= 25:  # the user has read enough
            enough.set()
    print(f"\n[{len(shown.split())} words, {'stopped' if enough.is_set() else 'to the end'}]")
