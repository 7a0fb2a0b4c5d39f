"""Asyncio clients: the only place where foreign exceptions are translated."""
