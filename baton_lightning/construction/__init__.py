"""How networks come to be: made without memory, filled from parents, sharded over ranks."""
