"""Preloaded by the fork server and by nothing else: importing it ties the process to its parent's life.

A killed stage cannot stop its fork server, and workers that wait for work would keep it alive forever.
"""

from assets.child_process import end_forks_with_parent

end_forks_with_parent()
