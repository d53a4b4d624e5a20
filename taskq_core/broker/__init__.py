"""The Redis side: keys, the functions in Lua, their typed stubs, and reads of the live state."""
