"""What the fork server of `test_resumable` does before the first fork: import everything, and trace
what can be traced.
"""

from tests.helpers import resumable

resumable.warm_up()
