"""Answers, records and metadata as they really come, and what an enemy, or a bad line, makes of them."""

from __future__ import annotations

import json
import random

HEADER = (
    '{"entityName":"Account","recordIds":["001Rj00000ABCdEIAX"],"changeType":"UPDATE","changeOrigin":"com/salesforce",'
    '"transactionKey":"0002343d-9d90-e395-ed20-cf416ba652ad","sequenceNumber":1,"commitTimestamp":1795435200000,'
    '"commitNumber":10741208736,"commitUser":"005Rj000001xyzAIAQ","nulledFields":[],"diffFields":[],'
    '"changedFields":["Name","LastModifiedDate"]}'
)
EVENT = (
    '{"data":{"schema":"IeRuaY6cbI_HsV8Rv1Mc5g","payload":{"ChangeEventHeader":%s,"Name":"Ac\\u00e9me \u00fc",'
    '"AnnualRevenue":1.5E9,"Id18":9007199254740993},"event":{"replayId":6421}},"channel":"/data/AccountChangeEvent"}'
).replace("%s", HEADER)
PLATFORM_EVENT = (
    '{"data":{"schema":"x","payload":{"CreatedDate":"2026-11-23T12:00:00.000Z","CreatedById":"005"},'
    '"event":{"replayId":"abc"}},"channel":"/event/Order_Placed__e"}'
)
CONNECTED = '{"clientId":"1q1ib66fvm7kli1gfoauu95i78g","channel":"/meta/connect","id":"7","successful":true}'
REFUSED = (
    '{"channel":"/meta/connect","id":"6","error":"401::Authentication invalid","successful":false,"ext":{"sfdc":'
    '{"failureReason":"503::Server is too busy.  Please try your request again later."}},"clientId":"b1unwa43",'
    '"advice":{"reconnect":"none","interval":0,"timeout":110000,"multiple-clients":true}}'
)
SUBSCRIBED = (
    '{"clientId":"1q1ib","channel":"/meta/subscribe","id":"3","subscription":"/data/AccountChangeEvent",'
    '"error":"400::The replayId {82} you provided was invalid.","successful":false}'
)
ANSWERS = tuple(
    text.encode()
    for text in (
        f"[{EVENT},{CONNECTED}]",
        f"[{CONNECTED},{PLATFORM_EVENT},{EVENT}]",
        f"[{REFUSED}]",
        f'[{{"channel":"/meta/disconnect"}},{SUBSCRIBED}]',
        CONNECTED,
        f"[\n  {EVENT} ,\r\n  {CONNECTED}\n]",
        f"[{EVENT.replace('Name', 'N' + chr(0x1F600)).replace('1.5E9', 'NaN')},{CONNECTED}]",
        "[" + EVENT.replace("Acme", "\\ud83d") + "]",
    )
)
GENERATION = {
    "format": 1,
    "channel": "/data/AccountChangeEvent",
    "orgId": "00DRj000004kniQMAQ",
    "runId": "20261123T120000Z-0a1b2c3d",
    "number": 2,
    "cause": "replay-refused",
    "start": "-2",
    "t0": "2026-11-23T12:00:00Z",
    "afterSegment": 41,
    "partition": "2026-11-23",
    "userId": "005Rj000001xyzAIAQ",
    "mayRepeatEarlierEvents": True,
}
SHARED = {name: GENERATION[name] for name in ("format", "channel", "orgId", "runId")}
GAP = SHARED | {
    "number": 2,
    "cause": "outage",
    "afterSegment": 41,
    "afterReplayId": "6421",
    "since": None,
    "until": "2026-11-23T12:00:00Z",
    "detected": "2026-11-23T12:00:00Z",
    "start": "stop",
}
TURN = SHARED | {"number": 42, "partition": "2026-11-23"}
CHECKPOINT = SHARED | {
    "segment": 42,
    "partition": "2026-11-23",
    "replayId": "6421",
    "lastTime": "2026-11-23T12:00:00.123Z",
    "generation": GENERATION,
    "skippedTo": None,
    "quietTo": None,
    "written": "2026-11-23T12:00:01Z",
}
RUN = {
    "format": 1,
    "group": "capture1",
    "runId": "20261123T120000Z-0a1b2c3d",
    "outcome": "ok",
    "started": "2026-11-23T12:00:00Z",
    "finished": "2026-11-23T12:04:20Z",
    "cleanPolls": {"/data/AccountChangeEvent": "2026-11-23T12:04:19Z"},
    "errors": [],
}
RECORDS = tuple(json.dumps(record).encode() for record in (GENERATION, GAP, TURN, CHECKPOINT, RUN))
METADATA = {
    "first_replay_id": "6400",
    "last_replay_id": '"abc"',
    "count": "22",
    "first_time": "2026-11-23T12:00:00.000Z",
    "last_time": "2026-11-23T12:00:01.000Z",
    "generation": "2",
    "run_id": "20261123T120000Z-0a1b2c3d",
    "org_id": "00DRj000004kniQMAQ",
    "sha256": "0" * 64,
}

# What breaks parsers: put in, or in the place of a value.
SPLINTERS = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\n", b"\r", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"),
    *(b"\xef\xbb\xbf", b"\\ud83d", b"\\udc00", b"\\u0000", b"\xe2\x80\xa8", b"null", b"true", b"NaN", b"-Infinity"),
    *(
        b"-1",
        b"-2",
        b"-1.0",
        b"-2e0",
        b"1e400",
        b"-0",
        b"007",
        b"9" * 30,
        b"9" * 5_000,
        b"1e-99999",
        b'"-1"',
        b'" -2 "',
    ),
    *(b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"10000-01-01", b"253402300800000", b"[" * 3_000),
    *(
        b'{"a":' * 3_000,
        b"[]",
        b"{}",
        b'"/meta/connect"',
        b'"/data/../../x"',
        b'"channel":"/meta/handshake"',
        b" " * 99,
    ),
)


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A few mutations of a seed: bytes flipped, cut, doubled, swapped; splinters put in."""
    body = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        at, to = sorted(chance.randint(0, len(body)) for _ in range(2))
        match chance.randrange(7):
            case 0 if body:
                body[min(at, len(body) - 1)] = chance.randrange(256)
            case 1:
                del body[at : min(to, at + 40)]
            case 2:
                body[at:at] = body[at : min(to, at + 200)]
            case 3:
                body[at : at + chance.randint(0, 20)] = chance.choice(SPLINTERS)
            case 4:
                body[at:at] = chance.choice(SPLINTERS)
            case 5:
                del body[at:]
            case 6:
                other = chance.choice(ANSWERS)
                body[at:to] = other[chance.randrange(len(other)) :]
    return bytes(body)
