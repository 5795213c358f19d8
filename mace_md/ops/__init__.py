"""One file an op: its public function and its reference. Importing them loads nothing and compiles nothing."""
