"""The JSON door: the calls of the API over HTTP, answered by the servicers that gRPC has."""
