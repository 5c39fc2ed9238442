"""Objects that move between nodes: `serve.Server` sends, `pull.Puller` fetches, `wire` is what they say.

    server = Server(store, loop.call_soon_threadsafe, answer=lambda sock: blocking.answer(sock, tls, credential))
    host, port = server.start("127.0.0.1")
    puller = Puller(store, loop.call_soon_threadsafe, dial=lambda text: blocking.dial(parse(text), tls, credential))
    puller.pull(object_id, ["tcp:10.0.0.2:4711"], done, size=None)         # done(None | StoreError)

Both work on threads of their own and come to the store's thread only to lease, pin and seal.
"""
