# pyarrow makes these functions when it is imported, one per compute kernel, so there is nothing to read them from.
from typing import Any

def __getattr__(name: str) -> Any: ...
