"""What the fork server of `test_long` does before the first life: import everything, and trace what can be traced."""

import long_for_tests

long_for_tests.warm_up()
