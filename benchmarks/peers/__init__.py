"""The job of the features flow in other stream processors, see README.md."""
