"""Plain immutable values and pure rules. Nothing here does input or output."""
