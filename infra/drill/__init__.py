"""The drill: faults put into a real stack, told by the console, mended as the runbooks say."""
