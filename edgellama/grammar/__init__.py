"""What an answer must be, kept while it is written, token by token, over the library llguidance.

    JSON schema --json_schema--+
    GBNF -----------gbnf-------+--> Lark --start--> Constraint: which token may follow,
    regex, Lark ---------------+                    and through Ending and Walk what ends it in time

Nothing is enforced by halves: what cannot be enforced is refused by name, when the grammar is made.
See docs/structured-output.md for what is supported and what it costs.
"""

from .constraint import Constraint as Constraint
from .grammar import Grammar as Grammar
