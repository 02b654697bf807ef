"""The data of the scenes, and the regular clients that read the small part of it."""

from .load import EMPTY, NIL, Operation, Request, array, bulk

SMALL_KEYS, USERS = 1000, 100
PAUSE_SECONDS = 0.004

# Lua scripts that make large values. Their numbers are shuffled, so that sorting them takes time.
BIG_LIST = "for i = 1, %d do redis.call('RPUSH', '%s', (i * 7919 + %d) %% 1500007) end"
BIG_HASH = "for i = 1, %d do redis.call('HSET', '%s', 'field:' .. i, i * 7919 %% 1000003) end"
BIG_SET = "for i = 1, %d do redis.call('SADD', '%s', 'member:' .. (i + %d)) end"
BIG_SORTED_SET = "for i = 1, %d do redis.call('ZADD', '%s', i * 7919 %% 1000003, 'member:' .. (i + %d)) end"
MANY_STRINGS = "for i = 1, %d do redis.call('SET', 'many:' .. i, i) end"


def user(number):
    return {"name": f"user {number}", "born": str(1900 + number), "town": f"town {number % 7}"}


def user_words(number):
    return [word for pair in user(number).items() for word in pair]


def small_data():
    """The commands that make the small data."""
    strings = [("SET", f"key:{n}", f"value {n}") for n in range(1, SMALL_KEYS + 1)]
    return strings + [("HSET", f"user:{n}", *user_words(n)) for n in range(1, USERS + 1)]


def gets(length=1):
    """Pipelines of so many GETs."""
    return [
        Operation(
            f"{length} GET",
            [("GET", f"key:{n}") for n in range(first, first + length)],
            [(bulk(f"value {n}"), NIL) for n in range(first, first + length)],
        )
        for first in range(1, SMALL_KEYS - length + 2)
    ]


def hashes():
    return [
        Operation("HGETALL", [("HGETALL", f"user:{n}")], [(array(user_words(n)), EMPTY)]) for n in range(1, USERS + 1)
    ]


def requests():
    strings = [Request("GET /key", f"/key:{n}", f"value {n}") for n in range(1, SMALL_KEYS + 1)]
    return strings + [Request("GET /user", f"/user:{n}", user(n)) for n in range(1, USERS + 1)]


def regular_clients(http=0):
    """One group: six clients with GET, one with pipelines of four, one with HGETALL, and some over HTTP."""
    kinds = [gets()] * 6 + [gets(4), hashes()] + [requests()] * http
    return [[(operations, PAUSE_SECONDS) for operations in kinds]]
