"""Tools for those on call: what is behind, what was refused, what is wrong, and how to mend it."""
