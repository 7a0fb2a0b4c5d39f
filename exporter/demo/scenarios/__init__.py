"""Scenarios, a module a section as each is named after its code, and the stories; `table` has them all."""
