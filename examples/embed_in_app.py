"""A model inside a program: one `Llama` for many requests, errors handled, nothing left open."""

from edgellama import ContextFull, EdgellamaError, Llama


class Storyteller:
    """Keeps a conversation, so that each answer knows what was said before."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm
        self._messages: list[dict[str, str]] = []

    def ask(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        try:
            answer = self._llm.chat(self._messages, max_tokens=96, temperature=0.0)
        except ContextFull:
            self._messages = self._messages[-1:]  # forget what was said, keep the question
            answer = self._llm.chat(self._messages, max_tokens=96, temperature=0.0)
        self._messages.append({"role": "assistant", "content": answer.text})
        return answer.text


def main() -> None:
    try:
        with Llama(n_ctx=1024) as llm:
            storyteller = Storyteller(llm)
            for question in ("Tell me a story about a dog.", "What happened next?"):
                print(f"> {question}\n{storyteller.ask(question)}\n")
    except EdgellamaError as error:
        raise SystemExit(f"no story today: {error}") from error


if __name__ == "__main__":
    main()
