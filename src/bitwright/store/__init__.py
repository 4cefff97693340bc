"""The run store: every measurement of a run, kept through kill -9, and files written whole or not at all."""

from bitwright.files import write_atomically
from bitwright.store.base import Memory, Store
from bitwright.store.keys import content_key
from bitwright.store.run_store import STORE_NAME, RunStore

__all__ = ["STORE_NAME", "Memory", "RunStore", "Store", "content_key", "write_atomically"]
