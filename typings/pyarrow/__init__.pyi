# pyarrow is compiled and ships no types; without these stubs pyright reports half of it as unknown attributes.
from typing import Any

def __getattr__(name: str) -> Any: ...
