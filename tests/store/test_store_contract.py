"""What every `Container` promises: run against the memory twin, Azurite, and the faulty wrapper without a fault."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from cdc import store
from cdc.errors import BlobChanged, BlobExists, ContainerMissing
from cdc.memory_store import MemoryContainer
from cdc.store import PROBE_NAME, Container

T = TypeVar("T")
LINES = "application/x-ndjson"

VERBS: dict[str, Callable[[Container], object]] = {
    "read": lambda c: c.read("a"),
    "head": lambda c: c.head("a"),
    "create": lambda c: c.create("a", b"", content_type=LINES),
    "replace nothing": lambda c: c.replace("a", b"", etag=None, content_type=LINES),
    "replace something": lambda c: c.replace("a", b"", etag='"0x1"', content_type=LINES),
    "names": lambda c: c.names(""),
    "folders": lambda c: c.folders(""),
    "probe_write": lambda c: c.probe_write(),
}

ODD_NAMES = [
    "data/AccountChangeEvent/date=2026-11-23/000000000042.jsonl",
    "data/Order__ChangeEvent.json",
    "a b/c  d",
    " x ",
    "100%/a%20b/%2F",
    "q?u=e&r#y+~",
    "Ünïcödé/日本語/😀.json",
    "a:b@c;d,e'f\"g<h>|i*j$(k)[l]{m}^`",
    ".hidden/..x",
    "n" * 1024,
]

REFUSED_NAMES = [
    "", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a.", "a\\b", "a\nb", "\x7f", "\ud83d", "n" * 1025,
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_that_the_container_is_missing(absent: Container, verb: str) -> None:
    with pytest.raises(ContainerMissing) as caught:
        VERBS[verb](absent)
    assert absent.name in str(caught.value)
    assert caught.value.hint


def test_ensure_creates_the_container_once(absent: Container) -> None:
    assert absent.ensure() is True
    assert absent.ensure() is False


def test_of_16_concurrent_ensurers_exactly_one_creates(absent: Container) -> None:
    assert sum(at_once(16, lambda _: absent.ensure())) == 1


def test_a_missing_blob_is_a_value(container: Container) -> None:
    assert container.read("a/b") is None
    assert container.head("a/b") is None


def test_what_was_created_is_read_back(container: Container) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    metadata = {"first_replay_id": '"AAAA+/=="', "count": "7", "first_time": "2026-11-23T10:00:00.123Z"}
    container.create("a/b.jsonl", b"\x00\xff\n", metadata=metadata, content_type=LINES)
    blob = container.read("a/b.jsonl")
    assert blob is not None
    assert (blob.name, blob.body, blob.size, dict(blob.metadata)) == ("a/b.jsonl", b"\x00\xff\n", 3, metadata)
    assert blob.last_modified.utcoffset() == timedelta(0)
    assert blob.last_modified.microsecond == 0
    assert before < blob.last_modified < datetime.now(UTC) + timedelta(seconds=2)


def test_head_tells_the_same_without_the_content(container: Container) -> None:
    container.create("a", b"12345", metadata={"run_id": "r1"}, content_type=LINES)
    read, head = container.read("a"), container.head("a")
    assert read is not None
    assert head is not None
    assert (head.body, head.size) == (b"", 5)
    assert (head.etag, head.last_modified, head.metadata) == (read.etag, read.last_modified, read.metadata)


def test_an_empty_blob_is_a_blob(container: Container) -> None:
    container.create("empty", b"", content_type=LINES)
    blob = container.read("empty")
    assert blob is not None
    assert (blob.body, blob.size, dict(blob.metadata)) == (b"", 0, {})


def test_create_never_overwrites(container: Container) -> None:
    container.create("a", b"first", metadata={"run_id": "r1"}, content_type=LINES)
    with pytest.raises(BlobExists) as caught:
        container.create("a", b"second", content_type=LINES)
    assert "blob a in container" in str(caught.value)
    blob = container.read("a")
    assert blob is not None
    assert (blob.body, dict(blob.metadata)) == (b"first", {"run_id": "r1"})


def test_of_16_concurrent_creators_exactly_one_wins(container: Container) -> None:
    def create(number: int) -> int | None:
        try:
            container.create("race", str(number).encode(), content_type=LINES)
        except BlobExists:
            return None
        return number

    winners = [number for number in at_once(16, create) if number is not None]
    blob = container.read("race")
    assert blob is not None
    assert [str(number).encode() for number in winners] == [blob.body]


def test_replace_returns_the_etag_for_the_next_replace(container: Container) -> None:
    first = container.replace("a", b"1", etag=None, content_type=LINES)
    second = container.replace("a", b"22", etag=first, content_type=LINES)
    third = container.replace("a", b"333", etag=second, content_type=LINES)
    assert len({first, second, third}) == 3
    blob = container.read("a")
    assert blob is not None
    assert (blob.body, blob.etag) == (b"333", third)


def test_the_same_content_again_has_another_etag(container: Container) -> None:
    first = container.replace("a", b"1", etag=None, content_type=LINES)
    assert container.replace("a", b"1", etag=first, content_type=LINES) != first


def test_replace_takes_an_etag_that_head_gave(container: Container) -> None:
    container.create("a", b"1", metadata={"run_id": "r1"}, content_type=LINES)
    head = container.head("a")
    assert head is not None
    container.replace("a", b"2", etag=head.etag, content_type=LINES)
    blob = container.read("a")
    assert blob is not None
    assert (blob.body, dict(blob.metadata)) == (b"2", {})


def test_replace_refuses_an_old_etag(container: Container) -> None:
    old = container.replace("a", b"1", etag=None, content_type=LINES)
    container.replace("a", b"2", etag=old, content_type=LINES)
    with pytest.raises(BlobChanged):
        container.replace("a", b"3", etag=old, content_type=LINES)
    blob = container.read("a")
    assert blob is not None
    assert blob.body == b"2"


def test_replace_without_etag_refuses_an_existing_blob(container: Container) -> None:
    container.create("a", b"1", content_type=LINES)
    with pytest.raises(BlobChanged):
        container.replace("a", b"2", etag=None, content_type=LINES)


def test_replace_with_an_etag_refuses_a_missing_blob(container: Container) -> None:
    with pytest.raises(BlobChanged):
        container.replace("a", b"2", etag='"0x1"', content_type=LINES)
    assert container.names("") == []


def test_of_16_concurrent_replacers_exactly_one_wins(container: Container) -> None:
    etag = container.replace("race", b"", etag=None, content_type=LINES)

    def replace(number: int) -> int | None:
        try:
            container.replace("race", str(number).encode(), etag=etag, content_type=LINES)
        except BlobChanged:
            return None
        return number

    winners = [number for number in at_once(16, replace) if number is not None]
    blob = container.read("race")
    assert blob is not None
    assert [str(number).encode() for number in winners] == [blob.body]


def test_names_are_full_sorted_and_only_those_under_the_prefix(container: Container) -> None:
    for name in ("b/2", "b/10", "b", "a/1", "bb/1", "b/c/d", "B/1"):
        container.create(name, b"", content_type=LINES)
    assert container.names("") == ["B/1", "a/1", "b", "b/10", "b/2", "b/c/d", "bb/1"]
    assert container.names("b/") == ["b/10", "b/2", "b/c/d"]
    assert container.names("b/1") == ["b/10"]
    assert container.names("nothing/") == []


def test_names_can_be_bounded(container: Container) -> None:
    for number in range(5):
        container.create(f"a/{number}", b"", content_type="text/plain")
    assert container.names("a/", at_most=2) == ["a/0", "a/1"]
    assert len(container.names("a/", at_most=9)) == 5


def test_folders_are_the_next_level_only(container: Container) -> None:
    for name in ("x", "l/A/date=2026-11-23/1", "l/A/date=2026-11-24/1", "l/A/date=2026-11-24/2", "l/B/d/1", "l/c"):
        container.create(name, b"", content_type=LINES)
    assert container.folders("") == ["l/"]
    assert container.folders("l/") == ["l/A/", "l/B/"]
    assert container.folders("l/A/date=") == ["l/A/date=2026-11-23/", "l/A/date=2026-11-24/"]
    assert container.folders("l/A") == ["l/A/"]
    assert container.folders("nothing/") == []


def test_blobs_can_be_listed_from_a_name_on_without_their_content(container: Container) -> None:
    for name in ("l/a/1", "l/b/1", "l/b/2", "l/c/1", "m/a"):
        container.create(name, b"content", metadata={"count": name[2]}, content_type=LINES)
    found = container.from_name("l/", "l/b/1", at_most=2)
    assert [(blob.name, blob.metadata["count"], blob.size, blob.body) for blob in found] == [
        ("l/b/1", "b", 7, b""),
        ("l/b/2", "b", 7, b""),
    ]
    assert found[0] == container.head("l/b/1")
    assert [blob.name for blob in container.from_name("l/", "l/b/2", at_most=5)] == ["l/b/2", "l/c/1"]
    assert [blob.name for blob in container.from_name("l/", "l/b/11", at_most=1)] == ["l/b/2"]
    assert container.from_name("l/", "l/d", at_most=2) == []


def test_listings_go_on_past_the_first_page(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE_SIZE", 3)
    files = [f"p/{number:02}" for number in range(10)]
    folders = [f"p/{number:02}x/" for number in range(10)]
    for name in [*files, *(f"{folder}1" for folder in folders)]:
        container.create(name, b"", content_type=LINES)
    assert container.names("p/") == sorted([*files, *(f"{folder}1" for folder in folders)])
    assert container.folders("p/") == folders


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_kept_letter_for_letter(container: Container, name: str) -> None:
    container.create(name, b"x", content_type=LINES)
    blob = container.read(name)
    assert blob is not None
    assert blob.name == name
    assert container.names("") == [name]
    assert container.names(name[:1]) == [name]


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_names_that_storage_would_change_are_refused_by_every_verb(container: Container, name: str) -> None:
    for act in (
        lambda: container.read(name),
        lambda: container.head(name),
        lambda: container.create(name, b"", content_type=LINES),
        lambda: container.replace(name, b"", etag=None, content_type=LINES),
    ):
        with pytest.raises(ValueError, match="not a blob name"):
            act()
    assert container.names("") == []


@pytest.mark.parametrize(
    ("key", "value"), [("Run", "x"), ("run-id", "x"), ("", "x"), ("a", ""), ("a", " x"), ("a", "é")]
)
def test_metadata_that_headers_would_change_is_refused(container: Container, key: str, value: str) -> None:
    with pytest.raises(ValueError, match="not blob metadata"):
        container.create("a", b"", metadata={key: value}, content_type=LINES)
    assert container.names("") == []


def test_the_caller_may_reuse_what_it_handed_over(container: Container) -> None:
    body, metadata = bytearray(b"abc"), {"run_id": "r1"}
    container.create("a", body, metadata=metadata, content_type=LINES)  # type: ignore[arg-type]
    body[:] = b"xyz"
    metadata["run_id"] = "r2"
    blob = container.read("a")
    assert blob is not None
    assert (blob.body, dict(blob.metadata)) == (b"abc", {"run_id": "r1"})


def test_probe_write_leaves_nothing_behind(container: Container) -> None:
    container.probe_write()
    assert container.names("") == []


def test_probe_ensure_creates_no_container(absent: Container) -> None:
    absent.probe_ensure()
    with pytest.raises(ContainerMissing):
        absent.names("")


def test_probe_write_harms_no_blob_of_its_name(container: Container) -> None:
    container.create(PROBE_NAME, b"mine", content_type=LINES)
    container.probe_write()
    blob = container.read(PROBE_NAME)
    assert blob is not None
    assert blob.body == b"mine"
    assert container.ensure() is False


def test_40_megabytes_come_back_whole(container: Container) -> None:
    body = bytes(range(256)) * (40 * 1024 * 4)
    container.create("large", body, content_type=LINES)
    blob = container.read("large")
    assert blob is not None
    assert blob.body == body


def test_a_repr_names_the_container_and_shows_no_content(container: Container) -> None:
    container.create("a", b"confidential", content_type=LINES)
    assert "confidential" not in repr(container.read("a"))


def test_the_memory_twin_dates_writes_by_its_clock() -> None:
    container = MemoryContainer(clock=lambda: datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC))
    container.ensure()
    container.create("a", b"", content_type=LINES)
    head = container.head("a")
    assert head is not None
    assert head.last_modified == datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """Run the act in that many threads that start together."""
    together = threading.Barrier(count)

    def one(number: int) -> T:
        together.wait(30)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
