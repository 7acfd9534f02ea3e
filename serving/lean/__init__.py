"""gRPC over HTTP/2 on one thread, where a call costs a quarter of what it does through gRPC's core.

    hpack        header blocks to headers
    frames       what goes over a connection
    connection   one client: streams, windows, limits
    call         one call: its context, and the handler run
    server       listens; what `grpc.aio.server` offers, as far as Headrace uses it

grpcio's core hands each event of a call from thread to thread, which took 0.45 to 0.6 ms of CPU a
call with nothing to do. The same calls here are read, run and answered by the event loop.
"""
