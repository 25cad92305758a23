"""The tests as a package, so that `tests.support` can be imported from every directory of them."""
