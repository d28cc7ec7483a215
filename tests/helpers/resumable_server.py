"""What the fork server of `test_long` does before the first life: import everything, and trace what
can be traced.
"""

from tests.helpers import resumable as long_helpers

long_helpers.warm_up()
