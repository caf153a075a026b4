"""A window that moves while the model writes: `python examples/window.py [MODEL.gguf]`."""

import queue
import sys
import threading
import tkinter
from contextlib import suppress

from edgellama import InvalidRequest, Llama

model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that ships
pieces: queue.SimpleQueue[str] = queue.SimpleQueue()


def answer(question: str) -> None:
    with suppress(InvalidRequest):  # the window was closed in the middle of an answer
        for token in llm.stream_chat([{"role": "user", "content": question}], max_tokens=200):
            pieces.put(token.text)


def look_in() -> None:
    while not pieces.empty():
        text.insert("end", pieces.get())
    window.after(30, look_in)


window = tkinter.Tk()
window.title("edgellama")
text = tkinter.Text(window, wrap="word", width=60, height=16)
entry = tkinter.Entry(window)
entry.insert(0, "Tell me a story about a dog.")
entry.bind("<Return>", lambda _: threading.Thread(target=answer, args=(entry.get(),)).start())
text.pack(fill="both", expand=True)
entry.pack(fill="x")
entry.focus()
with Llama(model) as llm:
    look_in()
    window.mainloop()
