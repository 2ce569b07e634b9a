"""What can be seen from outside: the account of a pipe, the rings of this host, and one snapshot of them all."""
