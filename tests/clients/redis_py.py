"""Reads through the balancer with redis-py, as a program does that knows only Redis.

Usage: redis_py.py PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL

tests/suite/clients.rs loads the data. Messages are published directly at the backends. LB_TEST_CA names the CA, if the
balancer is to be spoken to in TLS.
"""

import os
import sys
import threading

import redis


CA = os.environ.get("LB_TEST_CA")
TLS = {"ssl": True, "ssl_ca_certs": CA} if CA else {}


FUNCTIONS = """#!lua name=readers
redis.register_function{
  function_name='read_one', flags={'no-writes'},
  callback=function(keys) return redis.call('GET', keys[1]) end}
"""


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"redis-py, {what}: {found!r} instead of {wanted!r}")


def expect_error(what, error, action):
    try:
        found = action()
    except error:
        return
    except Exception as other:
        sys.exit(f"redis-py, {what}: {other!r} instead of {error.__name__}")
    sys.exit(f"redis-py, {what}: {found!r} instead of {error.__name__}")


def every_type(client):
    expect("GET", client.get("greeting"), "hello")
    expect("GET of an unknown key", client.get("nothing"), None)
    expect("MGET", client.mget("greeting", "nothing", "number"), ["hello", None, "42"])
    expect("HGETALL", client.hgetall("hash"), {"name": "Ada", "role": "engineer"})
    expect("HMGET", client.hmget("hash", "name", "none"), ["Ada", None])
    expect("LRANGE", client.lrange("list", 0, -1), ["a", "b", "c"])
    expect("SMEMBERS", client.smembers("set"), {"x", "y", "z"})
    expect("SISMEMBER", bool(client.sismember("set", "x")), True)
    expect("ZSCORE", client.zscore("zset", "two"), 2.5)
    scores = [tuple(pair) for pair in client.zrange("zset", 0, -1, withscores=True)]
    expect("ZRANGE", scores, [("one", 1.0), ("two", 2.5)])
    entries = [("1-1", {"event": "begin"}), ("2-1", {"event": "end"})]
    expect("XRANGE", [tuple(entry) for entry in client.xrange("stream")], entries)
    expect("XLEN", client.xlen("stream"), 2)
    expect("XINFO", client.xinfo_stream("stream")["length"], 2)
    expect("XREAD", len(client.xread({"stream": "1-1"})), 1)
    expect("TYPE", client.type("zset"), "zset")
    expect("TTL", client.ttl("greeting"), -1)
    expect("EVAL_RO", client.eval_ro("return redis.call('GET', KEYS[1])", 1, "greeting"), "hello")
    expect_error("WRONGTYPE", redis.ResponseError, lambda: client.get("hash"))


def connection(client, protocol):
    expect("PING", client.ping(), True)
    expect("ECHO", client.echo("anybody?"), "anybody?")
    expect("CLIENT GETNAME", client.client_getname(), "reader")
    info = client.client_info()
    expect("CLIENT INFO", info["name"], "reader")
    expect("its protocol", int(info["resp"]), protocol)
    expect("INFO", "redis_version" in client.info(), True)
    expect("INFO of a section", "redis_version" in client.info("server"), True)
    expect("DBSIZE", client.dbsize() > 1000, True)
    expect("COMMAND", "get" in client.command(), True)
    expect("CONFIG GET", isinstance(client.config_get("maxmemory"), dict), True)
    expect("TIME", len(client.time()), 2)


def pipelines(client):
    pipe = client.pipeline(transaction=False)
    for number in range(500):
        pipe.get(f"key:{number}")
    expect("a pipeline", pipe.execute(), [str(number) for number in range(500)])
    pipe = client.pipeline(transaction=False).get("greeting").get("hash").llen("list")
    found = pipe.execute(raise_on_error=False)
    expect("an error in a pipeline", [str(found[0]), type(found[1]), found[2]], ["hello", redis.ResponseError, 3])


def transactions(client):
    expect("MULTI", client.pipeline().get("greeting").scard("set").execute(), ["hello", 3])
    with client.pipeline() as pipe:
        pipe.watch("greeting")
        expect("GET after WATCH", pipe.get("greeting"), "hello")
        pipe.multi()
        pipe.get("greeting")
        pipe.hget("hash", "name")
        expect("EXEC after WATCH", pipe.execute(), ["hello", "Ada"])
    found = client.transaction(lambda pipe: (pipe.multi(), pipe.llen("list")), "list")
    expect("transaction()", found, [3])


def touched(client, backends):
    with client.pipeline() as pipe:
        pipe.watch("touched")
        pipe.get("touched")
        for backend in backends:
            backend.incr("touched")
        pipe.multi()
        pipe.get("touched")
        expect_error("EXEC with a touched key", redis.WatchError, pipe.execute)


def scripts(client, backends):
    read = client.register_script("return redis.call('GET', KEYS[1])")
    expect("a script", read(keys=["greeting"]), "hello")
    pipe = client.pipeline()
    read(keys=["greeting"], client=pipe)
    expect("a script in a transaction", pipe.get("number").execute(), ["hello", "42"])
    second = client.script_load("return redis.call('LLEN', KEYS[1])")
    expect("SCRIPT EXISTS", client.script_exists(second, read.sha, "0" * 40), [True, True, False])
    expect("EVALSHA", client.evalsha(second, 1, "list"), 3)
    expect("EVAL", client.eval("return ARGV[1]", 0, "a"), "a")
    write = "return redis.call('SET', KEYS[1], 'bye')"
    expect_error("a script that writes", redis.ResponseError, lambda: client.eval(write, 1, "greeting"))
    for backend in backends:
        backend.function_load(FUNCTIONS, replace=True)
    expect("FCALL", client.fcall("read_one", 1, "greeting"), "hello")
    expect("the value after that", client.get("greeting"), "hello")


def long_transaction(client):
    pipe = client.pipeline()
    for _ in range(50_000):
        pipe.hgetall("hash")
    found = pipe.execute()
    hashes = [hash == {"name": "Ada", "role": "engineer"} for hash in found]
    expect("a long transaction", (len(hashes), all(hashes)), (50_000, True))


def refused(client):
    expect_error("SET", redis.exceptions.ReadOnlyError, lambda: client.set("greeting", "bye"))
    expect_error("DEL", redis.exceptions.ReadOnlyError, lambda: client.delete("greeting"))
    pipe = client.pipeline().get("greeting").set("greeting", "bye")
    expect_error("SET in a transaction", redis.exceptions.ReadOnlyError, pipe.execute)
    expect("the value after refused writes", client.get("greeting"), "hello")


def walks(client):
    keys = sorted(client.scan_iter("key:*", count=50))
    expect("SCAN", sorted(set(keys)), sorted(f"key:{number}" for number in range(1000)))
    expect("SCAN of a type", set(client.scan_iter(_type="stream")), {"stream"})
    names = {f"m{number}" for number in range(1000)}
    expect("HSCAN", {name for name, _ in client.hscan_iter("long:hash")}, names)
    expect("SSCAN", set(client.sscan_iter("long:set")), names)
    expect("ZSCAN", {name for name, _ in client.zscan_iter("long:zset")}, names)


def databases(port, protocol):
    client = redis.Redis(port=port, db=3, protocol=protocol, decode_responses=True, **TLS)
    expect("GET in database 3", client.get("greeting"), "hello from 3")
    client.select(0)
    client.close()


def messages(client, backends):
    def publish(channel, message):
        for backend in backends:
            backend.publish(channel, message)

    def next_message():
        message = pubsub.get_message(timeout=5)
        return message and (message["type"], message["pattern"], message["channel"], message["data"])

    pubsub = client.pubsub()
    pubsub.subscribe("news")
    expect("SUBSCRIBE", next_message(), ("subscribe", None, "news", 1))
    publish("news", "first")
    expect("a message", next_message(), ("message", None, "news", "first"))
    pubsub.psubscribe("ne?s")
    expect("PSUBSCRIBE", next_message(), ("psubscribe", None, "ne?s", 2))
    publish("news", "second")
    expect("a message", next_message(), ("message", None, "news", "second"))
    expect("a message by pattern", next_message(), ("pmessage", "ne?s", "news", "second"))
    pubsub.ping()
    # In RESP3 the form of this message is an invention of redis-py.
    expect("PING", next_message() is not None, True)
    pubsub.unsubscribe("news")
    expect("UNSUBSCRIBE", next_message(), ("unsubscribe", None, "news", 1))
    publish("news", "third")
    expect("a message by pattern alone", next_message(), ("pmessage", "ne?s", "news", "third"))
    pubsub.punsubscribe()
    expect("PUNSUBSCRIBE", next_message(), ("punsubscribe", None, "ne?s", 0))
    pubsub.close()
    expect("a read after that", client.get("greeting"), "hello")


def many_threads(port, protocol):
    options = {"connection_class": redis.SSLConnection, "ssl_ca_certs": CA} if CA else {}
    pool = redis.ConnectionPool(port=port, protocol=protocol, decode_responses=True, max_connections=20, **options)
    client = redis.Redis(connection_pool=pool)
    failures = []

    def read(thread):
        try:
            for number in range(thread, 1000, 20):
                expect(f"thread {thread}", client.get(f"key:{number}"), str(number))
            keys = set(client.scan_iter("key:*", count=200))
            expect(f"SCAN of thread {thread}", len(keys), 1000)
        except (Exception, SystemExit) as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect("twenty threads", failures, [])
    pool.disconnect()


def main():
    port, protocol = int(sys.argv[1]), int(sys.argv[3])
    backends = [redis.Redis(port=int(backend), protocol=2) for backend in sys.argv[2].split(",")]
    client = redis.Redis(port=port, protocol=protocol, client_name="reader", decode_responses=True, **TLS)
    every_type(client)
    connection(client, protocol)
    pipelines(client)
    transactions(client)
    touched(client, backends)
    scripts(client, backends)
    long_transaction(client)
    refused(client)
    walks(client)
    databases(port, protocol)
    messages(client, backends)
    many_threads(port, protocol)
    raw = redis.Redis(port=port, protocol=protocol, **TLS)
    expect("bytes", raw.get("binary"), b"\x00\xff\r\n$-1\r\n")


main()
